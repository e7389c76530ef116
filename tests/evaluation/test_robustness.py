"""Each change of a clip has the effect that its name says."""

import numpy as np
import pytest

from tagger.evaluation import robustness

RATE = 16000


@pytest.fixture
def tone():
    """Returns two seconds of 440 Hz at half of full scale."""
    time = np.arange(2 * RATE) / RATE
    return (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def peak_hz(waveform):
    middle = waveform[len(waveform) // 4 : 3 * len(waveform) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    return spectrum.argmax() * RATE / len(middle)


@pytest.mark.parametrize("speed", [0.71, 1.41])
def test_time_stretch_changes_the_length_and_not_the_pitch(tone, speed):
    stretched = robustness.stretch_time(tone, RATE, speed)
    assert len(stretched) == pytest.approx(len(tone) / speed, rel=0.01)
    assert peak_hz(stretched) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("semitones", [-1, 0.5, 1])
def test_pitch_shift_changes_the_pitch_and_not_the_length(tone, semitones):
    shifted = robustness.shift_pitch(tone, RATE, semitones)
    assert len(shifted) == pytest.approx(len(tone), rel=0.01)
    assert peak_hz(shifted) == pytest.approx(440 * 2 ** (semitones / 12), abs=2)


@pytest.mark.parametrize("preset", robustness.COMPRESSION)
def test_compression_follows_its_curve(tone, preset):
    quiet = tone * 2 * 10 ** (-70 / 20)
    louder = robustness.compress(quiet, RATE, preset)
    gain_db = 20 * np.log10(louder[RATE:].std() / quiet[RATE:].std())
    points = robustness.COMPRESSION[preset].split("|")
    curve = np.array([[float(level) for level in p.split("/")] for p in points])
    # FFmpeg's envelope follower settles on this level.
    level_db = 20 * np.log10(np.abs(quiet).mean())
    expected = np.interp(level_db, *curve.T) - level_db
    assert gain_db == pytest.approx(expected, abs=1) and gain_db > 5


def test_noise_has_its_peak(tone):
    added = robustness.add_noise(tone, RATE, 0.4) - tone
    assert np.abs(added).max() == pytest.approx(0.4 * tone.max(), rel=1e-3)


def test_filters_keep_the_samples_they_are_told_to_keep(tone):
    same = robustness.apply_filters(tone, RATE, "volume=1.0")
    np.testing.assert_allclose(same, tone, atol=1e-6)


def test_the_peak_of_noise_is_that_of_either_sign(tone):
    below = -np.abs(tone)
    noise = robustness.add_noise(below, RATE, 0.4) - below
    assert np.abs(noise).max() == pytest.approx(0.4 * 0.5, rel=1e-3)
