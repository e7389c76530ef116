"""Spectrograms of what a model hears.

Most of our models hear a log-mel spectrogram, which is returned as it is. For those
that hear the waveform or its harmonics, it is a Fourier transform of the waveform in
mel-spaced bands.
"""

import dataclasses

import keras
import numpy as np
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from tagger import models
from tagger.models.frontends import LogMelSpectrogram
from tagger.models.presets import UNITS, mel_edges_hz

FRAME_SECONDS = 0.0465  # maximum, for models without a spectrogram of their own
MAX_BANDS = 96
FLOOR = 1e-10  # lowest power, -100 dB


@dataclasses.dataclass(frozen=True)
class Spectrogram:
    """Levels over time and frequency.

    Attributes:
        values: float32 [num_frames, num_bands].
        seconds: Centre of each frame [num_frames].
        frequencies_hz: Centre of each band [num_bands], rising.
        unit: Unit of the values.
    """

    values: np.ndarray
    seconds: np.ndarray
    frequencies_hz: np.ndarray
    unit: str

    def from_second(self, start_seconds: float) -> "Spectrogram":
        """Returns the spectrogram with its times shifted by `start_seconds`."""
        return dataclasses.replace(self, seconds=self.seconds + start_seconds)


def log_mel_frontend(model: keras.Model) -> LogMelSpectrogram | None:
    """Returns the log-mel frontend of a model, or None if it has none."""
    found = [layer for layer in model.layers if isinstance(layer, LogMelSpectrogram)]
    return found[0] if found else None


def spectrogram(model: keras.Model, waveform: np.ndarray) -> Spectrogram:
    """Returns what a model hears of a waveform.

    Args:
        model: Any model of this project.
        waveform: float32 [num_samples] at the model's sample rate.
    """
    frontend = log_mel_frontend(model)
    if frontend is None:
        return FourierBands(models.model_info(model).sample_rate).levels(waveform)
    log_mel = frontend.log_mel
    values = keras.ops.convert_to_numpy(frontend(waveform[None]))[0]
    first = log_mel.n_fft / 2 if log_mel.pad_mode is None else 0
    samples = first + log_mel.hop_length * np.arange(len(values))
    f_max = log_mel.f_max or log_mel.sample_rate / 2
    edges = mel_edges_hz(log_mel.n_mels, log_mel.f_min, f_max, log_mel.mel_scale)
    unit = UNITS[log_mel.logarithm]
    return Spectrogram(values, samples / log_mel.sample_rate, edges[1:-1], unit)


class FourierBands:
    """A short-time Fourier transform whose bins are grouped into mel-spaced bands.

    Args:
        sample_rate: Sample rate of the waveforms in Hz.
    """

    def __init__(self, sample_rate: int):
        n_fft = 1 << int(np.log2(FRAME_SECONDS * sample_rate))
        window = hann(n_fft, sym=False)
        self._fourier = ShortTimeFFT(window, n_fft // 4, sample_rate)
        # The inverse transform uses the dual window, not the window itself.
        self._of_inverse = ShortTimeFFT(self._fourier.dual_win, n_fft // 4, sample_rate)
        edges = mel_edges_hz(MAX_BANDS - 1, 0.0, sample_rate / 2)[1:-1]
        bins = np.searchsorted(self._fourier.f, edges)
        # Every band has at least one bin, and every bin is in exactly one band.
        self._starts = np.unique([0, *bins[bins < len(self._fourier.f)]])

    def levels(self, waveform: np.ndarray) -> Spectrogram:
        """Returns the power in each band in decibels."""
        power = self._in_bands(np.abs(self._fourier.stft(waveform)) ** 2)
        return self._placed(10 * np.log10(np.maximum(power, FLOOR)), len(waveform))

    def products(self, waveform: np.ndarray, other: np.ndarray) -> Spectrogram:
        """Returns the inner product of two waveforms, divided by time and frequency.

        A waveform is the sum of the inverse transforms of its bins. The inner products
        of these summands with the other waveform add up to that of the whole waveform.
        """
        n_fft = self._fourier.mfft
        once = np.isin(np.arange(self._fourier.f_pts), (0, n_fft // 2))
        shares = self._fourier.stft(waveform) * self._of_inverse.stft(other).conj()
        shares = shares.real * np.where(once, 1, 2)[:, None] / n_fft
        return self._placed(self._in_bands(shares), len(waveform))

    def weighted(self, waveform: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Returns the waveform with its bins multiplied by weights [frames, bands]."""
        transform = self._fourier.stft(waveform)
        widths = np.diff([*self._starts, len(transform)])
        transform *= np.repeat(weights.T, widths, axis=0)
        return self._fourier.istft(transform, k1=len(waveform)).astype(np.float32)

    def _in_bands(self, bins: np.ndarray) -> np.ndarray:
        return np.add.reduceat(bins, self._starts).T.astype(np.float32)

    def _placed(self, values: np.ndarray, num_samples: int) -> Spectrogram:
        ends = [*self._starts[1:], len(self._fourier.f)]
        centres = [
            self._fourier.f[a:b].mean() for a, b in zip(self._starts, ends, strict=True)
        ]
        seconds = self._fourier.t(num_samples)
        return Spectrogram(values, seconds, np.array(centres), "dB")
