"""Integrated gradients on spectrograms: completeness, hand arithmetic, sanity."""

import keras
import numpy as np
import pytest
from conftest import run_on_backend
from drawn import draw_music
from narrow import narrow_model
from scipy.stats import spearmanr

from tagger import audio, interpretation, models
from tagger.interpretation import attributions
from tagger.interpretation.spectrograms import FourierBands
from tagger.models.frontends import LogMelSpectrogram
from tagger.models.layers import AudioInput, TagScores
from tagger.segmentation import Segmentation


def music_for(model, number=0):
    info = models.model_info(model)
    return draw_music(info.segmentation.num_samples, info.sample_rate)[number]


@pytest.mark.parametrize(
    "name",
    ["musicnn", "sample_cnn"]
    + [
        pytest.param(n, marks=pytest.mark.slow)
        for n in ("self_attention", "harmonic_cnn")
    ],
)
def test_values_add_up_to_the_scores_rise_from_silence(name):
    model = narrow_model(name)
    waveform = music_for(model)
    silence, music = model.predict(np.stack([0 * waveform, waveform]), verbose=0)
    logits = [np.log(scores / (1 - scores)) for scores in (silence, music)]
    # Untrained networks hardly tell the two apart, but the rise must be large enough.
    head = model.get_layer("head_scores")
    head.kernel.assign(head.kernel * 2 / np.abs(np.subtract(*logits)).max())
    found = interpretation.attribute(model, waveform, [0, 2])
    scores = model.predict(np.stack([waveform, 0 * waveform]), verbose=0)
    assert max(abs(one.score - one.silence_score) for one in found) > 0.1
    for tag, one in zip((0, 2), found, strict=True):
        assert one.score == pytest.approx(scores[0, tag], abs=1e-5)
        # A fade in decibels begins 100 dB below the music.
        assert one.silence_score == pytest.approx(scores[1, tag], abs=0.01)
        rise = one.score - one.silence_score
        assert abs(one.values.sum() - rise) <= max(0.02 * abs(rise), 0.005)
        assert one.is_complete
        assert one.values.shape == one.spectrogram.values.shape
        assert np.abs(one.values).max() > 0


def linear_model(weights):
    """Returns a model whose score is the sigmoid of a weighted sum of log-mel cells."""
    waveform = keras.Input((4096,))
    x = AudioInput(16000, Segmentation(4096), name="audio_input")(waveform)
    x = LogMelSpectrogram("won2020", name="frontend")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(waveform, TagScores(1, name="head_scores")(x), name="linear")
    head = model.get_layer("head_scores")
    head.set_weights([weights.reshape(-1, 1), np.zeros(1)])
    return model


def test_of_a_weighted_sum_every_cell_gets_its_share():
    random = np.random.RandomState(0)
    weights = np.zeros((17, 96), np.float32)
    weights[5:9, 10:20] = 1e-3 * random.standard_normal((4, 10))
    model = linear_model(weights)
    waveform = (0.1 * random.standard_normal(4096)).astype(np.float32)
    (one,) = interpretation.attribute(model, waveform, [0])
    silence = interpretation.spectrogram(model, 0 * waveform).values
    shares = weights * (one.spectrogram.values - silence)
    expected = shares / shares.sum() * (one.score - one.silence_score)
    # The rest of the trapezoid rule is spread evenly.
    np.testing.assert_allclose(one.values, expected, rtol=0.02, atol=1e-6)


def test_smoothgrad_does_not_add_up():
    """Shows why we use integrated gradients; see attributions.py."""
    model = narrow_model("musicnn")
    waveform = music_for(model)
    (one,) = interpretation.attribute(model, waveform, [0])
    music = one.spectrogram.values
    random = np.random.RandomState(0)
    noise = 0.15 * np.ptp(music) * random.standard_normal((32, *music.shape))
    network = models.feature_network(model)
    gradients = attributions._gradients(network)
    points = (music + noise).astype(np.float32)
    smooth = gradients(points, 0).mean(axis=0)
    silence = interpretation.spectrogram(model, 0 * waveform).values
    rise = one.score - one.silence_score
    lacking = abs((smooth * (music - silence)).sum() - rise)
    assert lacking > 0.1 * abs(rise) > 4 * abs(one.error)


