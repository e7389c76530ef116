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
import functools
import importlib
import io
import json
import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np

from tagger import models
from tagger.inference.engines import OUTPUTS
from tagger.models.metadata import check_export_path, check_export_weights
from tagger.storage import explained

MIN_FLOAT16_SIZE = 256  # numbers; float16 saves nothing in smaller kernels


def export(
    model: keras.Model,
    path: str | os.PathLike,
    to: str,
    force: bool = False,
    notes: dict | None = None,
    weights: str = "float32",
) -> Path:
    """Exports a model to another format; a failed export leaves nothing behind.

    Args:
        model: Keras model from `models.load_model`, `pretrained.load` or
            `weights.load`. Mixed precision becomes float32.
        path: Path with the ending of the format; a folder for "saved-model".
        to: Key of `metadata.EXPORT_FORMATS`.
        force: Whether to replace an existing file or SavedModel.
        notes: Further fields of the metadata, which JSON can hold.
        weights: One of `metadata.EXPORT_WEIGHTS`. "float16" (ONNX only) rounds the
            kernels and stores them in half the space; runtimes compute in float32.

    Returns:
        The path that was written.

    Raises:
        ValueError: the format is unknown, the path has another ending, or the format
            stores no float16.
        FileExistsError: the path exists, or is a folder that `force` must not replace
            because it holds something else than a SavedModel.
        FileNotFoundError: the folder to write to does not exist.
        ImportError: a package is missing, or Keras does not run on TensorFlow.
    """
    path = Path(path)
    check_export_path(path, to)
    check_export_weights(weights, to)
    _check_replaceable(path, force)
    backend, able = keras.backend.backend(), ("tensorflow", "jax")
    if backend not in (able if to == "onnx" else able[:1]):
        raise ImportError(
            f"Exporting to {to} needs the TensorFlow backend, but Keras runs on"
            f" {backend}. Unset KERAS_BACKEND."
        )
    described = models.model_info(model).as_dict() | (notes or {})
    write = {"saved-model": _saved_model, "litert": _litert, "onnx": _onnx}[to]
    copy = _exportable(model)
    if weights == "float16":
        _round_kernels(copy)
        write = functools.partial(write, stores_float16=True)
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


def _round_kernels(model: keras.Model) -> None:
    """Rounds large kernels behind the frontend to float16, if it can hold them."""
    for weight in model.weights:
        array = keras.ops.convert_to_numpy(weight)
        is_kernel = array.ndim > 1 and not weight.path.startswith("frontend")
        if not is_kernel or array.size < MIN_FLOAT16_SIZE:
            continue
        if np.abs(array).max() <= np.finfo(np.float16).max:
            weight.assign(array.astype(np.float16).astype(array.dtype))


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


def _onnx(
    model: keras.Model, path: Path, described: dict, stores_float16: bool = False
) -> None:
    """Writes an ONNX file: with tf2onnx on TensorFlow, with jax2onnx on JAX.

    tf2onnx is the default. Its graphs are smaller and leave images in the layout that
    runtimes compute in; those of jax2onnx transpose them around every convolution.
    """
    exporter = {"tensorflow": "tf2onnx", "jax": "jax2onnx"}[keras.backend.backend()]
    try:
        import onnx

        importlib.import_module(exporter)
    except ImportError as error:
        raise ImportError(
            f"Exporting to ONNX needs {error.name}: pip install onnx {exporter}."
        ) from error
    from tagger.inference import onnx_graph

    if exporter == "tf2onnx":
        from tf2onnx.handler import tf_op

        tf_op("Erfc")(_Erfc)
    signature = _signature(None, described)
    network = models.with_embedding(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras uses np.object
        network.export(path, format="onnx", verbose=False, input_signature=signature)
    made = onnx.load(path)
    if exporter == "jax2onnx":
        onnx_graph.pool_in_two_axes(made)
    onnx_graph.maxima_first(made)
    onnx_graph.numbers_before_reshapes(made)
    if stores_float16:
        onnx_graph.store_as_float16(made, MIN_FLOAT16_SIZE)
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
