"""Attributes a tag's score to times and frequencies with integrated gradients.

Sundararajan, Taly and Yan, ICML 2017, https://arxiv.org/abs/1703.01365. The gradient of
the score is summed along a straight line from silence to the music. The values of all
cells of the spectrogram add up to the whole rise of the score (completeness); those of
SmoothGrad do not (`tests/interpretation/test_attributions.py` compares the two).

waveform [num_samples], tag -> attribution [num_frames, num_bands]

- If a model takes log-mel spectrograms, the line starts at the spectrogram of silence.
- If it takes waveforms, the music fades in linearly; the values of the samples are
  distributed over the bins of their Fourier transform.
- harmonic_cnn computes decibels of the waveform, so the music fades in linearly in
  decibels, starting 100 dB lower.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from tagger import models
from tagger.interpretation.attention_maps import as_batch
from tagger.interpretation.spectrograms import (
    FourierBands,
    Spectrogram,
    log_mel_frontend,
    spectrogram,
)

TOLERANCE = 0.02  # largest error, as a share of the score's rise, or
LEAST_ERROR = 0.005  # as a score, if the score hardly rises
MAX_PARTS = 512
FADE_DECIBELS = 100.0  # range of a fade in decibels; its start counts as silence


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What each time and frequency added to a tag's score.

    Attributes:
        values: float32 [num_frames, num_bands]; they add up to `score - silence_score`
            except for `error`.
        spectrogram: Spectrogram of the music, with the frames and bands of the values.
        score: Score of the music.
        silence_score: Score of silence, the start of the line.
    """

    values: np.ndarray
    spectrogram: Spectrogram
    score: float
    silence_score: float

    @property
    def summary(self) -> str:
        """How much of the score is explained: `explains 0.31 of 0.62`."""
        return f"explains {self.score - self.silence_score:.2f} of {self.score:.2f}"

    @property
    def error(self) -> float:
        """The rise of the score minus the sum of the values."""
        return float(self.score - self.silence_score - self.values.sum())

    @property
    def is_complete(self) -> bool:
        """Whether the error is at most 2 % of the score's rise, or .005."""
        rise = abs(self.score - self.silence_score)
        return abs(self.error) <= max(TOLERANCE * rise, LEAST_ERROR)


def attribute(
    model: keras.Model,
    waveform: np.ndarray,
    tags: list[int],
    num_steps: int = 32,
    batch_size: int = 8,
) -> list[Attribution]:
    """Attributes the scores of some tags to times and frequencies.

    Args:
        model: Any model of this project.
        waveform: float32 [num_samples] at the model's sample rate, one segment long. A
            loaded model that takes any length takes any length here, too.
        tags: Positions of the tags among the scores.
        num_steps: Number of parts that the line has at first. They are halved until the
            attribution is complete or there are 512 of them.
        batch_size: Number of points on the line whose gradients are computed at once.

    Returns:
        One attribution per tag.

    Raises:
        ValueError: the waveform has another length.
    """
    line = _line(model, as_batch(model, waveform)[0])
    network, gradients = _differentiable(model)

    def summed(tag: int, places: np.ndarray) -> np.ndarray:
        total = 0
        for start in range(0, len(places), batch_size):
            chunk = places[start : start + batch_size]
            total += np.tensordot(line.speed(chunk), gradients(line.at(chunk), tag), 1)
        return total

    ends = np.array([0.0, 1.0])
    scores = ops.convert_to_numpy(network(line.at(ends), training=False))
    found = []
    for tag in tqdm(tags, "Attributing", unit="tag", disable=None):
        start, end = (float(score) for score in scores[:, tag])
        num_parts = num_steps
        outer = summed(tag, ends) / 2  # the trapezoid rule
        inner = summed(tag, np.arange(1, num_parts) / num_parts)
        while True:
            values = line.shares((outer + inner) / num_parts)
            made = Attribution(values, line.music, end, start)
            if made.is_complete or 2 * num_parts > MAX_PARTS:
                break
            num_parts *= 2
            inner = inner + summed(tag, np.arange(1, num_parts, 2) / num_parts)
        found.append(made)
    return found


