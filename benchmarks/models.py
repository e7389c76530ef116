"""Compares the examples per second of every model with those of its original.

    python benchmarks/models.py --originals DIR
    KERAS_BACKEND=jax python benchmarks/models.py --batch-size 64 --precision both

forward  scores of one batch of segments
train    one step of Adam on binary cross-entropy, on one batch

DIR holds checkouts of the originals, each in a folder named after its repository (see
ORIGINALS); they need torch, torchaudio, librosa and einops. Our model and the original
take turns, `--repeats` times, in one process on the same batch. Figures are medians;
`ratio` is ours divided by the original's. If the original reads log-mel features, our
model is given them too. On an accelerator the table also shows the share of the
device's matrix-multiplication rate, measured in the same run at the same precision.
Writes models.json.
"""

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tagger import cli, storage

# our name -> (repository, folder, module), class, arguments of the class
SOTA = ("sota-music-tagging-models", "training", "model")
MTSA = ("self-attention-music-tagging", "training", "model")
ORIGINALS = {
    "sample_cnn_lee": (SOTA, "SampleCNN", {}),
    "sample_cnn_se_won2020": (SOTA, "SampleCNNSE", {}),
    "multi_scale_cnn": (("Multi-Scale-Music-Tagger", ".", "mscnn"), "MSCNN", {}),
    "self_attention": (MTSA, "MTSA", {"is_cuda": False, "attention_dropout": 0.4}),
    "music_tagging_transformer": (
        ("semi-supervised-music-tagging-transformer", "src", "models"),
        "MusicTaggingTransformer",
        {"conv_ndim": 128, "n_seq_cls": 50},
    ),
    "short_chunk_cnn": (SOTA, "ShortChunkCNN", {}),
    "short_chunk_resnet": (SOTA, "ShortChunkCNN_Res", {}),
    "fcn": (SOTA, "FCN", {}),
    "crnn": (SOTA, "CRNN", {}),
    "musicnn": (SOTA, "Musicnn", {}),
    "cnn_self_attention": (SOTA, "CNNSA", {}),
    "harmonic_cnn": (SOTA, "HarmonicCNN", {}),
}
TRANSFORMER = ORIGINALS["music_tagging_transformer"][0]
READS_FEATURES = ("multi_scale_cnn", "self_attention")
NUM_TAGS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", help="comma-separated (default: all)")
    add("--originals", type=Path, metavar="DIR", help="checkouts of the originals")
    add("--batch-size", type=int, default=4)
    add("--repeats", type=int, default=5)
    add("--precision", choices=["float32", "bfloat16", "both"], default="float32")
    add("--output", default="models.json")
    args = parser.parse_args()

    import keras

    from tagger import models

    if keras.backend.backend() == "tensorflow":
        storage.load_tensorflow()
    names = args.models.split(",") if args.models else list(models.MODELS)
    precisions = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
    if args.precision != "both":
        precisions = {args.precision: precisions[args.precision]}
    devices = keras.distribution.list_devices()
    rates = {p: matrix_rate(p) for p in precisions} if "cpu" not in devices[0] else {}
    for precision, rate in rates.items():
        print(f"{devices[0]}: {rate / 1e12:.1f} TFLOP/s of {precision} matrices")
    print(
        f"{'model':28}{'precision':10}{'forward/s':>10}{'original':>10}{'ratio':>7}"
        f"{'train/s':>10}{'original':>10}{'ratio':>7}{'share':>7}"
    )
    rows = []
    for name in names:
        for precision, policy in precisions.items():
            keras.config.set_dtype_policy(policy)
            ways = our_ways(name, args.batch_size)
            if args.originals and name in ORIGINALS and precision == "float32":
                ways |= original_ways(name, args.originals, args.batch_size)
            row = {"model": name, "precision": precision} | measure(
                ways, args.batch_size, args.repeats
            )
            if precision in rates:
                flops = 2 * multiply_adds(models.build_model(name))
                row["share"] = row["forward"] * flops / rates[precision]
            rows.append(row)
            print(line(row), flush=True)
            keras.backend.clear_session()
    Path(args.output).write_text(json.dumps(rows, indent=1) + "\n")


def line(row: dict) -> str:
    def number(key: str, width: int, digits: int = 2) -> str:
        return f"{row[key]:{width}.{digits}f}" if key in row else f"{'–':>{width}}"

    for way in ("forward", "train"):
        if f"original_{way}" in row:
            row[f"{way}_ratio"] = row[way] / row[f"original_{way}"]
    return (
        f"{row['model']:28}{row['precision']:10}"
        + "".join(
            number(way, 10) + number(f"original_{way}", 10) + number(f"{way}_ratio", 7)
            for way in ("forward", "train")
        )
        + number("share", 7, 3)
    )


def measure(ways: dict[str, Callable], batch_size: int, repeats: int) -> dict:
    """Returns examples per second of each way; they take turns after a warm-up."""
    seconds = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: batch_size / statistics.median(s) for name, s in seconds.items()}


