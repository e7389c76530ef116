"""Weights and music drawn from a seed, so that references need not store them."""

import zlib

import numpy as np


def draw_weights(shapes, seed=0):
    """Returns name -> float32 array, scaled so that signals neither vanish nor explode.

    NumPy guarantees that the stream of RandomState never changes.
    """
    return {name: _draw(name, tuple(shape), seed) for name, shape in shapes.items()}


def _draw(name, shape, seed):
    random = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))
    kind = name.rpartition("/" if "/" in name else ".")[2]
    of_decibels = shape in ((1,), (6,))  # normalises the channels of a spectrogram
    if of_decibels and kind in ("running_var", "running_mean"):
        values = np.full(shape, 400 if kind == "running_var" else -20)
    elif kind in ("running_var", "moving_variance"):
        values = random.uniform(0.5, 1.5, shape)
    elif kind == "bw_Q" or (len(shape) == 1 and kind in ("weight", "gamma")):
        values = random.uniform(0.8, 1.2, shape)
    elif len(shape) < 2:
        values = random.standard_normal(shape) * 0.1
    else:
        # The output axis comes first in PyTorch, last in TensorFlow.
        outputs = shape[-1] if "/" in name else shape[0]
        values = random.standard_normal(shape) * np.sqrt(outputs / np.prod(shape))
    return values.astype(np.float32)


def draw_music(num_samples, sample_rate, seed=0):
    """Returns two waveforms [2, num_samples] of notes and noise: loud and quiet."""
    random = np.random.RandomState(seed)
    seconds = np.arange(num_samples) / sample_rate
    waveform = 1e-3 * random.standard_normal((2, num_samples))
    for i in range(2):
        for start in np.arange(0, seconds[-1], 0.5):
            pitch_hz = 440 * 2 ** (random.randint(-24, 12) / 12)
            length = int(sample_rate / 2)
            at = int(start * sample_rate)
            time = seconds[at : at + length] - start
            for overtone in range(1, 6):
                wave = np.sin(2 * np.pi * overtone * pitch_hz * time)
                waveform[i, at : at + length] += wave * np.exp(-5 * time) / overtone
    return (waveform * [[0.2], [0.02]]).astype(np.float32)


def draw_features(num_frames, n_mels):
    """Returns two log-mel spectrograms [2, num_frames, n_mels], drawn from N(0, 1)."""
    shape = (2, num_frames, n_mels)
    return np.random.RandomState(1).standard_normal(shape).astype(np.float32)
