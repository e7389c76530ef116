"""Compares each transform with SciPy, plain loops or librosa."""

import keras
import numpy as np
import pytest
import scipy.signal
from keras import ops

from tagger import augmentations

RATE = 22050
RNG = np.random.default_rng(0)


def noise(num_examples=2, num_samples=12000):
    return RNG.standard_normal((num_examples, num_samples)).astype(np.float32)


def numbers(*values):
    return ops.convert_to_tensor(np.array(values, np.float32))


def array(tensor):
    return ops.convert_to_numpy(tensor)


def test_crop_is_a_stretch_and_repeats_what_is_too_short():
    waveform = np.arange(10.0)
    np.testing.assert_array_equal(augmentations.crop(waveform, 4, 3), [3, 4, 5, 6])
    short = augmentations.crop(waveform[:3], 7, 0)
    np.testing.assert_array_equal(short, [0, 1, 2, 0, 1, 2, 0])


def test_polarity_and_gain():
    x = noise()
    np.testing.assert_array_equal(augmentations.invert_polarity(x), -x)
    quieter = array(augmentations.gain(x, numbers(-20.0, -6.0206)))
    np.testing.assert_allclose(quieter, x * [[0.1], [0.5]], rtol=1e-5)


def test_noise_has_its_share_of_each_waveforms_deviation():
    x = noise(num_samples=100_000) * np.array([[1.0], [0.01]], np.float32)
    added = array(augmentations.add_noise(x, numbers(0.3, 0.5), seed=1)) - x
    measured = added.std(axis=1) / x.std(axis=1)
    np.testing.assert_allclose(measured, [0.3, 0.5], rtol=0.01)  # 100,000 draws
    assert abs(np.corrcoef(added[0], x[0])[0, 1]) < 0.02
    again = array(augmentations.add_noise(x, numbers(0.3, 0.5), seed=1)) - x
    np.testing.assert_array_equal(added, again)


@pytest.mark.parametrize(
    ("kind", "cutoffs"), [("low", (2200, 4000)), ("high", (200, 1200))]
)
def test_filters_match_scipys_butterworth(kind, cutoffs):
    x = noise()
    ours = getattr(augmentations, f"{kind}_pass")(x, numbers(*cutoffs), RATE)
    for row, waveform, cutoff in zip(array(ours), x, cutoffs, strict=True):
        b, a = scipy.signal.butter(2, cutoff, kind, fs=RATE)
        # float32 rounding in a Fourier transform of 32,768 points.
        np.testing.assert_allclose(row, scipy.signal.lfilter(b, a, waveform), atol=2e-4)


def test_delay_matches_a_plain_loop():
    x = noise()
    delayed = array(augmentations.delay(x, numbers(200, 450), RATE))
    for row, waveform, offset in zip(delayed, x, (4410, 9922), strict=True):
        expected = [
            (waveform[t] + 0.5 * (waveform[t - offset] if t >= offset else 0)) / 2
            for t in range(len(waveform))
        ]
        np.testing.assert_allclose(row, expected, atol=1e-6)


def freeverb(waveform, reverberance, damping, room_size, sample_rate):
    """Computes sox's reverb with plain loops over delay lines."""
    a, b = -1 / np.log(1 - 0.3), 100 / (np.log(1 - 0.98) * -1 / np.log(1 - 0.3) + 1)
    feedback = 1 - np.exp((reverberance - b) / (a * b))
    damping = damping / 100 * 0.3 + 0.2
    scale = (room_size / 100 * 0.9 + 0.1) * sample_rate / 44100
    combs = np.zeros(len(waveform))
    for samples in augmentations.COMBS:
        line, store = np.zeros(int(scale * samples + 0.5)), 0.0
        for t, value in enumerate(waveform):
            place = t % len(line)
            combs[t] += line[place]
            store = line[place] + (store - line[place]) * damping
            line[place] = value + store * feedback
    for samples in augmentations.ALLPASSES:
        line = np.zeros(int(scale * samples + 0.5))
        for t, value in enumerate(combs):
            place = t % len(line)
            combs[t] = line[place] - value
            line[place] = value + line[place] * 0.5
    return waveform + 0.015 * combs


@pytest.mark.parametrize("settings", [(50, 50, 100), (100, 0, 30), (0, 100, 0)])
def test_reverb_matches_plain_loops(settings):
    impulse = np.zeros((1, 6000), np.float32)
    impulse[0, 100] = 1
    for waveform in (impulse, noise(1, 6000)):
        parameters = [numbers(value) for value in settings]
        ours = array(augmentations.reverb(waveform, *parameters, RATE))[0]
        expected = freeverb(waveform[0], *settings, RATE)
        np.testing.assert_allclose(ours, expected, atol=5e-4 * np.abs(expected).max())


