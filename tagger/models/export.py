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
import textwrap
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
from tqdm import tqdm

from tagger.models import graph_rewriting, graphs
from tagger.models.derivation import with_embedding
from tagger.models.metadata import OUTPUTS, PENULTIMATE, ModelInfo, check_export_path
from tagger.models.serialization import model_info, save_model
from tagger.storage import explained, replacing
from tagger.text import TaggerError

# Networks that run a fifth to a half faster with their maxima first; others lose by it.
MAXIMA_FIRST = ("musicnn", "musicnn_pons", "vgg_pons")
MAX_DIFFERENCE = 1e-4  # of a graph's scores from those of Keras


def export(
    model: keras.Model,
    path: str | os.PathLike,
    to: str,
    force: bool = False,
) -> Path:
    """Exports a model to another format; a failed export leaves nothing behind.

    Args:
        model: Keras model from `models.load_model`, `pretrained.load` or
            `weights.load`. Mixed precision becomes float32.
        path: Path with the ending of the format; a folder for "saved-model".
        to: Key of `metadata.EXPORT_FORMATS`.
        force: Whether to replace an existing file or SavedModel.

    Returns:
        The path that was written.

    Raises:
        ValueError: the format is unknown, the path has another ending, or see
            `graph_of`.
        FileExistsError: the path exists, or is a folder that `force` must not replace
            because it holds something else than a SavedModel.
        FileNotFoundError: the folder to write to does not exist.
        ImportError: a package is missing, or Keras does not run on TensorFlow.
    """
    path = Path(path)
    check_export_path(path, to)
    _check_replaceable(path, force)
    _check_backend()
    write = {"saved-model": _saved_model, "litert": _litert, "onnx": _onnx}[to]
    with (
        explained(path),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder,
    ):
        made = Path(folder) / path.name
        with contextlib.redirect_stdout(io.StringIO()):  # the converters' messages
            write(model, made)
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


def save(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a `.keras` file with a graph, where Keras can make one."""
    with replacing(path) as unfinished:
        save_model(model, unfinished)
        try:
            graphs.attach(graph_of(model), unfinished)
        except (TaggerError, ImportError) as error:
            warnings.warn(f"{path} holds no graph: {error}", stacklevel=2)


def graph_of(model: keras.Model, layer: str = PENULTIMATE) -> onnx.ModelProto:
    """Returns a model as a graph of ONNX, see `graphs`.

    Args:
        model: See `export`.
        layer: Layer whose output is the embedding, see `embedding_network`.

    Raises:
        ValueError: the model has no such layer, the converter does not know an
            operation, or the graph gives other scores than Keras.
        ImportError: a package is missing, or Keras does not run on TensorFlow.
    """
    from tf2onnx.handler import tf_op  # it imports TensorFlow

    _check_backend()
    tf_op("Erfc")(_Erfc)
    exported, info = with_embedding(_exportable(model), layer), model_info(model)
    with (
        tqdm(desc=f"Exporting {info.name}", total=1, disable=None, leave=False),
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore", FutureWarning)  # Keras uses np.object
        path, inputs = os.path.join(folder, "graph.onnx"), _signature(None, info)
        try:
            exported.export(path, format="onnx", verbose=False, input_signature=inputs)
            made = onnx.load(path)
            onnx.checker.check_model(made, full_check=True)
        except Exception as error:  # of any kind, from the converter
            first = textwrap.shorten(str(error), 200)
            raise TaggerError(
                f"{info.name} cannot be exported to ONNX: {first}"
            ) from error
    if info.architecture in MAXIMA_FIRST:
        graph_rewriting.maxima_first(made)
    graph_rewriting.numbers_before_reshapes(made)
    graph_rewriting.rename_outputs(made, OUTPUTS)
    graphs.describe(made, info)
    onnx.checker.check_model(made, full_check=True)
    _compare(made, exported, info)
    return made


def _compare(graph: onnx.ModelProto, model: keras.Model, info: ModelInfo) -> None:
    """Checks that a graph scores a segment of noise as Keras does.

    Raises:
        ValueError: it does not.
    """
    shape = (1, info.segmentation.num_samples)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, shape).astype(np.float32)
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    scores, _ = session.run(OUTPUTS, {"waveform": noise})
    expected, _ = model.predict_on_batch(noise)
    difference = np.abs(scores - expected).max()
    if not difference <= MAX_DIFFERENCE:
        raise TaggerError(
            f"{info.name} cannot be exported: its scores would differ by"
            f" {difference:.1e}."
        )


def _check_backend() -> None:
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ImportError(
            f"Exporting needs the TensorFlow backend, but Keras runs on {backend}."
            " Unset KERAS_BACKEND."
        )


def _saved_model(model: keras.Model, path: Path) -> None:
    info = model_info(model)
    _exportable(model).export(
        path,
        format="tf_saved_model",
        verbose=False,
        input_signature=_signature(None, info),
    )
    (path / "assets.extra").mkdir(exist_ok=True)
    text = json.dumps(info.as_dict(), indent=2)
    (path / "assets.extra/tagger.json").write_text(text)


def _litert(model: keras.Model, path: Path) -> None:
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
        raise ImportError(
            "Exporting to LiteRT needs Keras 3.13 or newer on Python 3.11 or newer, but"
            f" this is Keras {keras.__version__}. Upgrade Keras, or choose another"
            " format."
        )
    info = model_info(model)
    _exportable(model).export(
        path, format="litert", verbose=False, input_signature=_signature(1, info)
    )
    with zipfile.ZipFile(path, "a") as archive:  # appended to the model
        archive.writestr("tagger.json", json.dumps(info.as_dict(), indent=2))
        if info.tags:
            archive.writestr("labels.txt", "\n".join(info.tags) + "\n")


def _onnx(model: keras.Model, path: Path) -> None:
    graphs.save(graph_of(model), path)


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


def _signature(batch_size: int | None, info: ModelInfo) -> list[keras.InputSpec]:
    shape = (batch_size, info.segmentation.num_samples)
    return [keras.InputSpec(shape=shape, dtype="float32", name="waveform")]


def _exportable(model: keras.Model) -> keras.Model:
    """Returns the model with the same weights, as every format and runtime can hold it.

    Its layers compute in float32, its input has the length of a segment, and recurrent
    layers are unrolled, because runtimes read loops each in their own way or not at
    all.
    """
    num_samples = model_info(model).segmentation.num_samples

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
