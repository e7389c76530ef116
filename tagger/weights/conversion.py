"""Converts the original projects' weights to our models.

The conversion is strict: every array must be used, and every shape must match.
`readers` reads a file into arrays under their original names. `tables` maps the arrays
to our weights and infers the model's options from their shapes.
"""

import functools
import re
from collections.abc import Callable

import keras
import numpy as np

from tagger import models
from tagger.text import TaggerError
from tagger.weights.readers import Weights
from tagger.weights.tables import COMPUTED, FIXED, IGNORED, TABLES


def convert(weights: Weights, name: str, **options) -> keras.Model:
    """Builds a model and assigns an original project's weights to it.

    Args:
        weights: Arrays under their original names, see `read_weights`; Keras 2 layers
            are numbered from 1.
        name: Key of `models.MODELS`.
        options: Options of the factory. They supply what names and shapes do not tell,
            tags and num_heads (default 8), and override what the arrays imply.

    Raises:
        ValueError: the name is unknown, or an array is missing, unused or of the wrong
            shape; the message lists both sides.
    """
    if name not in TABLES:
        raise TaggerError(
            f"Unknown model {name!r}. Choose one of: {', '.join(TABLES)}."
        )
    shapes = {source: array.shape for source, array in weights.items()}
    some = ", ".join(sorted(weights)[:5])
    try:
        inferred, rows = TABLES[name](shapes)
    except KeyError as error:
        raise TaggerError(
            f"These are not {name} weights: key {error} is missing. Received: {some} …"
        ) from error
    except (IndexError, ValueError) as error:
        raise TaggerError(
            f"These are not {name} weights: the shapes differ. Received: {some} …"
        ) from error
    for key in ("front_end", "back_end"):
        if inferred.get(key) != options.get(key, inferred.get(key)):
            raise TaggerError(
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
            problems += [f"{s}: not in the file, model {expected}" for s in missing]
            continue
        arrays = [weights[source] for source in sources]
        turned = _turned(turn, arrays)
        if weight is None or turned is None or turned.shape != tuple(weight.shape):
            held = " and ".join(str(array.shape) for array in arrays)
            problems.append(f"{' and '.join(sources)}: file {held}, model {expected}")
            continue
        weight.assign(turned)
    problems += [
        f"{source}: file {shapes[source]}, not in the model"
        for source in weights.keys() - used
        if not any(re.fullmatch(pattern, source) for pattern in IGNORED)
    ]
    filled.update(id(_weight(model, target)) for target in COMPUTED + FIXED)
    problems += [
        f"{weight.path}: not in the file, model {tuple(weight.shape)}"
        for weight in model.weights
        if id(weight) not in filled
    ]
    if problems:
        listed = "\n  ".join(sorted(problems))
        raise TaggerError(f"The weights do not fit the model {name}:\n  {listed}")
    return model


def _weight(model: keras.Model, target: str):
    """Returns the variable `layer.attribute…`, or None if the model lacks it."""
    layer, *attributes = target.split(".")
    try:
        return functools.reduce(getattr, attributes, model.get_layer(layer))
    except (ValueError, AttributeError):
        return None


def _turned(turn: Callable, arrays: list[np.ndarray]) -> np.ndarray | None:
    """Returns the arrays in our layout, or None if their shapes do not allow it."""
    try:
        return turn(*arrays)
    except (ValueError, IndexError):
        return None
