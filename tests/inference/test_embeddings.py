"""Embeddings of files and waveforms."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tagger
from tagger import audio, models
from tagger.inference import embeddings
from tagger.inference.embeddings import Embedder
from tagger.inference.tagger import Tagger


@pytest.fixture(scope="module")
def model(trained):
    return models.load_model(trained / "model.keras")


@pytest.fixture(scope="module")
def embedder(model):
    return embeddings.Embedder(model)


def test_scores_are_made_of_the_penultimate_vector(model, embedder, tmp_path):
    waveform = np.random.RandomState(0).uniform(-0.3, 0.3, 59049).astype(np.float32)
    audio.write_audio(tmp_path / "a.wav", waveform, 22050)
    kernel, bias = model.layers[-1].get_weights()
    logits = embedder.embed(tmp_path / "a.wav") @ kernel + bias
    segmentation = audio.load_audio(tmp_path / "a.wav", 22050)
    scores = model.predict(segmentation[None], verbose=0)[0]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-6)


def test_a_layer_over_time_is_averaged(model):
    layer = next(one for one in model.layers if one.name.startswith("block1"))
    engine = embeddings.Embedder(model, layer.name).opened
    assert engine.embedding_size == layer.output.shape[-1]
    with pytest.raises(ValueError, match="no layer 'block1_konv'. Did you mean block1"):
        embeddings.Embedder(model, "block1_konv")


def test_the_mean_of_all_windows_is_taken(embedder, tmp_path):
    random = np.random.RandomState(1)
    waveform = random.uniform(-0.3, 0.3, 59049 * 3).astype(np.float32)
    audio.write_audio(tmp_path / "a.wav", waveform, 22050)
    held = audio.load_audio(tmp_path / "a.wav", 22050).reshape(3, -1)
    expected = embedder.opened.network.predict(held, verbose=0).mean(axis=0)
    np.testing.assert_allclose(embedder.embed(tmp_path / "a.wav"), expected, atol=1e-5)


def test_a_waveform_embeds_as_its_file_does(embedder, tmp_path):
    random = np.random.RandomState(2)
    waveform = random.uniform(-0.3, 0.3, 44100 * 4).astype(np.float32)
    audio.write_audio(tmp_path / "a.wav", waveform, 44100)
    held = audio.load_audio(tmp_path / "a.wav", 44100)  # rounded to int16
    rows = embedder.transform([tmp_path / "a.wav", (held, 44100), (held, 44100)])
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-5)
    np.testing.assert_allclose(embedder.embed((held, 44100)), rows[0], atol=1e-5)
    tagger = Tagger(embedder.model)
    one, two = tagger.tag([tmp_path / "a.wav", (held, 44100)])
    assert one == pytest.approx(two, abs=1e-5) == tagger.tag((held, 44100))
    assert tagger.tag([]) == [] and embedder.transform([]).shape[0] == 0


@pytest.mark.slow
def test_the_embedder_is_a_transformer_of_scikit_learn(trained, tmp_path):
    embedder = Embedder(str(trained / "model.keras"))
    assert set(embedder.get_params()) == {"model", "layer"}
    assert clone(embedder).get_params() == embedder.get_params()
    other = clone(embedder).set_params(layer="block1_conv")
    assert embedder.layer == "penultimate"
    assert other.opened.embedding_size != embedder.opened.embedding_size
    random = np.random.RandomState(3)
    noise = [(random.uniform(-0.3, 0.3, 60_000), 22050) for _ in range(6)]
    time = np.arange(60_000) / 22050
    tones = [(0.3 * np.sin(2 * np.pi * 50 * n * time), 22050) for n in range(4, 10)]
    pipeline = make_pipeline(embedder, StandardScaler(), LogisticRegression())
    sounds, kinds = noise + tones, [0] * 6 + [1] * 6
    assert cross_val_score(pipeline, sounds, kinds, cv=3).shape == (3,)
    assert pipeline.fit(sounds, kinds).score(sounds, kinds) > 0.9
    with pytest.raises(FileNotFoundError, match="no model file or pretrained model"):
        Embedder.from_pretrained("musicnn_mtx")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ((np.zeros((2, 9)), 22050), "shape .num_samples., .* not .2, 9."),
        ((np.zeros(0), 22050), "at least one sample"),
        ((np.zeros(9, np.int16), 22050), "floats at ±1, not int16. Divide"),
        ((np.full(9, np.nan), 22050), "samples of nan"),
        ((np.zeros(9), 44.1), "whole number from 1,000 .* not 44.1"),
        ((np.zeros(9),), "a pair .samples, sample rate in Hz., not 1 values"),
        ((np.zeros(9), 0), "whole number from 1,000 .* not 0"),
        ((np.zeros(9), "22050"), "whole number from 1,000 .* not '22050'"),
        (("a.mp3", "b.mp3"), "shape .num_samples., .* not .."),
        (b"song.mp3", "Audio is a path, or a pair .* not bytes"),
        ((np.full(9, np.inf, np.float16), 22050), "samples of inf"),
        ((np.full(1, 0.1), 16000), "it is too short"),
    ],
)
def test_a_wrong_waveform_is_a_sentence(embedder, source, says):
    with pytest.raises(ValueError, match=says):
        embedder.embed(source)


def test_tagger_and_embedder_are_exported_at_the_top():
    assert tagger.Tagger is Tagger and tagger.Embedder is Embedder
