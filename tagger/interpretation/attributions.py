"""Which times and frequencies raised a tag's score: integrated gradients.

Sundararajan, Taly and Yan, ICML 2017, https://arxiv.org/abs/1703.01365. From silence to
the music, the gradient of the score is summed along a straight line. The values of all
cells of the spectrogram add up to the whole rise of the score (completeness); those of
SmoothGrad do not (`tests/interpretation/test_attributions.py` compares the two).

waveform [num_samples], tag -> attribution [num_frames, num_bands]

- For a model of log-mel spectrograms, the line starts at the spectrogram of silence.
- For a model of waveforms, the music fades in linearly; the values of the samples are
  distributed over the bins of their Fourier transform.
- For harmonic_cnn, whose input is decibels of the waveform, the music fades in by
  decibels, starting 100 dB lower.
"""

import dataclasses
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

TOLERANCE = 0.02  # of the score's rise, or
LEAST_ERROR = 0.005  # of a score, where it hardly rises
MAX_PARTS = 512
FADE_DECIBELS = 100.0  # of a fade by decibels; what is left counts as silence


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What every time and frequency added to a tag's score.

    Attributes:
        values: float32 [num_frames, num_bands]; they add up to `score - silence_score`
            but for `error`.
        spectrogram: The music, frame by frame and band by band as the values.
        score: Of the music.
        silence_score: Where the line began.
    """

    values: np.ndarray
    spectrogram: Spectrogram
    score: float
    silence_score: float

    @property
    def error(self) -> float:
        """What the sum of the values lacks."""
        return float(self.score - self.silence_score - self.values.sum())

    @property
    def is_complete(self) -> bool:
        """Whether they lack no more than 2 % of the score's rise, or .005."""
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
        model: Any of ours.
        waveform: float32 [num_samples] at the model's rate, as long as its segment; a
            loaded model that takes any length takes any here.
        tags: Numbers of the tags.
        num_steps: Parts of the line at first. They are halved until the attribution
            is complete, or there are 512.
        batch_size: Points of the line whose gradients are computed at once.

    Returns:
        One attribution per tag.

    Raises:
        ValueError: the waveform has another length.
    """
    line = _line(model, as_batch(model, waveform)[0])
    gradients = _gradients(line.network)

    def summed(tag: int, places: np.ndarray) -> np.ndarray:
        total = 0
        for start in range(0, len(places), batch_size):
            chunk = places[start : start + batch_size]
            total += np.tensordot(line.speed(chunk), gradients(line.at(chunk), tag), 1)
        return total

    ends = np.array([0.0, 1.0])
    scores = ops.convert_to_numpy(line.network(line.at(ends), training=False))
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
    """The music filtered by what raised a tag's score, to be listened to.

    Args:
        waveform: float32 [num_samples] that was attributed.
        attribution: Of it, smoothed by a Gaussian of one cell. What raised the score
            passes, the more the more it did; of these cells the strongest twentieth
            wholly.
        sample_rate: In Hz.

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
    """Where the gradients are taken.

    Attributes:
        network: Takes a batch of points.
        at: Places [n] between 0 (silence) and 1 (music) -> points [n, …].
        speed: Places [n] -> how fast the points move there, in units of what `shares`
            multiplies with [n].
        shares: Mean of speed times gradient, shaped as a point -> values [num_frames,
            num_bands].
        music: The spectrogram that the values belong to.
    """

    network: keras.Model
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
            models.feature_network(model),
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
        model,
        lambda places: level(places)[:, None].astype(np.float32) * waveform,
        speed,
        lambda gradient: bands.products(waveform, gradient).values,
        music,
    )


def _gradients(network: keras.Model) -> Callable[[np.ndarray, int], np.ndarray]:
    """A function of points [n, …] and a tag: gradients of its score, shaped alike."""
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