def filtered(
    waveform: np.ndarray, attribution: Attribution, sample_rate: int
) -> np.ndarray:
    """Filters music to the times and frequencies that raised a tag's score.

    The attribution is smoothed by a Gaussian of one cell. Cells that raised the score
    pass in proportion to their values; the strongest twentieth of them pass in full.

    Args:
        waveform: Attributed waveform, float32 [num_samples].
        attribution: Attribution of the waveform.
        sample_rate: Sample rate in Hz.

    Returns:
        float32 [num_samples].
    """
    weights = gaussian_filter(np.maximum(attribution.values, 0), 1.0)
    raising = weights[weights > 0]
    if raising.size:
        weights = np.minimum(weights / np.quantile(raising, 0.95), 1)
    bands, heard = FourierBands(sample_rate), attribution.spectrogram
    levels = bands.levels(waveform)
    in_bands = [
        np.interp(levels.frequencies_hz, heard.frequencies_hz, row) for row in weights
    ]
    in_frames = [
        np.interp(levels.seconds, heard.seconds, column)
        for column in np.transpose(in_bands)
    ]
    return bands.weighted(waveform, np.transpose(in_frames))


# --- From silence to the music --------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Line:
    """The line from silence to the music, along which gradients are taken.

    Attributes:
        at: Function of places [n] between 0 (silence) and 1 (music) that returns points
            [n, …].
        speed: Function of places [n] that returns how fast the points move there [n],
            in units of the factor that `shares` multiplies by.
        shares: Function of the mean of speed times gradient, shaped like a point, that
            returns values [num_frames, num_bands].
        music: Spectrogram that the values belong to.
    """

    at: Callable[[np.ndarray], np.ndarray]
    speed: Callable[[np.ndarray], np.ndarray]
    shares: Callable[[np.ndarray], np.ndarray]
    music: Spectrogram


def _line(model: keras.Model, waveform: np.ndarray) -> _Line:
    music = spectrogram(model, waveform)
    if log_mel_frontend(model) is not None:
        silence = spectrogram(model, np.zeros_like(waveform)).values
        rise = music.values - silence
        return _Line(
            lambda places: silence + places[:, None, None].astype(np.float32) * rise,
            np.ones_like,
            lambda gradient: gradient * rise,
            music,
        )
    hears_decibels = any(layer.name == "frontend" for layer in model.layers)

    def level(places: np.ndarray) -> np.ndarray:
        if hears_decibels:
            return 10 ** ((places - 1) * FADE_DECIBELS / 20)
        return places

    def speed(places: np.ndarray) -> np.ndarray:
        if hears_decibels:
            return level(places) * np.log(10) * FADE_DECIBELS / 20
        return np.ones_like(places)

    bands = FourierBands(models.model_info(model).sample_rate)
    return _Line(
        lambda places: level(places)[:, None].astype(np.float32) * waveform,
        speed,
        lambda gradient: bands.products(waveform, gradient).values,
        music,
    )


@functools.lru_cache(maxsize=1)  # compiling takes longer than a tag
def _differentiable(model: keras.Model) -> tuple[keras.Model, Callable]:
    """Returns the part of a model along whose input the line runs, and `_gradients`."""
    has_frontend = log_mel_frontend(model) is not None
    network = models.feature_network(model) if has_frontend else model
    return network, _gradients(network)


def _gradients(network: keras.Model) -> Callable[[np.ndarray, int], np.ndarray]:
    """Returns a function of points [n, …] and a tag that computes gradients [n, …]."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(reduce_retracing=True)
        def compiled(points, tag):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(points)
                scores = tf.gather(network(points, training=False), tag, axis=1)
            return tape.gradient(scores, points)

        def gradients(points, tag):
            return compiled(tf.convert_to_tensor(points), tf.constant(tag)).numpy()

    elif backend == "jax":
        import jax

        def score(points, weights, others, tag):
            scores, _ = network.stateless_call(weights, others, points, training=False)
            return scores[:, tag].sum()

        compiled = jax.jit(jax.grad(score))

        def gradients(points, tag):
            weights = [weight.value for weight in network.trainable_variables]
            others = [weight.value for weight in network.non_trainable_variables]
            return np.asarray(compiled(points, weights, others, tag))

    else:
        import torch

        def gradients(points, tag):
            points = ops.convert_to_tensor(points).requires_grad_()
            scores = network(points, training=False)[:, tag].sum()
            (gradient,) = torch.autograd.grad(scores, points)
            return gradient.cpu().numpy()

    return gradients
