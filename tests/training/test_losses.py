"""Losses on logits, by hand."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from keras import ops

from tagger import models
from tagger.data.clips import open_shards
from tagger.training import losses, recipes, tasks, trainer


def entropy(targets, scores):
    return -(targets * np.log(scores) + (1 - targets) * np.log(1 - scores))


def logits_of(scores):
    return np.log(scores) - np.log(1 - scores)


def test_binary_crossentropy_by_hand():
    targets, scores = np.array([[0.9, 0.2, 1.0]]), np.array([[0.6, 0.1, 0.3]])
    found = losses.binary_crossentropy(targets, logits_of(scores))
    np.testing.assert_allclose(found, entropy(targets, scores), rtol=1e-6)
    far = np.array([[-200.0, 200.0]], "f4")
    found = losses.binary_crossentropy(np.array([[1.0, 1.0]], "f4"), far)
    np.testing.assert_allclose(found, [[200, 0]])


def test_softening_divides_logits():
    scores = np.array([[0.9, 0.2]])
    expected = 1 / (1 + ((1 - scores) / scores) ** (1 / 3))
    np.testing.assert_allclose(losses.softened(scores, 3.0), expected, rtol=1e-5)
    assert np.isfinite(losses.softened(np.array([[0.0, 1.0]]), 3.0)).all()


def test_similarity_does_not_depend_on_scale_or_number_of_channels():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(16, 4)).astype("f4")
    scaled = np.concatenate([embeddings * 3 + 1, embeddings * 7], axis=1)
    np.testing.assert_allclose(losses.similarity(embeddings, scaled), 0, atol=1e-5)
    other = rng.normal(size=(16, 4)).astype("f4")
    assert float(np.mean(losses.similarity(embeddings, other))) > 0.1


GRADIENTS = """
import numpy as np, keras
from tagger.training.losses import LOSSES
z = keras.Variable(np.float32([[-20, 20, -20, 20]]))
y = keras.ops.convert_to_tensor(np.float32([[.5, .5, 1, 0]]))
total = lambda: keras.ops.sum(LOSSES["bce"](y, z))
backend = keras.backend.backend()
if backend == "tensorflow":
    import tensorflow as tf
    with tf.GradientTape() as tape:
        loss = total()
    found = tape.gradient(loss, z.value)
elif backend == "jax":
    import jax
    found = jax.grad(lambda v: keras.ops.sum(LOSSES["bce"](y, v)))(z.value)
else:
    total().backward()
    found = z.value.grad
np.testing.assert_allclose(np.array(found), [[-.5, .5, -1, 1]], rtol=1e-5)
"""


@pytest.mark.parametrize(
    "backend",
    [
        "tensorflow",
        *(pytest.param(b, marks=pytest.mark.slow) for b in ("jax", "torch")),
    ],
)
def test_a_logit_that_is_far_off_comes_back(backend, monkeypatch):
    """Behind a clipped score its gradient is 0, and the tag never comes back."""
    pytest.importorskip(backend)
    monkeypatch.setenv("KERAS_BACKEND", backend)
    subprocess.run([sys.executable, "-c", GRADIENTS], cwd=REPOSITORY, check=True)


@pytest.mark.slow
def test_a_loss_of_ones_own_is_one_entry(built, tmp_path, monkeypatch):
    def focal(targets, logits):  # Lin et al. 2017, equation 4, with gamma 2
        missed = ops.abs(targets - ops.sigmoid(logits))
        return missed**2 * losses.binary_crossentropy(targets, logits)

    monkeypatch.setitem(losses.LOSSES, "focal", focal)
    options = {"num_filters": 2, "block": "basic", "multi": False}
    recipe = recipes.override(
        recipes.RECIPES["resemul"], num_stages=1, max_epochs=1, batch_size=8
    )
    trained = {}
    for name in ("bce", "focal"):
        folder = tmp_path / name
        best = trainer.train(
            tasks.Labels(open_shards(built)),
            models.Architecture("sample_cnn", options),
            dataclasses.replace(recipe, loss=name),
            folder,
        )
        row = (folder / "0/training.csv").read_text().splitlines()[1]
        trained[name] = float(row.split(",")[1])
        assert models.load_model(best)
    assert 0 < trained["focal"] < trained["bce"] / 2
