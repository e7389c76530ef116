"""ONNX Runtime and OpenVINO give what Keras gives, whatever fails on the way."""

import importlib.util
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from narrow import drawn_norms, music, narrow_model, scores_of

from tagger import models
from tagger.inference import selection
from tagger.inference.embeddings import Embedder
from tagger.inference.engines import KerasEngine, OnnxEngine, OpenVinoEngine
from tagger.inference.tagger import Tagger
from tagger.models import export, graph_rewriting, graphs
from tagger.models.metadata import OUTPUTS

onnx = pytest.importorskip("onnx")
QUICK = ("sample_cnn", "musicnn_pons")
EVERY = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in models.MODELS
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Returns a narrow model and its export."""
    model = drawn_norms(narrow_model("musicnn_pons"))
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return model, export.export(model, path, "onnx")


@pytest.mark.parametrize("name", EVERY)
def test_every_engine_gives_the_scores_and_embeddings_of_keras(name, tmp_path):
    model = drawn_norms(narrow_model(name))
    path = export.export(model, tmp_path / "model.onnx", "onnx")
    waveforms = music(model, 3)
    expected = KerasEngine(model).run(waveforms, OUTPUTS)
    np.testing.assert_allclose(expected[0], scores_of(model, waveforms), atol=1e-6)
    runtimes = [OnnxEngine(path)]
    if importlib.util.find_spec("openvino"):
        runtimes.append(OpenVinoEngine(path))
    for engine in runtimes:
        assert engine.info == models.model_info(model)
        assert engine.embedding_size == expected[1].shape[1]
        found = engine.run(waveforms, OUTPUTS)
        for one, other in zip(found, expected, strict=True):
            # float32 sums in another order; embeddings are not bounded by 1
            np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)
        (embeddings,) = engine.run(waveforms[:1], ["embedding"])
        np.testing.assert_allclose(embeddings, found[1][:1], atol=1e-5, rtol=1e-5)


def test_the_reference_evaluator_of_onnx_agrees(tmp_path):
    from onnx.reference import ReferenceEvaluator

    model = narrow_model("vgg_pons")  # the fewest layers
    path = export.export(model, tmp_path / "model.onnx", "onnx")
    waveforms = music(model, 1)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    scores, embedding = ReferenceEvaluator(str(path)).run(None, {"waveform": waveforms})
    expected = OnnxEngine(path).run(waveforms, OUTPUTS)
    np.testing.assert_allclose(scores, expected[0], atol=1e-5)
    np.testing.assert_allclose(embedding, expected[1], atol=1e-5, rtol=1e-5)


def test_maxima_come_before_relu_and_batch_norm(exported):
    graph = onnx.load(exported[1]).graph
    producer = {name: node for node in graph.node for name in node.output}
    pools = [node for node in graph.node if node.op_type == "MaxPool"]
    assert [producer[pool.input[0]].op_type for pool in pools] == 5 * ["Conv"]
    kernels = {one.name: one.dims for one in graph.initializer}
    channels = [kernels[producer[pool.input[0]].input[1]][0] for pool in pools]
    assert all(number % 16 == 0 for number in channels)


# --- Providers ------------------------------------------------------------------------


class Session:
    """A session of ONNX Runtime on another provider."""

    def __init__(self, cpu, change=lambda found: found):
        self.cpu, self.change = cpu, change

    def run(self, outputs, inputs):
        return self.change(self.cpu.run(outputs, inputs))


def failing(found):
    raise RuntimeError("out of memory\non the device")


def on_cuda(monkeypatch, path, change):
    """Returns an engine whose first provider changes what the CPU gives."""
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(OnnxEngine, "providers", staticmethod(lambda: names))
    opened = OnnxEngine._open

    def open_session(self, provider, graph):
        session = opened(self, "CPUExecutionProvider", graph)
        return session if provider == names[1] else Session(session, change)

    monkeypatch.setattr(OnnxEngine, "_open", open_session)
    return OnnxEngine(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (failing, "out of memory"),
        (lambda found: [found[0] + 0.01], "differs from the CPU's by 1.0e-02"),
    ],
)
def test_a_provider_that_fails_or_differs_is_left(change, says, exported, monkeypatch):
    model, path = exported
    engine = on_cuda(monkeypatch, path, change)
    assert engine.spec is None  # a device is not shared by worker processes
    waveforms = music(model, 2)
    with pytest.warns(UserWarning, match=f"{says}.*Continuing with CPUExecution"):
        (scores,) = engine.run(waveforms)
    np.testing.assert_allclose(scores, scores_of(model, waveforms), atol=1e-5)
    engine.run(waveforms)  # says it once


def test_a_provider_that_fails_later_is_left_then(exported, monkeypatch):
    model, path = exported
    numbers = iter(range(10))

    def third(found):
        return found if next(numbers) < 2 else failing(found)

    engine = on_cuda(monkeypatch, path, third)
    waveforms = music(model, 2)
    (first,) = engine.run(waveforms)
    assert engine.provider == "CUDAExecutionProvider"
    with pytest.warns(UserWarning, match="out of memory"):
        (second,) = engine.run(waveforms)
    np.testing.assert_allclose(first, second, atol=1e-6)


# --- Selection ------------------------------------------------------------------------


@pytest.fixture
def own_model(tmp_path):
    """Saves a narrow model for Keras alone."""
    path = tmp_path / "own.keras"
    models.save_model(narrow_model("vgg_pons"), path)
    return path


def test_onnx_runtime_runs_what_holds_a_graph_and_keras_the_rest(
    own_model, monkeypatch
):
    assert selection.open_engine(own_model).name == "keras"
    graphs.attach(export.graph_of(models.load_model(own_model)), own_model)
    engine = selection.open_engine(own_model)
    assert engine.name == "onnx" and engine.spec.open().info == engine.info
    monkeypatch.setenv(selection.ENGINE_VARIABLE, "keras")
    assert selection.open_engine(own_model).info == engine.info


def test_a_file_without_a_graph_says_how_to_make_one(own_model, monkeypatch):
    monkeypatch.setattr(selection.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="Only Keras runs .*own.keras --to onnx wri"):
        selection.open_engine(own_model)
    with pytest.raises(ValueError, match="holds no graph. Run tagger models export"):
        OnnxEngine(own_model)
    monkeypatch.setenv(selection.ENGINE_VARIABLE, "onnx")
    with pytest.raises(ValueError, match="holds no graph. Run tagger models export"):
        selection.open_engine(own_model)


@pytest.mark.parametrize(
    ("engine", "arguments", "says"),
    [
        ("tensorrt", [], "Unknown engine .* 'tensorrt'. Choose one of: onnx, openvino"),
        ("", ["int8"], "Unknown precision 'int8'. Choose one of: float32"),
        ("onnx", ["bfloat16"], "bfloat16 needs OpenVINO, but .TAGGER_ENGINE is onnx"),
        ("onnx", ["float32", "x"], "Only Keras, in float32, gives the layer 'x'"),
        ("", ["bfloat16", "x"], "Only Keras, in float32, gives the layer 'x'"),
    ],
)
def test_what_does_not_go_together_is_said(
    engine, arguments, says, own_model, monkeypatch
):
    monkeypatch.setenv(selection.ENGINE_VARIABLE, engine)
    with pytest.raises(ValueError, match=says):
        selection.open_engine(own_model, *arguments)


def test_a_missing_engine_is_named_with_its_command(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match="pip install openvino"):
        OpenVinoEngine(exported[1])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        OnnxEngine(exported[1])


def test_bfloat16_needs_a_cpu_that_has_it(exported, monkeypatch):
    openvino = pytest.importorskip("openvino")

    class OldCore(openvino.Core):
        def get_property(self, *_):
            return ["FP32"]

    monkeypatch.setattr(openvino, "Core", OldCore)
    with pytest.raises(ValueError, match="This CPU does not compute in bfloat16"):
        OpenVinoEngine(exported[1], "bfloat16")


def graph_of(*nodes, **constants):
    """Returns a model: waveform [1, 3, 8, 8] -> y, a maximum behind a convolution."""
    make = onnx.helper
    random = np.random.default_rng(0)
    held = {"kernel": random.standard_normal((5, 3, 3, 3)).astype(np.float32)}
    held |= {name: np.asarray(x, np.float32) for name, x in constants.items()}
    nodes = [make.make_node("Conv", ["x", "kernel"], ["c"]), *nodes]
    nodes.append(make.make_node("MaxPool", ["last"], ["y"], kernel_shape=[2, 2]))
    shape = onnx.TensorProto.FLOAT
    graph = make.make_graph(
        nodes,
        "g",
        [make.make_tensor_value_info("x", shape, [1, 3, 8, 8])],
        [make.make_tensor_value_info("y", shape, [1, 5, 5, 5])],
        [onnx.numpy_helper.from_array(x, name) for name, x in held.items()],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 15)])


@pytest.mark.parametrize(
    ("scale", "offset", "is_moved"),
    [
        (np.linspace(-1, 1, 5).reshape(5, 1, 1), np.ones((1, 5, 1, 1)), True),
        (-2.0, 1.0, True),
        (np.linspace(-1, 1, 6), 1.0, False),  # per column, not per channel
        (2.0, np.random.default_rng(1).random((5, 6, 6)), False),
    ],
)
@pytest.mark.parametrize("order", ["ReluMulAdd", "MulAddRelu", "MulReluMul"])
def test_a_maximum_moves_only_where_the_result_stays_the_same(
    scale, offset, is_moved, order
):
    from onnx.reference import ReferenceEvaluator

    kinds = {"ReluMulAdd": "RMA", "MulAddRelu": "MAR", "MulReluMul": "MRM"}[order]
    if order == "MulReluMul" and not is_moved and np.ndim(scale) == 0:
        is_moved = True  # this chain has no offset
    names = ["c", "first", "second", "last"]
    inputs = {"R": ("Relu", []), "M": ("Mul", ["scale"]), "A": ("Add", ["offset"])}
    nodes = [
        onnx.helper.make_node(inputs[kind][0], [before, *inputs[kind][1]], [after])
        for kind, before, after in zip(kinds, names[:-1], names[1:], strict=True)
    ]
    model = graph_of(*nodes, scale=scale, offset=offset)
    x = np.random.default_rng(2).standard_normal((1, 3, 8, 8)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert graph_rewriting.maxima_first(model) == is_moved
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("factor", "num_moved"),
    [
        (np.full((1,), 3.0), 2),
        (np.full((1, 1, 1, 1), 3.0), 2),
        (np.full((1, 1, 1, 1, 1), 3.0), 0),  # gives the result a fifth axis
        (np.array(3.0), 2),
        (np.linspace(1, 6, 6), 0),
    ],
    ids=["one axis", "four axes", "five axes", "scalar", "six numbers"],
)
def test_numbers_move_before_a_reshape_only_where_the_result_stays_the_same(
    factor, num_moved
):
    from onnx.reference import ReferenceEvaluator

    make = onnx.helper.make_node
    nodes = [
        make("Reshape", ["c", "shape"], ["r"]),
        make("Mul", ["r", "factor"], ["m"]),
        make("Add", ["factor", "m"], ["a"]),
        make("Reshape", ["a", "shape"], ["last"]),
    ]
    model = graph_of(*nodes, factor=factor)
    shape = np.array([1, 5, 6, 6], np.int64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(shape, "shape"))
    x = np.random.default_rng(2).standard_normal((1, 3, 8, 8)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert graph_rewriting.numbers_before_reshapes(model) == num_moved
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(found, expected)


def test_a_number_that_moves_keeps_its_type():
    make, kind = onnx.helper, onnx.TensorProto.INT64
    arrays = {"shape": np.array([4, 1]), "factor": np.array([3])}
    graph = make.make_graph(
        [
            make.make_node("Reshape", ["x", "shape"], ["r"]),
            make.make_node("Mul", ["r", "factor"], ["y"]),
        ],
        "g",
        [make.make_tensor_value_info("x", kind, [2, 2])],
        [make.make_tensor_value_info("y", kind, [4, 1])],
        [onnx.numpy_helper.from_array(x, name) for name, x in arrays.items()],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 15)])
    assert graph_rewriting.numbers_before_reshapes(model) == 1
    onnx.checker.check_model(model, full_check=True)


def test_an_export_that_scores_differently_is_not_used(monkeypatch, tmp_path):
    def spoil(model):
        first = model.graph.initializer[0]
        for one in model.graph.initializer:
            if one.name.endswith("kernel") or "ReadVariableOp" in one.name:
                first = one
        array = onnx.numpy_helper.to_array(first)
        first.CopyFrom(onnx.numpy_helper.from_array(3 * array + 1, first.name))

    monkeypatch.setattr(graph_rewriting, "maxima_first", spoil)
    with pytest.raises(ValueError, match="exported: its scores would differ by"):
        export.export(narrow_model("vgg_pons"), tmp_path / "own.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_threads_may_share_an_engine(exported):
    pytest.importorskip("openvino")
    model, path = exported
    waveforms = music(model, 8) * np.linspace(0.1, 1, 8, dtype=np.float32)[:, None]
    for engine in (OpenVinoEngine(path), OnnxEngine(path)):
        (expected,) = engine.run(waveforms)
        with ThreadPoolExecutor(4) as pool:
            parts = [waveforms[n : n + 1] for n in range(8)]
            scores = [found for (found,) in pool.map(engine.run, parts)]
        np.testing.assert_allclose(np.concatenate(scores), expected, atol=1e-6)


def test_embedders_and_taggers_are_pickled_without_what_is_compiled(
    own_model, exported, monkeypatch
):
    song = (np.random.default_rng(0).uniform(-0.3, 0.3, 48128), 16000)
    on_gpu = OnnxEngine(exported[1])
    on_gpu._providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert on_gpu.spec is None
    for engine in (OnnxEngine(exported[1]), KerasEngine(exported[0]), on_gpu):
        again = pickle.loads(pickle.dumps(Embedder(engine)))
        expected = Embedder(OnnxEngine(exported[1])).embed(song)
        np.testing.assert_allclose(again.embed(song), expected, atol=1e-4)
        tagger = pickle.loads(pickle.dumps(Tagger(engine)))
        scores = Tagger(OnnxEngine(exported[1])).scores(song)
        np.testing.assert_allclose(tagger.scores(song), scores, atol=1e-5)
    embedder = Embedder(str(own_model))
    again = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_allclose(again.embed(song), embedder.embed(song), atol=1e-6)
    with pytest.raises(ValueError, match="engine gives the layer that it was opened"):
        Embedder(on_gpu, layer="no_such_layer")