@pytest.mark.parametrize("hears", ["waveform", "log_mel"])
def test_randomised_weights_change_the_map(hears, trained, corpus):
    """Adebayo et al., NeurIPS 2018, section 3.1, https://arxiv.org/abs/1810.03292."""
    if hears == "waveform":
        model = models.load_model(trained / "model.keras")
    else:
        model = narrow_model("musicnn")
    info = models.model_info(model)
    path = sorted(corpus.rglob("*.mp3"))[0]
    waveform = audio.load_audio(path, info.sample_rate)[: info.segmentation.num_samples]
    (real,) = interpretation.attribute(model, waveform, [0])
    random = np.random.RandomState(0)
    for weight in model.trainable_weights:
        value = weight.numpy()
        weight.assign(random.permutation(value.ravel()).reshape(value.shape))
    (chance,) = interpretation.attribute(model, waveform, [0])
    real, chance = real.values.ravel(), chance.values.ravel()
    assert abs(spearmanr(real, chance).statistic) < 0.3
    # Both are products with the music. In a sparse Fourier transform the same few cells
    # stand out whatever the weights (.93 here); in decibels they need not (.53).
    if hears == "log_mel":
        assert spearmanr(abs(real), abs(chance)).statistic < 0.7


# --- Fourier bands --------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [11025, 16000, 22050])
def test_shares_of_a_product_add_up_to_it(sample_rate):
    one, other = np.random.RandomState(0).standard_normal((2, 30011))
    shares = FourierBands(sample_rate).products(one, other)
    assert shares.values.sum() == pytest.approx(one @ other, rel=1e-3)
    assert (np.diff(shares.frequencies_hz) > 0).all()
    levels = FourierBands(sample_rate).levels(one)
    assert levels.values.shape == shares.values.shape


def test_a_tones_share_lies_at_its_time_and_frequency():
    seconds = np.arange(32000) / 16000
    tone = np.sin(2 * np.pi * 1000 * seconds) * (seconds > 1)
    shares = FourierBands(16000).products(tone, tone)
    late = shares.seconds > 1.02
    near = np.abs(shares.frequencies_hz - 1000) < 100
    assert shares.values[late][:, near].sum() > 0.95 * (tone @ tone)


def test_the_filtered_music_is_what_raised_the_score():
    seconds = np.arange(32000) / 16000
    low, high = (np.sin(2 * np.pi * hz * seconds) for hz in (300, 3000))
    bands = FourierBands(16000)
    np.testing.assert_allclose(
        bands.weighted(low, np.ones(bands.levels(low).values.shape)), low, atol=1e-5
    )
    music = bands.levels(low + high)
    values = np.where(music.frequencies_hz < 1000, 1.0, -1.0) * np.ones(
        music.values.shape
    )
    one = interpretation.Attribution(values, music, 1.0, 0.0)
    heard = interpretation.filtered(low + high, one, 16000)[4000:-4000]
    low, high = low[4000:-4000], high[4000:-4000]
    assert heard @ low / (low @ low) == pytest.approx(1, abs=0.02)
    assert abs(heard @ high / (high @ high)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_backend_attributes_alike(backend, tmp_path):
    model = narrow_model("musicnn")
    model.save(tmp_path / "model.keras")
    waveform = music_for(model)
    np.save(tmp_path / "x.npy", waveform)
    code = (
        "import sys, numpy as np\n"
        "sys.modules['tensorflow'] = None  # as if it were not installed\n"
        "from tagger import models, interpretation\n"
        "folder = sys.argv[1]; model = models.load_model(folder + '/model.keras')\n"
        "x = np.load(folder + '/x.npy')\n"
        "(one,) = interpretation.attribute(model, x, [1])\n"
        "np.save(folder + '/y.npy', one.values)\n"
    )
    run_on_backend(backend, code, tmp_path)
    (one,) = interpretation.attribute(model, waveform, [1])
    # float32 sums in another order, through ReLUs
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), one.values, atol=0.02 * np.abs(one.values).max()
    )
