"""Models as ONNX graphs: reading, splitting and joining them without Keras.

    .onnx, or the member graph.onnx of a .keras file
      └─▶ load ─┬─▶ head_of ─────────▶ Head ─┐
                └─▶ network, for each base ──┴─▶ with_head ─▶ save, attach

A graph maps waveforms [batch, num_samples] to scores [batch, num_tags] and embeddings
[batch, channels], and its metadata_props hold `ModelInfo.as_dict`, each value as JSON.
"""

import json
import os
import zipfile
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper, utils, version_converter

from tagger.models.head import NO_HEAD, Head
from tagger.models.metadata import GRAPH_MEMBER, OUTPUTS, ModelInfo, read_graph
from tagger.storage import replacing
from tagger.text import TaggerError

FLOAT = onnx.TensorProto.FLOAT


def load(path: str | os.PathLike) -> onnx.ModelProto:
    """Reads the graph of an `.onnx` or `.keras` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no graph, or one that does not say what it is.
    """
    held = read_graph(path)
    if held is None:
        raise TaggerError(f"{str(path)!r} holds no graph.")
    try:
        graph = onnx.load_from_string(held)
        onnx.checker.check_model(graph)
    except Exception as error:  # of protobuf, and of the checker
        raise TaggerError(f"{str(path)!r} is not a whole ONNX file.") from error
    info_of(graph, path)
    return graph


def info_of(graph: onnx.ModelProto, path: str | os.PathLike = "graph") -> ModelInfo:
    """Returns what a graph says of itself; `path` is for error messages.

    Raises:
        ValueError: it says too little, or what cannot be right.
    """
    texts = {one.key: one.value for one in graph.metadata_props}
    return ModelInfo.from_texts(texts, path)


def describe(graph: onnx.ModelProto, info: ModelInfo) -> None:
    """Replaces what a graph says of itself."""
    texts = {key: json.dumps(value) for key, value in info.as_dict().items()}
    helper.set_model_props(graph, texts)


def save(graph: onnx.ModelProto, path: str | os.PathLike) -> None:
    """Writes an `.onnx` file; a failed save leaves nothing behind."""
    with replacing(path) as unfinished:
        onnx.save(graph, unfinished)


def attach(graph: onnx.ModelProto, path: str | os.PathLike) -> None:
    """Adds a graph to a `.keras` file; Keras ignores it."""
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(GRAPH_MEMBER, graph.SerializeToString())


def head_of(graph: onnx.ModelProto) -> Head:
    """Returns the last layer of a graph.

    Raises:
        ValueError: the scores are not the sigmoid of a dense layer on the embedding; in
            an average of models, they are means.
    """
    info = info_of(graph)
    arrays = {one.name: one for one in graph.graph.initializer}
    maker = {name: node for node in graph.graph.node for name in node.output}
    scores, embedding = OUTPUTS
    kinds, found, name = [], [], scores
    while name != embedding and name in maker and len(kinds) < 3:
        node = maker[name]
        kinds.append(node.op_type)
        held = [one for one in node.input if one in arrays]
        found = [numpy_helper.to_array(arrays[one]) for one in held] + found
        name = next((one for one in node.input if one not in arrays), "")
    if kinds == ["Sigmoid", "MatMul"] and found:  # tf2onnx leaves out a bias of zeros
        kinds, found = ["Sigmoid", "Gemm"], [*found, 0 * found[0][0]]
    ends = ["Sigmoid", "Gemm"], ["Sigmoid", "Add", "MatMul"]
    if name != embedding or kinds not in ends or len(found) != 2:
        raise TaggerError(f"Model {info.name} {NO_HEAD}")
    return Head(*found, info.tags)


def network(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the part of a graph from waveforms to embeddings.

    Raises:
        ValueError: it gives no embeddings.
    """
    embedding = OUTPUTS[1]
    inputs = [one.name for one in graph.graph.input]
    names = [one.name for one in graph.graph.output]
    if inputs != ["waveform"] or embedding not in names:
        raise TaggerError(
            f"Model {info_of(graph).name} gives no embedding. Export it again:"
            " tagger models export MODEL --to onnx."
        )
    part = utils.Extractor(graph).extract_model(["waveform"], [embedding])
    del part.graph.value_info[:]
    return part


def with_head(
    networks: Sequence[onnx.ModelProto], head: Head, info: ModelInfo
) -> onnx.ModelProto:
    """Returns a graph that scores tags from the embeddings of networks.

    Args:
        networks: Graphs from waveforms to embeddings, see `network`, with the same
            segmentation.
        head: Head on their concatenated embeddings.
        info: What the graph says of itself.
    """
    scores, embedding = OUTPUTS
    joined = networks[0] if len(networks) == 1 else _joined(networks)
    made = onnx.ModelProto()
    made.CopyFrom(joined)
    constants = {"head.kernel": head.kernel, "head.bias": head.bias}
    steps = [("Gemm", [embedding, *constants]), ("Sigmoid", ["logits"])]
    names = ["logits", scores]
    if head.shares is not None:
        constants["head.shares"] = head.shares
        steps.append(("MatMul", ["member_scores", "head.shares"]))
        names = ["logits", "member_scores", scores]
    for (kind, inputs), name in zip(steps, names, strict=True):
        made.graph.node.append(helper.make_node(kind, inputs, [name]))
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array, np.float32), name)
        for name, array in constants.items()
    )
    del made.graph.output[:]
    for name, width in ((scores, info.num_tags), (embedding, len(head.kernel))):
        output = helper.make_tensor_value_info(name, FLOAT, [None, width])
        made.graph.output.append(output)
    describe(made, info)
    onnx.checker.check_model(made)
    return made


def _joined(networks: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Returns a graph that concatenates the embeddings of several."""
    newest = max(_opset(network) for network in networks)
    embedding, parts = OUTPUTS[1], []
    made = onnx.ModelProto()
    for number, network in enumerate(networks, 1):
        if _opset(network) < newest:
            network = version_converter.convert_version(network, newest)
        prefix = f"base{number}/"
        part = compose.add_prefix(network, prefix)
        for node in part.graph.node:  # all hear the same waveform
            node.input[:] = [
                "waveform" if one == f"{prefix}waveform" else one for one in node.input
            ]
        parts.append(f"{prefix}{embedding}")
        if number == 1:
            made.CopyFrom(part)
            made.graph.input[0].name = "waveform"
            continue
        made.graph.node.extend(part.graph.node)
        made.graph.initializer.extend(part.graph.initializer)
    made.graph.node.append(helper.make_node("Concat", parts, [embedding], axis=1))
    return made


def _opset(graph: onnx.ModelProto) -> int:
    return next(one.version for one in graph.opset_import if not one.domain)
