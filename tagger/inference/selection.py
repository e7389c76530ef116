"""Opens models in the engine that runs them.

name or file of a model -> `engines.Engine`

A file that holds a graph runs in ONNX Runtime. Keras runs the others: models that
`train.py` has just written, and resemul's `.hdf5`.
"""

import importlib.util
import os
from typing import TYPE_CHECKING

from tagger import storage
from tagger.inference.engines import (
    ENGINES,
    PRECISIONS,
    Engine,
    EngineSpec,
    KerasEngine,
)
from tagger.models.metadata import PENULTIMATE, read_graph
from tagger.text import TaggerError
from tagger.weights import pretrained

if TYPE_CHECKING:
    import keras

ENGINE_VARIABLE = "TAGGER_ENGINE"


def open_engine(
    model: str | os.PathLike, precision: str = "float32", layer: str = PENULTIMATE
) -> Engine:
    """Opens a model in ONNX Runtime, in bfloat16 in OpenVINO, or in Keras.

    $TAGGER_ENGINE, one of ENGINES, chooses an engine to find faults.

    Args:
        model: Name of a pretrained model, or model file (.keras, .hdf5, .onnx).
        precision: One of PRECISIONS.
        layer: Layer whose output is the embedding; others than "penultimate" need
            Keras.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the engine is unknown, or does not go with the precision or with the
            model.
        ImportError: the engine is not installed.
    """
    wanted, path = _wanted_engine(precision, layer), pretrained.path_of(model)
    if wanted != "keras" and (wanted or read_graph(path) is not None):
        engine = EngineSpec(wanted or "onnx", str(path), precision).open()
    elif not importlib.util.find_spec("keras"):
        raise ImportError(
            f"Only Keras runs {model}, and it is not installed. Where it is, tagger"
            f" models export {model} --to onnx writes a file that runs here."
        )
    else:
        storage.load_tensorflow()
        engine = KerasEngine(pretrained.load(model), layer)
    engine.source = os.fspath(model)
    return engine


def as_engine(
    model: "keras.Model | Engine | str | os.PathLike",
    precision: str = "float32",
    layer: str = PENULTIMATE,
) -> Engine:
    """Returns the engine of what `Tagger` and `Embedder` take.

    Raises:
        ValueError: an engine is given and a layer; or see `open_engine`.
        FileNotFoundError, ImportError: see `open_engine`.
    """
    if isinstance(model, (str, os.PathLike)):
        return open_engine(model, precision, layer)
    if not isinstance(model, Engine):
        return KerasEngine(model, layer)
    if layer != PENULTIMATE:
        raise TaggerError(
            f"An engine gives the layer that it was opened with, not {layer!r}. Give"
            " the model or its name instead."
        )
    return model


def _wanted_engine(precision: str, layer: str) -> str:
    """Returns the engine that the arguments need, or "" if any will do."""
    named = os.environ.get(ENGINE_VARIABLE, "")
    for what, name, known in (
        (f"engine ${ENGINE_VARIABLE}", named, ("", *ENGINES)),
        ("precision", precision, PRECISIONS),
    ):
        if name not in known:
            raise TaggerError(
                f"Unknown {what} {name!r}. Choose one of:"
                f" {', '.join(filter(None, known))}."
            )
    needed = {"openvino": precision == "bfloat16", "keras": layer != PENULTIMATE}
    needed = [name for name, is_needed in needed.items() if is_needed]
    if len(needed) > 1 or (needed and named not in ("", *needed)):
        raise TaggerError(
            f"Only Keras, in float32, gives the layer {layer!r}."
            if layer != PENULTIMATE
            else f"bfloat16 needs OpenVINO, but ${ENGINE_VARIABLE} is {named}."
        )
    return needed[0] if needed else named
