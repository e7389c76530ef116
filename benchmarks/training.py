"""Training steps per second of full-size models, on exported segments, without records.

    python benchmarks/training.py --export --data-dir dataset
    KERAS_BACKEND=jax python benchmarks/training.py --precision mixed_bfloat16

With --export it writes whole train segments of a data folder (built at 22050 Hz) as
.npy, for a machine that has no TensorFlow. Without, it trains an SE sample-level CNN
and the Transformer on them from memory and prints examples per second and, on JAX, the
share of the rate at which the same device multiplies matrices (a step is counted as
three forward passes, whose operations XLA counts). Writes training.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from tagger import cli

MODELS = {
    "sample_cnn": {"block": "se"},
    "music_tagging_transformer": {"size": "teacher"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--export", action="store_true", help="write the segments, train nothing")
    add("--data-dir", default="./dataset")
    add("--arrays", default="arrays", help="folder of the .npy files")
    add("--max-segments", type=int, default=200)
    add("--batch-size", type=int, default=64)
    add("--num-steps", type=int, default=50)
    add("--precision", default="float32")
    add("--output", default="training.json")
    args = parser.parse_args()
    if args.export:
        export(args)
        return
    results = {name: measure(args, name, options) for name, options in MODELS.items()}
    content = {"arguments": vars(args), "results": results}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


def export(args) -> None:
    cli.load_tensorflow()
    from tagger import inputs, models, records

    shards = inputs.open_shards(args.data_dir)
    for name in MODELS:
        window = records.Window(models.entry(name).num_samples)
        folder = Path(args.arrays) / name
        for path in inputs.export_arrays(
            shards, "train", window, folder, args.max_segments
        ):
            print(path)


def measure(args, name: str, options: dict) -> dict:
    import keras

    from tagger import devices, models

    folder = Path(args.arrays) / name
    segments = np.load(folder / "train_segments.npy")
    labels = np.load(folder / "train_labels.npy").astype(np.float32)
    with devices.precision(args.precision):
        model = models.build_model(name, num_tags=labels.shape[1], **options)
        fed = models.fed_with(model, str(segments.dtype))
        fed.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy")
    rng = np.random.default_rng(0)
    picks = rng.integers(len(segments), size=(args.num_steps + 2, args.batch_size))
    for pick in picks[:2]:  # compiles
        fed.train_on_batch(segments[pick], labels[pick])
    started = time.perf_counter()
    losses = [fed.train_on_batch(segments[p], labels[p]) for p in picks[2:]]
    seconds = time.perf_counter() - started
    result = {
        "examples_per_second": args.num_steps * args.batch_size / seconds,
        "last_loss": float(losses[-1]),
        "devices": keras.distribution.list_devices(),
    }
    if keras.backend.backend() == "jax":
        operations = 3 * forward_operations(model, args.batch_size) * args.num_steps
        result["operations_per_second"] = operations / seconds
        result["share_of_matrix_rate"] = operations / seconds / matrix_rate()
    print(name, json.dumps(result))
    return result


def forward_operations(model, batch_size: int) -> float:
    import jax

    def forward(waveforms):
        return model(waveforms, training=False)

    shape = jax.ShapeDtypeStruct((batch_size, model.input_shape[1]), "float32")
    cost = jax.jit(forward).lower(shape).compile().cost_analysis()
    return cost["flops"]


def matrix_rate(size: int = 4096) -> float:
    """Operations per second of a product of bfloat16 matrices."""
    import jax
    import jax.numpy as jnp

    one = jnp.ones((size, size), jnp.bfloat16)
    product = jax.jit(lambda a, b: a @ b)
    product(one, one).block_until_ready()
    started = time.perf_counter()
    for _ in range(10):
        result = product(one, one)
    result.block_until_ready()
    return 10 * 2 * size**3 / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
