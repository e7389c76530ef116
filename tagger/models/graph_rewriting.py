"""Rewrites exported ONNX graphs so that a runtime computes less for the same scores.

    convolution -> ReLU -> batch norm -> maximum      as the model is written
    convolution -> maximum -> ReLU -> batch norm      as it runs

ReLU and batch norm are monotonic in each channel, so the maximum may come first, and
they then see only what it leaves: one value in 59 in the vertical filters of musicnn.
Where batch norm has a negative scale, it turns the maximum into a minimum. There the
kernel changes its sign, and the maximum of its output changes it back.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

MONOTONIC = {"Relu": 0, "Mul": 1, "Add": 1}  # type -> number of constant inputs
# ONNX Runtime's layout for CPUs holds channels in blocks of 8 or 16. A maximum over
# another number of channels leaves that layout first, which takes as long again.
BLOCK_CHANNELS = 16


def maxima_first(model: onnx.ModelProto) -> int:
    """Moves each maximum behind a convolution before what follows the convolution.

    Args:
        model: Model to change.

    Returns:
        Number of maxima that were moved.
    """
    graph = _Graph(model.graph)
    num_moved = sum(_move(graph, pool) for pool in graph.of_type("MaxPool"))
    _remove_unused(model.graph)
    return num_moved


def numbers_before_reshapes(model: onnx.ModelProto) -> int:
    """Moves Mul and Add of a single number before the Reshape that they follow.

    A spectrogram becomes an image of one channel, [batch, frames, bands, 1], which
    batch norm scales and shifts. ONNX Runtime goes through that last axis of length 1
    number by number: both operations took a fifth of the student's CPU time.

    Args:
        model: Model to change.

    Returns:
        Number of operations that were moved.
    """
    graph, num_moved = _Graph(model.graph), 0
    for node in [one for one in model.graph.node if one.op_type in ("Mul", "Add")]:
        image = [name for name in node.input if name not in graph.constants]
        held = [name for name in node.input if name in graph.constants]
        if len(image) != 1 or graph.num_uses(image[0]) > 1:
            continue
        reshape, number = graph.producer.get(image[0]), graph.constant(held[0])
        if reshape is None or reshape.op_type != "Reshape" or number.size != 1:
            continue
        shape = graph.constant(reshape.input[1])
        if shape is None or number.ndim > len(shape):  # the number adds an axis
            continue
        name = f"{node.output[0]}_number"
        scalar = graph.add_constant(name, number.reshape(()), number.dtype)
        result, between = node.output[0], f"{node.output[0]}_flat"
        node.input[:] = [reshape.input[0], scalar]
        node.output[0], reshape.input[0], reshape.output[0] = between, between, result
        graph.producer |= {between: node, result: reshape}
        # Nodes stand in the order in which they run.
        model.graph.node.remove(node)
        model.graph.node.insert(list(model.graph.node).index(reshape), node)
        num_moved += 1
    _remove_unused(model.graph)
    return num_moved


def rename_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Gives the outputs of a model new names, in order."""
    outputs = [output.name for output in model.graph.output]
    for output, name in zip(outputs, names, strict=True):
        rename(model.graph, output, name)


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Gives a tensor a new name."""
    for node in graph.node:
        for ports in (node.input, node.output):
            ports[:] = [new if port == old else port for port in ports]
    for output in graph.output:
        if output.name == old:
            output.name = new


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Removes nodes and constants whose results nothing reads."""
    outputs = {one.name for one in graph.output}
    while True:
        used = outputs | {name for node in graph.node for name in node.input}
        unused = [node for node in graph.node if not used & set(node.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    kept = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]  # shapes of tensors that are gone or have moved


class _Graph:
    """A graph with lookups by tensor name."""

    def __init__(self, graph: onnx.GraphProto):
        self.proto = graph
        self.constants = {one.name: one for one in graph.initializer}
        self.outputs = {one.name for one in graph.output}
        self.producer = {name: node for node in graph.node for name in node.output}

    def of_type(self, kind: str) -> list[onnx.NodeProto]:
        return [node for node in self.proto.node if node.op_type == kind]

    def num_uses(self, name: str) -> int:
        uses = sum(list(node.input).count(name) for node in self.proto.node)
        return uses + (name in self.outputs)

    def constant(self, name: str) -> np.ndarray | None:
        found = self.constants.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def add_constant(self, name: str, array: np.ndarray, dtype=np.float32) -> str:
        made = numpy_helper.from_array(np.asarray(array, dtype, order="C"), name)
        self.proto.initializer.append(made)
        self.constants[name] = made
        return name


def _move(graph: _Graph, pool: onnx.NodeProto) -> bool:
    """Moves one maximum to its convolution, if only monotonic nodes lie between."""
    conv, chain = _chain_before(graph, pool)
    if conv is None or not chain or len(pool.output) > 1:
        return False
    weights = [graph.constant(name) for name in conv.input[1:]]
    num_groups = {one.name: one.i for one in conv.attribute}.get("group", 1)
    if num_groups > 1 or any(one is None for one in weights):
        return False
    num_channels, signs = len(weights[0]), np.ones(len(weights[0]))
    for node in chain:
        if node.op_type != "Relu":
            (held,) = filter(None, map(graph.constants.get, node.input))
            factors = _per_channel(numpy_helper.to_array(held), num_channels)
            if factors is None:
                return False
            if node.op_type == "Mul":
                signs = signs * np.where(factors < 0, -1.0, 1.0)
    _rewire(graph, conv, chain, pool)
    _replace_weights(graph, conv, pool, chain[-1], weights, signs)
    return True


def _chain_before(graph: _Graph, pool) -> tuple[onnx.NodeProto | None, list]:
    """Returns the convolution before a maximum, and the nodes between, last first."""
    chain, name = [], pool.input[0]
    while graph.num_uses(name) == 1 and name in graph.producer:
        node = graph.producer[name]
        if node.op_type == "Conv":
            return node, chain
        dynamic = [one for one in node.input if one not in graph.constants]
        num_constants = len(node.input) - len(dynamic)
        if len(dynamic) != 1 or num_constants != MONOTONIC.get(node.op_type):
            break
        chain.append(node)
        name = dynamic[0]
    return None, []


def _per_channel(array: np.ndarray, num_channels: int) -> np.ndarray | None:
    """Returns a constant as one number per channel [num_channels]; None if it is not.

    Channels are the second axis of an image [batch, channels, height, width].
    """
    if array.size == 1:
        return np.full(num_channels, array.item())
    shape = (1,) * (4 - array.ndim) + array.shape
    return array.reshape(-1) if shape == (1, num_channels, 1, 1) else None


def _rewire(graph: _Graph, conv, chain: list, pool) -> None:
    """Lets the maximum read the convolution, and the chain read the maximum."""
    result = pool.output[0]
    last, first = chain[0], chain[-1]
    pooled = f"{conv.output[0]}_pooled"
    pool.input[0], pool.output[0] = conv.output[0], pooled
    _replace(first.input, conv.output[0], pooled)
    last.output[0] = result
    # Nodes stand in the order in which they run.
    graph.proto.node.remove(pool)
    graph.proto.node.insert(list(graph.proto.node).index(first), pool)


def _replace_weights(graph: _Graph, conv, pool, first, weights, signs) -> None:
    """Changes the signs of channels in the weights, and adds channels of zeros.

    Behind the maximum, the signs are changed back, and the added channels are dropped.
    """
    base, num_channels = conv.output[0], len(signs)
    num_spare = -num_channels % BLOCK_CHANNELS
    for place, weight in enumerate(weights, 1):
        signed = weight * signs.reshape(-1, *[1] * (weight.ndim - 1))
        spare = [(0, num_spare)] + [(0, 0)] * (weight.ndim - 1)
        name = f"{base}_weights{place}"
        conv.input[place] = graph.add_constant(name, np.pad(signed, spare))
    name, nodes = pool.output[0], []
    if num_spare:
        limits = [
            graph.add_constant(f"{base}_{what}", np.array([value]), np.int64)
            for what, value in (("start", 0), ("end", num_channels), ("axis", 1))
        ]
        nodes.append(onnx.helper.make_node("Slice", [name, *limits], [f"{name}_own"]))
        name = f"{name}_own"
    if (signs < 0).any():
        factors = graph.add_constant(f"{base}_signs", signs.reshape(1, -1, 1, 1))
        nodes.append(onnx.helper.make_node("Mul", [name, factors], [f"{name}_signed"]))
        name = f"{name}_signed"
    _replace(first.input, pool.output[0], name)
    place = list(graph.proto.node).index(first)
    for node in reversed(nodes):
        graph.proto.node.insert(place, node)


def _replace(names, old: str, new: str) -> None:
    names[:] = [new if name == old else name for name in names]
