"""Graphs without weights, filled, give what Keras gives with the same weights."""

import dataclasses

import numpy as np
import onnx
import pytest
from narrow import drawn_norms

from tagger import models
from tagger.inference.engines import KerasEngine, OnnxEngine
from tagger.models import graphs
from tagger.models.metadata import OUTPUTS
from tagger.weights import filling


def weights_of(model):
    named = {one.path.replace("/", "."): np.array(one) for one in model.weights}
    return {name: array for name, array in named.items() if "seed" not in name}


@pytest.fixture(scope="module", params=filling.NAMES)
def model(request):
    tags = ("rock", "calm", "loud")
    return drawn_norms(models.build_model(request.param, num_tags=3, tags=tags))


def test_a_filled_graph_gives_the_scores_and_embeddings_of_keras(model, tmp_path):
    path, tags = tmp_path / "model.onnx", ("rock", "calm", "loud")
    graphs.save(filling.fill(model.name, weights_of(model), tags, "mine"), path)
    engine = OnnxEngine(path)
    about = {"name": "mine", "provenance": {"network": model.name}}
    assert engine.info == dataclasses.replace(models.model_info(model), **about)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    random = np.random.default_rng(0)
    shape = (3, engine.info.segmentation.num_samples)
    waveforms = random.uniform(-0.3, 0.3, shape).astype(np.float32)
    waveforms[2] = 0
    found = engine.run(waveforms, OUTPUTS)
    expected = KerasEngine(model).run(waveforms, OUTPUTS)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=2e-5)


def test_weights_that_do_not_fit_are_named(model):
    weights = weights_of(model)
    name = "input_norm.gamma"
    weights[name] = np.zeros(2)
    with pytest.raises(ValueError, match=rf"{name} needs the shape .1,., not .2,."):
        filling.fill(model.name, weights, None, "mine")
    del weights[name]
    with pytest.raises(ValueError, match=f"{name} needs the shape .1,., not none"):
        filling.fill(model.name, weights, None, "mine")


@pytest.mark.slow
@pytest.mark.parametrize("name", filling.NAMES)
def test_the_graphs_are_those_of_the_factories(name):
    """If a factory has changed: python -m tagger.weights.filling."""
    held, made = onnx.load(filling.FOLDER / f"{name}.onnx"), filling.make_graph(name)
    for one, other in zip(held.graph.input, made.graph.input, strict=True):
        assert one == other
    kinds = [sorted(one.op_type for one in model.graph.node) for model in (held, made)]
    assert kinds[0] == kinds[1]
    assert list(held.metadata_props) == list(made.metadata_props)
