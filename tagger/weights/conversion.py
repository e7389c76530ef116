"""The originals' weights -> our models, strictly: every array used, every shape equal.

`readers` turns a file into arrays under the original names, `tables` says which of them
is which weight of ours and reads the model's options from their shapes.
"""

import functools
import os
import re
from collections.abc import Callable

import keras
import numpy as np

from tagger import models
from tagger.weights.readers import Weights, read_weights
from tagger.weights.tables import COMPUTED, FIXED, IGNORED, TABLES

LEGACY_ENDINGS = (".hdf5", ".h5")


def load_model(path: str | os.PathLike) -> keras.Model:
    """Reads a model file: `.keras`, or a legacy `.hdf5` of the original project.

    A legacy model holds no tags; its rate and window are the paper's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no model we know.
    """
    if str(path).endswith(LEGACY_ENDINGS):
        return convert(read_weights(path), "sample_cnn")
    if str(path).endswith(".onnx") and os.path.isfile(path):
        raise ValueError(
            f"{str(path)!r} is an exported model, which does nothing but tag (python -m"
            " tagger tag). Give the .keras file that it was made of."
        )
    return models.load_model(path)


def convert(weights: Weights, name: str, **options) -> keras.Model:
    """Builds the model that an original's weights belong to and gives it them.

    Args:
        weights: Arrays under the original's names (`read_weights`); Keras 2 layers
            counted from 1.
        name: Key of `models.MODELS`.
        options: Of the factory, where names and shapes do not tell: tags, num_heads
            (default 8), and what shall be other than the arrays say.

    Raises:
        ValueError: the name is unknown, or an array is missing, left over or of another
            shape; both sides are listed.
    """
    if name not in TABLES:
        raise ValueError(f"Unknown model {name!r}. Choose one of: {', '.join(TABLES)}.")
    shapes = {source: array.shape for source, array in weights.items()}
    some = ", ".join(sorted(weights)[:5])
    try:
        inferred, rows = TABLES[name](shapes)
    except KeyError as error:
        raise ValueError(
            f"These weights are no {name}: there is no {error}, only {some} …"
        ) from error
    except (IndexError, ValueError) as error:
        raise ValueError(
            f"These weights are no {name}: {some} … have other shapes."
        ) from error
    for key in ("front_end", "back_end"):
        if inferred.get(key) != options.get(key, inferred.get(key)):
            raise ValueError(
                f"These weights have the {key} {inferred[key]!r}, not {options[key]!r}."
            )
    model = models.build_model(name, **inferred | options)

    problems, used, filled = [], set(), set()
    for sources, target, turn in rows:
        weight = _weight(model, target)
        filled.add(id(weight))
        used.update(sources)
        missing = [source for source in sources if source not in weights]
        if missing and target in COMPUTED:
            continue
        expected = f"{tuple(weight.shape)} ({target})" if weight is not None else "none"
        if missing:
            problems += [f"{s}: file lacks it, model {expected}" for s in missing]
            continue
        arrays = [weights[source] for source in sources]
        turned = _turned(turn, arrays)
        if weight is None or turned is None or turned.shape != tuple(weight.shape):
            held = " and ".join(str(array.shape) for array in arrays)
            problems.append(f"{' and '.join(sources)}: file {held}, model {expected}")
            continue
        weight.assign(turned)
    problems += [
        f"{source}: file {shapes[source]}, model has no such"
        for source in weights.keys() - used
        if not any(re.fullmatch(pattern, source) for pattern in IGNORED)
    ]
    filled.update(id(_weight(model, target)) for target in COMPUTED + FIXED)
    problems += [
        f"{weight.path}: file has none, model {tuple(weight.shape)}"
        for weight in model.weights
        if id(weight) not in filled
    ]
    if problems:
        listed = "\n  ".join(sorted(problems))
        raise ValueError(f"Weights and model {name} do not fit:\n  {listed}")
    return model


def _weight(model: keras.Model, target: str):
    """The variable `layer.attribute…`; None where the model has no such."""
    layer, *attributes = target.split(".")
    try:
        return functools.reduce(getattr, attributes, model.get_layer(layer))
    except (ValueError, AttributeError):
        return None


def _turned(turn: Callable, arrays: list[np.ndarray]) -> np.ndarray | None:
    """The arrays as the model has them; None where their shape forbids it."""
    try:
        return turn(*arrays)
    except (ValueError, IndexError):
        return None
