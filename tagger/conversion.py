"""The originals' weights -> our models, strictly: every array used, every shape equal.

Today: resemul's sample-level CNNs (Keras 2 `.hdf5`, whole models or weights alone, or
`.npz` under the same names). The model's options are read from the arrays' shapes.
"""

import os
import re
from collections.abc import Iterator

import keras
import numpy as np

from tagger import models
from tagger.models.sample_cnn import NUM_BLOCKS, sample_cnn

LEGACY_ENDINGS = (".hdf5", ".h5")


def load_model(path: str | os.PathLike) -> keras.Model:
    """Reads a model file: `.keras`, or a legacy `.hdf5` of the original project.

    A legacy model holds no tags; its rate and window are the paper's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no model we know.
    """
    if str(path).endswith(LEGACY_ENDINGS):
        return convert_sample_cnn(read_keras2_hdf5(path))
    return models.load_model(path)


def read_keras2_hdf5(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the weights of a Keras 2 file: `conv1d_1/kernel:0` … -> array.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no Keras 2 file.
    """
    import h5py

    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    try:
        with h5py.File(path) as file:
            group = file.get("model_weights", file)
            weights = {}
            for layer in map(_text, group.attrs["layer_names"]):
                for name in map(_text, group[layer].attrs["weight_names"]):
                    weights[name] = np.asarray(group[layer][name])
    except (OSError, KeyError) as error:
        raise ValueError(
            f"{str(path)!r} is no Keras 2 model file ({error})."
        ) from error
    return _number_from_one(weights)


def convert_sample_cnn(weights: dict[str, np.ndarray]) -> keras.Model:
    """Builds the sample-level CNN that resemul's weights belong to and loads them.

    Args:
        weights: Arrays under the original's names, layers counted from 1.

    Raises:
        ValueError: an array is missing, left over or of another shape; both sides are
            listed.
    """
    model = sample_cnn(**_sample_cnn_options(weights))
    targets = {}
    for source, layer in _sample_cnn_table(model):
        for weight in layer.weights:
            targets[f"{source}/{weight.name}:0"] = weight
    _check(weights, {name: tuple(weight.shape) for name, weight in targets.items()})
    for name, weight in targets.items():
        weight.assign(weights[name])
    return model


def _sample_cnn_options(weights: dict[str, np.ndarray]) -> dict:
    """Reads the factory's options from names and shapes."""
    try:
        stem = weights["conv1d_1/kernel:0"]
        num_convs = sum(name.startswith("conv1d_") for name in weights) // 2
        num_dense = sum(name.startswith("dense_") for name in weights) // 2
        gated, residual = num_dense > 2, num_convs > 1 + NUM_BLOCKS
        squeeze = weights["dense_1/kernel:0"]
        head = weights[f"dense_{num_dense - 1}/kernel:0"]
        scores = weights[f"dense_{num_dense}/kernel:0"]
    except KeyError as error:
        raise ValueError(
            f"These weights are no sample-level CNN of resemul: there is no {error},"
            f" only {', '.join(sorted(weights)[:5])} …"
        ) from error
    num_filters = stem.shape[-1]
    return {
        "num_tags": scores.shape[1],
        "block": {
            (False, False): "basic",
            (True, False): "se",
            (False, True): "res",
            (True, True): "rese",
        }[gated, residual],
        # The last block has 4 · num_filters channels, the two before it 2 · num_filters
        # each.
        "multi": head.shape[0] == 8 * num_filters,
        "alpha": squeeze.shape[1] / squeeze.shape[0] if gated else 16,
        "num_filters": num_filters,
    }


def _sample_cnn_table(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Layer of resemul -> ours, in the order in which its code made them."""
    count = dict.fromkeys(("conv1d", "batch_normalization", "dense"), 0)

    def next_of(kind: str, layer: keras.layers.Layer) -> tuple[str, keras.layers.Layer]:
        count[kind] += 1
        return f"{kind}_{count[kind]}", layer

    ours = {layer.name: layer for layer in model.layers}
    names = ["stem"]
    for i in range(1, NUM_BLOCKS + 1):
        parts = (f"block{i}_shortcut", f"block{i}", f"block{i}_1", f"block{i}_2")
        names += [part for part in parts if f"{part}_conv" in ours] + [f"block{i}"]
    for name in dict.fromkeys(names):
        if f"{name}_conv" in ours:
            yield next_of("conv1d", ours[f"{name}_conv"])
            yield next_of("batch_normalization", ours[f"{name}_norm"])
        if f"{name}_excitation" in ours:
            yield next_of("dense", ours[f"{name}_excitation"].squeeze)
            yield next_of("dense", ours[f"{name}_excitation"].excite)
    yield next_of("dense", ours["head_dense"])
    yield next_of("batch_normalization", ours["head_norm"])
    yield next_of("dense", ours["head_scores"])


def _check(weights: dict[str, np.ndarray], wanted: dict[str, tuple[int, ...]]) -> None:
    given = {name: array.shape for name, array in weights.items()}
    if given == wanted:
        return
    differing = [
        f"{name}: file {given.get(name, 'lacks it')}, model"
        f" {wanted.get(name, 'has no such')}"
        for name in sorted(given.keys() | wanted.keys())
        if given.get(name) != wanted.get(name)
    ]
    raise ValueError("Weights and model do not fit:\n  " + "\n  ".join(differing))


def _number_from_one(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames layers so that each kind counts from _1, as in a fresh Keras 2 session.

    A file saved later in a session counts from where the session stood.
    """
    layers = dict.fromkeys(name.rsplit("/", 1)[0] for name in weights)
    kinds = {}
    for layer in layers:
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", layer).groups()
        kinds.setdefault(kind, []).append((int(number or 0), layer))
    renamed = {
        layer: f"{kind}_{position}"
        for kind, numbered in kinds.items()
        for position, (_, layer) in enumerate(sorted(numbered), start=1)
    }
    return {
        f"{renamed[name.rsplit('/', 1)[0]]}/{name.rsplit('/', 1)[1]}": array
        for name, array in weights.items()
    }


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