def our_ways(name: str, batch_size: int) -> dict[str, Callable]:
    import keras

    from tagger import models

    keras.utils.set_random_seed(0)
    model = models.build_model(name)
    if name in READS_FEATURES:
        model = models.feature_network(model)
    model.compile(keras.optimizers.Adam(1e-4), loss="binary_crossentropy")
    x, y = batch((batch_size, *model.input_shape[1:]), batch_size)
    return {
        "forward": lambda: np.asarray(model.predict_on_batch(x)),
        "train": lambda: model.train_on_batch(x, y),
    }


def batch(shape: tuple[int, ...], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    x = random.standard_normal(shape).astype(np.float32) * 0.1
    return x, (random.uniform(size=(batch_size, NUM_TAGS)) < 0.1).astype(np.float32)


def original_ways(name: str, directory: Path, batch_size: int) -> dict[str, Callable]:
    import torch

    from tagger import models

    clip_pools()
    (repository, folder, module), class_name, options = ORIGINALS[name]
    found = load_module((directory / repository).resolve(), folder, module)
    network = getattr(found, class_name)(**options)
    entry = models.MODELS[name]
    shape = (batch_size, entry.facts.num_samples)
    if name in READS_FEATURES:
        preset = models.presets.PRESETS[entry.facts.frontend]
        shape = (batch_size, preset.n_mels, preset.num_frames(entry.facts.num_samples))
    if name == "multi_scale_cnn":
        shape = (batch_size, 1, *shape[1:])
    x, y = map(torch.from_numpy, batch(shape, batch_size))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    loss = torch.nn.BCELoss()

    def scores():
        # MSCNN returns logits
        output = network(x)
        return torch.sigmoid(output) if name == "multi_scale_cnn" else output

    def forward() -> None:
        network.eval()
        with torch.no_grad():
            scores()

    def train() -> None:
        network.train()
        optimizer.zero_grad()
        loss(scores(), y).backward()
        optimizer.step()

    return {"original_forward": forward, "original_train": train}


def load_module(repository: Path, folder: str, module: str):
    """Imports an original, then unloads its modules, because their names clash."""
    known = set(sys.modules)
    ours = sys.modules.pop(module, None)
    # Not from this folder, whose training.py would hide theirs.
    before, own = sys.path[:], str(Path(__file__).resolve().parent)
    # Modules of a checkout import each other by plain names, or as a package.
    for root, path in (
        (repository / folder, module),
        (repository, f"{folder}.{module}"),
    ):
        sys.path[:] = [str(root), *(entry for entry in before if entry != own)]
        try:
            return importlib.import_module(path)
        except ImportError as error:
            failure = error
        finally:
            sys.path[:] = before
            for name in set(sys.modules) - known:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if file.startswith(str(repository)) or name == folder:
                    del sys.modules[name]
            if ours:
                sys.modules[module] = ours
    raise failure


def clip_pools() -> None:
    """Allows pools larger than their input, as PyTorch 1.0 did and originals need."""
    import torch

    def clipped(kind: type, num_axes: int) -> type:
        class Pool(kind):
            def forward(self, x):
                kept = self.kernel_size, self.stride
                sizes = np.minimum(
                    np.broadcast_to(self.kernel_size, num_axes), x.shape[-num_axes:]
                )
                self.kernel_size = self.stride = tuple(map(int, sizes))
                try:
                    return super().forward(x)
                finally:
                    self.kernel_size, self.stride = kept

        return Pool

    for name in ("MaxPool1d", "AvgPool1d", "MaxPool2d", "AvgPool2d"):
        setattr(torch.nn, name, clipped(getattr(torch.nn, name), int(name[-2])))


def matrix_rate(precision: str, size: int = 8192) -> float:
    """Returns the operations per second of multiplying two square matrices."""
    import keras
    from keras import ops

    matrix = ops.ones((size, size), dtype=precision)

    @compiled
    def product(a, b):
        return ops.matmul(a, b)

    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        result = product(matrix, matrix)
        float(keras.ops.convert_to_numpy(result[0, 0]))
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])


def compiled(function: Callable) -> Callable:
    """Compiles a function for JAX; the other backends run it as it is."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def multiply_adds(model) -> int:
    """Counts those of one example: convolutions, dense, recurrent, attention layers."""
    from keras import layers

    from tagger.models.layers import SelfAttention

    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.Conv1D | layers.Conv2D | layers.Dense):
            positions = int(np.prod(layer.output.shape[1:-1]))
            total += positions * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, layers.GRU):
            kernels = (layer.cell.kernel, layer.cell.recurrent_kernel)
            total += layer.input.shape[1] * sum(int(np.prod(k.shape)) for k in kernels)
        elif isinstance(layer, SelfAttention):
            _, length, channels = layer.input.shape
            total += 4 * length * channels**2 + 2 * length**2 * channels
    return total


if __name__ == "__main__":
    cli.run(main)
