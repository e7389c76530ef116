"""A simple baseline for fitted heads: statistics of log-mel spectrograms."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tagger.inference.embedding_cache import Backbone, key_of
from tagger.models.metadata import ModelInfo
from tagger.models.presets import mel_filters

NAME = "log-mel statistics"
NUM_MELS, N_FFT, HOP_LENGTH = 48, 1024, 512
FLOOR = 1e-10  # lowest power before the logarithm


def backbone(info: ModelInfo) -> Backbone:
    """Returns the baseline in the place of a network.

    Args:
        info: Sample rate and segmentation of the base models.
    """
    return Backbone(
        NAME,
        key_of(NAME, str(info.sample_rate), repr(info.segmentation)),
        lambda waveforms: log_mel_statistics(waveforms, info.sample_rate),
        3 * NUM_MELS,
    )


def log_mel_statistics(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
    """Returns mean, deviation and mean absolute change over time of 48 mel bands.

    Args:
        waveforms: float32 [batch, num_samples].
        sample_rate: Their rate in Hz.

    Returns:
        float32 [batch, 144], in dB.
    """
    edge = N_FFT // 2
    padded = np.pad(waveforms, ((0, 0), (edge, edge)), "reflect")
    frames = sliding_window_view(padded, N_FFT, axis=1)[:, ::HOP_LENGTH]
    power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT + 1)[:-1])) ** 2
    bands = power @ mel_filters(sample_rate, N_FFT, NUM_MELS)
    decibels = 10 * np.log10(np.maximum(bands, FLOOR))
    change = np.abs(np.diff(decibels, axis=1))
    statistics = [decibels.mean(axis=1), decibels.std(axis=1), change.mean(axis=1)]
    return np.concatenate(statistics, axis=1).astype(np.float32)
