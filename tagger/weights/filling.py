"""Fills graphs with weights that come from elsewhere, without Keras.

graphs/NAME.onnx + arrays ─▶ fill ─▶ the .onnx file that `export` would write

A graph has an input for each of our weights, `layer.attribute`, which filling turns
into constants; so is the Fourier matrix, which would take a megabyte. ONNX Runtime then
computes what depends on constants alone. The graphs are made at release:

    python -m tagger.weights.filling        # rewrites graphs/*.onnx
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from tagger import models
from tagger.models import graph_rewriting, graphs, presets
from tagger.models.head import Head
from tagger.models.metadata import OUTPUTS, ModelInfo
from tagger.storage import tensorflow
from tagger.text import TaggerError
from tagger.weights import tables

FOLDER = Path(__file__).parent / "graphs"
NAMES = ("musicnn_pons", "vgg_pons")
FOURIER = "fourier"


def weights_of(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns an original project's arrays under the names of our weights.

    Args:
        name: Key of `tables.TABLES`.
        arrays: Arrays under their original names, see `readers.read_weights`.
    """
    _, rows = tables.TABLES[name]({key: array.shape for key, array in arrays.items()})
    return {
        target: turn(*(arrays[source] for source in sources))
        for sources, target, turn in rows
    }


def fill(
    model: str,
    weights: Mapping[str, np.ndarray],
    tags: tuple[str, ...] | None,
    name: str,
) -> onnx.ModelProto:
    """Returns the graph of a model.

    Args:
        model: One of NAMES.
        weights: Arrays by `layer.attribute`, see `weights_of`.
        tags: Names of the tags; None: unknown.
        name: What the graph is called.

    Raises:
        ValueError: a weight is missing or has another shape.
    """
    made = onnx.load(FOLDER / f"{model}.onnx")
    held = {one.key: json.loads(one.value) for one in made.metadata_props}
    definition = presets.preset(held.pop("log_mel"))
    given = dict(weights)
    given.setdefault("frontend.filters", presets.filters_of(definition))
    given[FOURIER] = presets.fourier_filters(definition.n_fft).T[:, None, None]
    _set_inputs(made.graph, given)
    head = Head(given["head_scores.kernel"], given["head_scores.bias"], tags)
    fields = held | {
        "name": name,
        "num_tags": len(head.bias),
        "tags": tags,
        "provenance": {"network": model},
    }
    info = ModelInfo.from_dict(fields, name)
    made = _folded(graphs.with_head([made], head, info))
    graph_rewriting.maxima_first(made)
    graph_rewriting.numbers_before_reshapes(made)
    graphs.describe(made, info)
    return made


def _set_inputs(graph: onnx.GraphProto, given: Mapping[str, np.ndarray]) -> None:
    """Turns the inputs that are weights into constants."""
    for one in list(graph.input):
        if one.name == "waveform":
            continue
        shape = tuple(axis.dim_value for axis in one.type.tensor_type.shape.dim)
        array = given.get(one.name)
        if array is None or array.shape != shape:
            found = "none" if array is None else array.shape
            raise TaggerError(
                f"Weight {one.name} needs the shape {shape}, not {found}."
            )
        array = np.ascontiguousarray(array, np.float32)
        graph.initializer.append(numpy_helper.from_array(array, one.name))
        graph.input.remove(one)


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a graph in which what depends on constants alone is computed."""
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = os.path.join(folder, "folded.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        folded = onnx.load(options.optimized_model_filepath)
    # ONNX Runtime lists its own domains, of which the graph uses none.
    del folded.opset_import[:]
    folded.opset_import.extend(model.opset_import)
    return folded


# --- At release -----------------------------------------------------------------------


def make_graph(name: str) -> onnx.ModelProto:
    """Returns the graph of a model without its weights, made by tf2onnx."""
    import tf2onnx  # of the extra train

    tf = tensorflow()
    model = models.build_model(name, num_tags=1, tags=None)
    info, frontend = models.model_info(model), model.get_layer("frontend")
    network = models.embedding_network(model)
    weights = [one for one in network.variables if one.dtype == "float32"]

    def run(waveform, *given):
        held = dict(zip(map(id, weights), given, strict=True))

        def values(variables):
            return [held.get(id(one), one.value) for one in variables]

        return network.stateless_call(
            values(network.trainable_variables),
            values(network.non_trainable_variables),
            waveform,
            training=False,
        )[0]

    shape = (None, info.segmentation.num_samples)
    signature = [tf.TensorSpec(shape, tf.float32, "waveform")]
    for one in weights:
        path = one.path.replace("/", ".")
        signature.append(tf.TensorSpec(one.shape, tf.float32, path))
    made, _ = tf2onnx.convert.from_function(
        tf.function(run, input_signature=signature), signature, opset=17
    )
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    (output,) = made.graph.output
    graph_rewriting.rename(made.graph, output.name, OUTPUTS[1])
    _take_out_fourier(made.graph, presets.fourier_filters(frontend.log_mel.n_fft))
    (log_mel,) = (k for k, v in presets.PRESETS.items() if v == frontend.log_mel)
    fields = info.as_dict() | {"log_mel": log_mel, "num_tags": 1, "tags": None}
    helper.set_model_props(made, {key: json.dumps(v) for key, v in fields.items()})
    return made


def _take_out_fourier(graph: onnx.GraphProto, waves: np.ndarray) -> None:
    """Turns the Fourier matrix, which any machine computes, into an input."""
    matrix = waves.T[:, None, None]
    (held,) = (
        one
        for one in graph.initializer
        if np.array_equal(numpy_helper.to_array(one), matrix)
    )
    kind = onnx.TensorProto.FLOAT
    graph.input.append(helper.make_tensor_value_info(FOURIER, kind, matrix.shape))
    graph_rewriting.rename(graph, held.name, FOURIER)
    graph.initializer.remove(held)


if __name__ == "__main__":
    for each in NAMES:
        onnx.save(make_graph(each), FOLDER / f"{each}.onnx")
