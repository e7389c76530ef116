"""Exports models to files that run without this project: SavedModel, LiteRT, ONNX.

In every format, the input is waveforms float32 [batch, num_samples] (LiteRT: [1, …])
and the output is scores [batch, num_tags]. ONNX files have a second output, embedding
[batch, channels]: the input of the last layer. The file also holds the metadata of the
model, the JSON of `ModelInfo.as_dict`:

    saved-model   assets.extra/tagger.json
    litert        tagger.json, and labels.txt with one tag per line, in a zip archive
                  that is part of the file, as TensorFlow Lite's metadata specifies
    onnx          the model's metadata_props: tags, sample_rate …, each as JSON
"""

import contextlib
import io
import json
import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnx

from tagger import models
from tagger.inference import onnx_graph
from tagger.inference.engines import OUTPUTS
from tagger.models.metadata import check_export_path
from tagger.storage import explained

# Networks that run a fifth to a half faster with their maxima first; others lose by it.
MAXIMA_FIRST = ("musicnn", "musicnn_pons", "vgg_pons")


def export(
    model: keras.Model,
    path: str | os.PathLike,
    to: str,
    force: bool = False,
    notes: dict | None = None,
) -> Path:
    """Exports a model to another format; a failed export leaves nothing behind.

    Args:
        model: Keras model from `models.load_model`, `pretrained.load` or
            `weights.load`. Mixed precision becomes float32.
        path: Path with the ending of the format; a folder for "saved-model".
        to: Key of `metadata.EXPORT_FORMATS`.
        force: Whether to replace an existing file or SavedModel.
        notes: Further fields of the metadata, which JSON can hold.

    Returns:
        The path that was written.

    Raises:
        ValueError: the format is unknown, or the path has another ending.
        FileExistsError: the path exists, or is a folder that `force` must not replace
            because it holds something else than a SavedModel.
        FileNotFoundError: the folder to write to does not exist.
        ImportError: a package is missing, or Keras does not run on TensorFlow.
    """
    path = Path(path)
    check_export_path(path, to)
    _check_replaceable(path, force)
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ImportError(
            f"Exporting to {to} needs the TensorFlow backend, but Keras runs on"
            f" {backend}. Unset KERAS_BACKEND."
        )
    described = models.model_info(model).as_dict() | (notes or {})
    write = {"saved-model": _saved_model, "litert": _litert, "onnx": _onnx}[to]
    copy = _exportable(model)
    with (
        explained(path),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder,
    ):
        made = Path(folder) / path.name
        with contextlib.redirect_stdout(io.StringIO()):  # the converters' messages
            write(copy, made, described)
        if path.exists():
            path.rename(Path(folder) / "replaced")
        made.rename(path)
    return path


def _check_replaceable(path: Path, force: bool) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not force:
        raise FileExistsError(f"{path} exists. Choose another path.")
    if path.is_dir() and not (path / "saved_model.pb").exists():
        raise FileExistsError(
            f"{path} is a folder that holds no SavedModel. Choose another path."
        )


def _saved_model(model: keras.Model, path: Path, described: dict) -> None:
    signature = _signature(None, described)
    model.export(
        path, format="tf_saved_model", verbose=False, input_signature=signature
    )
    (path / "assets.extra").mkdir(exist_ok=True)
    (path / "assets.extra/tagger.json").write_text(json.dumps(described, indent=2))


def _litert(model: keras.Model, path: Path, described: dict) -> None:
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
        raise ImportError(
            "Exporting to LiteRT needs Keras 3.13 or newer on Python 3.11 or newer, but"
            f" this is Keras {keras.__version__}. Upgrade Keras, or choose another"
            " format."
        )
    signature = _signature(1, described)
    model.export(path, format="litert", verbose=False, input_signature=signature)
    with zipfile.ZipFile(path, "a") as archive:  # appended to the model
        archive.writestr("tagger.json", json.dumps(described, indent=2))
        if described["tags"]:
            archive.writestr("labels.txt", "\n".join(described["tags"]) + "\n")


def _onnx(model: keras.Model, path: Path, described: dict) -> None:
    from tf2onnx.handler import tf_op  # it imports TensorFlow

    tf_op("Erfc")(_Erfc)
    signature = _signature(None, described)
    network = models.with_embedding(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras uses np.object
        network.export(path, format="onnx", verbose=False, input_signature=signature)
    made = onnx.load(path)
    if model.name in MAXIMA_FIRST:
        onnx_graph.maxima_first(made)
    onnx_graph.numbers_before_reshapes(made)
    onnx_graph.rename_outputs(made, OUTPUTS)
    values = {key: json.dumps(value) for key, value in described.items()}
    onnx.helper.set_model_props(made, values)
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, path)


class _Erfc:
    """Converts TensorFlow's erfc, which GELU uses and ONNX lacks, to 1 - erf."""

    @classmethod
    def version_9(cls, graph, node, **_):
        shapes, dtypes = node.output_shapes, node.output_dtypes
        graph.remove_node(node.name)
        one = graph.make_const(f"{node.name}_one", np.float32(1))
        erf = graph.make_node("Erf", node.input)
        graph.make_node(
            "Sub",
            [one.output[0], erf.output[0]],
            name=node.name,
            outputs=node.output,
            shapes=shapes,
            dtypes=dtypes,
        )


def _signature(batch_size: int | None, described: dict) -> list[keras.InputSpec]:
    shape = (batch_size, described["num_samples"])
    return [keras.InputSpec(shape=shape, dtype="float32", name="waveform")]


def _exportable(model: keras.Model) -> keras.Model:
    """Returns the model with the same weights, as every format and runtime can hold it.

    Its layers compute in float32, its input has the length of a segment, and recurrent
    layers are unrolled, because runtimes read loops each in their own way or not at
    all.
    """
    num_samples = models.model_info(model).segmentation.num_samples

    def adapted(value):
        if isinstance(value, list):
            return [adapted(one) for one in value]
        if not isinstance(value, dict):
            return value
        found = {key: adapted(one) for key, one in value.items()}
        if found.get("class_name") == "InputLayer":
            if found["config"]["batch_shape"] == [None, None]:
                found["config"]["batch_shape"] = [None, num_samples]
        if found.get("class_name") == "GRU":
            found["config"]["unroll"] = True
        if found.get("class_name") == "DTypePolicy":
            found["config"] = {"name": "float32"}
        return found

    copy = type(model).from_config(adapted(json.loads(json.dumps(model.get_config()))))
    copy.set_weights(model.get_weights())
    return copy