@pytest.mark.parametrize("cents", [-700, -250, 0, 300, 700])
def test_pitch_moves_partials_and_not_the_tempo(cents):
    """In a chord with clicks, partials move by the ratio and clicks stay in place."""
    time = np.arange(2 * RATE) / RATE
    frequencies = np.array([440.0, 1000.0, 2500.0])
    chord = sum(np.sin(2 * np.pi * f * time) for f in frequencies)
    shifted = array(
        augmentations.shift_pitch(chord[None].astype(np.float32), numbers(cents))
    )[0]
    middle = shifted[RATE // 2 : 3 * RATE // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    peaks = scipy.signal.find_peaks(spectrum, height=0.2 * spectrum.max(), distance=50)
    expected = frequencies * 2 ** (cents / 1200)
    np.testing.assert_allclose(peaks[0], expected, atol=2)  # bins of 1 Hz
    assert np.std(middle) == pytest.approx(np.std(chord), rel=0.1)


def test_pitch_resembles_librosas():
    librosa = pytest.importorskip("librosa")
    time = np.arange(2 * RATE) / RATE
    beats = np.exp(-8 * (time % 0.25))
    x = beats * sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 8))
    x = x.astype(np.float32)
    ours = array(augmentations.shift_pitch(x[None], numbers(400)))[0]
    theirs = librosa.effects.pitch_shift(x, sr=RATE, n_steps=4)

    def log_mel(waveform):
        mel = librosa.feature.melspectrogram(y=waveform, sr=RATE, n_mels=64)
        return librosa.power_to_db(mel)

    one, other = log_mel(ours)[:, 4:-4], log_mel(theirs)[:, 4:-4]
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.97
    assert np.corrcoef(one.ravel(), log_mel(x)[:, 4:-4].ravel())[0, 1] < 0.9


@pytest.fixture(scope="module")
def chain():
    layer = augmentations.Augmentation(RATE, seed=1)
    x = noise(64, 9000)
    return layer, x, array(layer(x, training=True))


def test_chain_is_off_outside_training_and_drawn_anew_for_every_example(chain):
    layer, x, noised = chain
    np.testing.assert_array_equal(array(layer(x, training=False)), x)
    assert np.isfinite(noised).all() and noised.shape == x.shape
    same = array(augmentations.Augmentation(RATE, seed=1)(x, training=True))
    np.testing.assert_array_equal(noised, same)
    assert not np.allclose(array(layer(x, training=True)), noised)


@pytest.mark.parametrize("name", ["polarity", "gain", "noise", "delay"])
def test_transforms_come_with_their_probability(name):
    layer = augmentations.Augmentation(RATE, names=[name], seed=3)
    x = noise(1, 12000).repeat(400, axis=0)
    changed = np.any(array(layer(x, training=True)) != x, axis=1).mean()
    probability = augmentations.TRANSFORMS[name].probability
    assert changed == pytest.approx(probability, abs=0.08)  # 3 σ of 400 draws


def test_probabilities_are_the_papers():
    named = {name: t.probability for name, t in augmentations.TRANSFORMS.items()}
    assert named == {
        "polarity": 0.8, "noise": 0.3, "gain": 0.2, "filter": 0.8, "delay": 0.5,
        "pitch": 0.4, "reverb": 0.3,
    }  # fmt: skip


def test_unknown_transforms_are_named():
    with pytest.raises(ValueError, match="Unknown transform 'echo'. Choose among: pol"):
        augmentations.Augmentation(RATE, names=["echo"])


def test_silence_and_a_batch_of_one_stay_finite(chain):
    silence = np.zeros((1, 9000), np.float32)
    layer = augmentations.Augmentation(RATE, always=True)
    assert np.isfinite(array(layer(silence))).all()


def test_layer_is_restored_from_its_config():
    layer = augmentations.Augmentation(16000, names=["gain"])
    again = augmentations.Augmentation.from_config(layer.get_config())
    assert (again.sample_rate, again.names) == (16000, ("gain",))
    assert isinstance(again, keras.layers.Layer)


def test_a_copy_by_its_config_draws_the_same():
    layer = augmentations.Augmentation(RATE, ["gain"], always=True, seed=7)
    copy = augmentations.Augmentation.from_config(layer.get_config())
    x = noise()
    np.testing.assert_array_equal(array(layer(x)), array(copy(x)))
