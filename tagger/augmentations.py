"""Waveform -> waveform: augmentation for the noisy student (Won, Choi and Serra 2021).

https://arxiv.org/abs/2111.13457 and its code, which lists the transforms in this order:
crop, polarity, noise, gain, filter, delay, pitch, reverb. `data.batches` draws the
crop from the whole clip. All others are functions of waveforms float32 [batch,
num_samples] with parameters [batch], written in `keras.ops`: they run inside the model,
on its device, with every backend. `Augmentation` draws the parameters.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops, random

from tagger.text import TaggerError

MAX_CENTS = 700
N_FFT, HOP_LENGTH = 2048, 512  # of the phase vocoder
NUM_TAPS = 16  # of the windowed sinc that interpolates between samples
# Factor by which a filter's tail decays before it wraps around the transform.
WRAPPED = 1e-5
# Delays of Freeverb's filters, as in sox, in samples at 44100 Hz.
COMBS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)
ALLPASSES = (225, 341, 441, 556)
REVERB_GAIN = 0.015


def crop(waveform: np.ndarray, num_samples: int, start: int) -> np.ndarray:
    """Cuts an excerpt from a waveform, which is repeated first if it is too short.

    Args:
        waveform: float32 [length].
        num_samples: Length of the excerpt.
        start: First sample of the excerpt, 0 to max(length - num_samples, 0).

    Returns:
        float32 [num_samples].
    """
    repeats = -(-num_samples // len(waveform))
    return np.tile(waveform, repeats)[start : start + num_samples]


def invert_polarity(waveforms):
    """Flips the sign of every sample."""
    return -waveforms


def add_noise(waveforms, level, seed: int | random.SeedGenerator):
    """Adds white Gaussian noise of `level` times each waveform's standard deviation."""
    sigma = ops.expand_dims(level, -1) * ops.std(waveforms, axis=-1, keepdims=True)
    return waveforms + sigma * random.normal(ops.shape(waveforms), seed=seed)


def gain(waveforms, gain_db):
    """Changes the level by `gain_db` decibels."""
    return waveforms * ops.expand_dims(ops.power(10.0, gain_db / 20), -1)


def delay(waveforms, delay_ms, sample_rate: int):
    """Mixes in an echo of half the amplitude: (x[t] + x[t - delay] / 2) / 2."""
    num_samples = waveforms.shape[-1]
    offset = ops.cast(ops.floor(delay_ms * (sample_rate / 1000)), "int32")
    source = ops.arange(num_samples, dtype="int32") - ops.expand_dims(offset, -1)
    late = ops.take_along_axis(waveforms, ops.maximum(source, 0), axis=-1)
    late = ops.where(source >= 0, late, 0.0)
    return (waveforms + 0.5 * late) / 2


# --- Linear filters, applied as frequency responses of one long transform -------------


class _Complex(NamedTuple):
    """A complex tensor with the arithmetic that Keras lacks."""

    real: object
    imaginary: object

    def __add__(self, other):
        return _Complex(self.real + other.real, self.imaginary + other.imaginary)

    def __mul__(self, other):
        if not isinstance(other, _Complex):
            return _Complex(self.real * other, self.imaginary * other)
        return _Complex(
            self.real * other.real - self.imaginary * other.imaginary,
            self.real * other.imaginary + self.imaginary * other.real,
        )

    def __truediv__(self, other):
        power = other.real**2 + other.imaginary**2
        return self * _Complex(other.real / power, -other.imaginary / power)


def _apply_response(waveforms, response: Callable):
    """Filters waveforms with a rational response, including its whole tail.

    The transform is taken of x[t] r^-t, on a circle with radius r > 1, so that the tail
    has decayed to WRAPPED when it wraps around the end of the transform.

    Args:
        waveforms: float32 [batch, num_samples].
        response: Function(late) -> response, where late(num_samples) returns
            z^-num_samples for a delay that is an int or [batch].
    """
    num_samples = waveforms.shape[-1]
    length = 2 ** math.ceil(math.log2(2 * num_samples))
    fall = math.log(WRAPPED) / length  # per sample
    envelope = ops.exp(fall * ops.arange(num_samples, dtype="float32"))
    bins = ops.arange(length // 2 + 1, dtype="int32")

    def late(delays):
        if not isinstance(delays, int):
            delays = ops.expand_dims(delays, -1)
        # Whole turns are removed in integers: float32 would lose the remainder.
        angle = -2 * math.pi / length * ops.cast(bins * delays % length, "float32")
        size = ops.exp(fall * ops.cast(delays, "float32"))
        return _Complex(size * ops.cos(angle), size * ops.sin(angle))

    spectrum = _Complex(*ops.rfft(waveforms * envelope, fft_length=length))
    filtered = ops.irfft(spectrum * response(late), fft_length=length)
    return filtered[..., :num_samples] / envelope


def _biquad(waveforms, cutoff_hz, sample_rate: int, sign: int):
    """Applies a second-order section of the Audio EQ Cookbook with Q = 1 / sqrt(2)."""
    angle = ops.expand_dims(2 * math.pi / sample_rate * cutoff_hz, -1)
    cosine, alpha = ops.cos(angle), ops.sin(angle) / math.sqrt(2)
    middle = sign - cosine  # low-pass: 1 - cos; high-pass: -(1 + cos)

    def response(late):
        one, two = late(1), late(2)
        unit = _Complex(1.0, 0.0)
        above = (unit + two) * (sign * middle / 2) + one * middle
        below = unit * (1 + alpha) + one * (-2 * cosine) + two * (1 - alpha)
        return above / below

    return _apply_response(waveforms, response)


def low_pass(waveforms, cutoff_hz, sample_rate: int):
    """Applies a second-order Butterworth low-pass, 3 dB down at the cutoff."""
    return _biquad(waveforms, cutoff_hz, sample_rate, 1)


def high_pass(waveforms, cutoff_hz, sample_rate: int):
    """Applies a second-order Butterworth high-pass, 3 dB down at the cutoff."""
    return _biquad(waveforms, cutoff_hz, sample_rate, -1)


def reverb(waveforms, reverberance, damping, room_size, sample_rate: int):
    """Adds reverberation with Freeverb's filters and sox's scales, in one channel.

    The waveform passes through eight parallel combs with damped feedback, then four
    allpasses; the result is added to the dry waveform.

    Args:
        waveforms: float32 [batch, num_samples].
        reverberance: 0 to 100; sets the feedback of the combs, .3 to .98.
        damping: 0 to 100; sets how much faster high frequencies decay.
        room_size: 0 to 100; sets the length of the delays.
        sample_rate: Sample rate in Hz.
    """
    slope = 1 / math.log(0.7)  # sox: the feedback is .3 at 0, .98 at 100
    span = 100 / (1 - math.log(0.02) * slope)
    feedback = 1 - ops.exp((reverberance - span) / (-slope * span))
    feedback = ops.expand_dims(feedback, -1)
    damped = ops.expand_dims(0.2 + 0.3 * damping / 100, -1)
    scale = (0.1 + 0.9 * room_size / 100) * (sample_rate / 44100)

    def num_late(samples):
        return ops.cast(scale * samples + 0.5, "int32")

    def response(late):
        unit = _Complex(1.0, 0.0)
        # Feedback passes a one-pole low-pass. Numerator and denominator are multiplied
        # by 1 - damped · z^-1.
        pole = unit + late(1) * -damped
        loop = pole * (1 / (1 - damped))
        combs = _Complex(0.0, 0.0)
        for samples in COMBS:
            echo = late(num_late(samples))
            combs = combs + echo * loop / (loop + echo * -feedback)
        room = combs * REVERB_GAIN
        for samples in ALLPASSES:
            echo = late(num_late(samples))
            room = room * (echo * 1.5 + unit * -1.0) / (unit + echo * -0.5)
        return unit + room

    return _apply_response(waveforms, response)


# --- Pitch and tempo ------------------------------------------------------------------


def shift_pitch(waveforms, cents):
    """Shifts the pitch without changing the tempo.

    A phase vocoder stretches time by the ratio of the frequencies, then a windowed sinc
    resamples the result.

    Args:
        waveforms: float32 [batch, num_samples].
        cents: Shift in hundredths of a semitone [batch], -700 to 700.
    """
    num_samples = waveforms.shape[-1]
    ratio = ops.power(2.0, ops.cast(cents, "float32") / 1200)
    longest = math.ceil(num_samples * 2 ** (MAX_CENTS / 1200)) + NUM_TAPS
    stretched = _stretch(waveforms, 1 / ratio, longest, highest=1 / ratio)
    return _read(stretched, ratio, num_samples)


def _stretch(waveforms, speed, num_samples: int, highest=None):
    """Changes the speed without changing the pitch (phase vocoder).

    Args:
        waveforms: float32 [batch, length].
        speed: Speed [batch]; 2 is twice as fast.
        num_samples: Length of the result. Beyond the end of a waveform, its last frame
            is held.
        highest: Highest frequency to keep [batch], as a fraction of half the rate.
    """
    real, imaginary = ops.stft(waveforms, N_FFT, HOP_LENGTH, N_FFT)
    size = ops.sqrt(real**2 + imaginary**2)
    phase = ops.arctan2(imaginary, real)
    num_frames = num_samples // HOP_LENGTH + 1
    speed = ops.expand_dims(ops.cast(speed, "float32"), -1)
    position = speed * ops.arange(num_frames, dtype="float32")
    position = ops.minimum(position, size.shape[1] - 1.001)
    before = ops.cast(ops.floor(position), "int32")

    def frames(tensor, index):
        return ops.take_along_axis(tensor, ops.expand_dims(index, -1), axis=1)

    part = ops.expand_dims(position - ops.cast(before, "float32"), -1)
    size = (1 - part) * frames(size, before) + part * frames(size, before + 1)
    # The phase of a bin advances per frame as in the original, since hops are equal.
    turns = frames(phase, before + 1) - frames(phase, before)
    phase = phase[:, :1] + ops.cumsum(turns, axis=1) - turns
    if highest is not None:
        bins = ops.arange(N_FFT // 2 + 1, dtype="float32") / (N_FFT // 2)
        kept = bins <= ops.reshape(highest, [-1, 1, 1])
        size = ops.where(kept, size, 0.0)
    # Bins around a partial are locked to its phase (Puckette 1995); otherwise they
    # would drift apart and cancel. Under a Hann window, neighbours have opposite signs.
    real, imaginary = (
        _minus_neighbours(size * part) for part in (ops.cos(phase), ops.sin(phase))
    )
    scale = size / ops.sqrt(ops.maximum(real**2 + imaginary**2, 1e-20))
    spectrum = scale * real, scale * imaginary
    return ops.istft(spectrum, N_FFT, HOP_LENGTH, N_FFT, length=num_samples)


def _minus_neighbours(bins):
    padded = ops.pad(bins, [[0, 0], [0, 0], [1, 1]])
    return bins - padded[..., :-2] - padded[..., 2:]


def _read(waveforms, speed, num_samples: int):
    """Interpolates the waveforms at t · speed with a Hann-windowed sinc."""
    position = ops.expand_dims(speed, -1) * ops.arange(num_samples, dtype="float32")
    before = ops.floor(position)
    part = position - before
    before = ops.cast(before, "int32")
    sine = ops.sin(math.pi * part) / math.pi
    total = 0.0
    half = NUM_TAPS // 2
    for tap in range(1 - half, half + 1):
        distance = part - tap
        near = ops.abs(distance) < 1e-6
        sinc = (-1) ** tap * sine / ops.where(near, 1.0, distance)
        sinc = ops.where(near, 1.0, sinc)
        window = 0.5 + 0.5 * ops.cos(math.pi / half * distance)
        index = ops.clip(before + tap, 0, waveforms.shape[-1] - 1)
        total += sinc * window * ops.take_along_axis(waveforms, index, axis=-1)
    return total


# --- The chain ------------------------------------------------------------------------


class Transform(NamedTuple):
    """One transform of the chain.

    Attributes:
        probability: Probability that the transform is applied to an example.
        apply: Function(waveforms, uniform, seed, sample_rate) -> waveforms, where
            uniform(low, high) draws one number per example.
    """

    probability: float
    apply: Callable


def _polarity(waveforms, uniform, seed, sample_rate):
    return invert_polarity(waveforms)


def _noise(waveforms, uniform, seed, sample_rate):
    return add_noise(waveforms, uniform(0.3, 0.5), seed)


def _gain(waveforms, uniform, seed, sample_rate):
    return gain(waveforms, uniform(-20.0, -1.0))


def _filter(waveforms, uniform, seed, sample_rate):
    high = high_pass(waveforms, uniform(200.0, 1200.0), sample_rate)
    low = low_pass(waveforms, uniform(2200.0, 4000.0), sample_rate)
    return ops.where(ops.expand_dims(uniform(0.0, 1.0) < 0.5, -1), high, low)


def _delay(waveforms, uniform, seed, sample_rate):
    delay_ms = 50 * ops.floor(uniform(4.0, 10.0))  # 200, 250 … 450
    return delay(waveforms, delay_ms, sample_rate)


def _pitch(waveforms, uniform, seed, sample_rate):
    return shift_pitch(waveforms, uniform(-MAX_CENTS, MAX_CENTS))


def _reverb(waveforms, uniform, seed, sample_rate):
    settings = [uniform(0.0, 100.0) for _ in range(3)]
    return reverb(waveforms, *settings, sample_rate)


TRANSFORMS = {
    "polarity": Transform(0.8, _polarity),
    "noise": Transform(0.3, _noise),
    "gain": Transform(0.2, _gain),
    "filter": Transform(0.8, _filter),
    "delay": Transform(0.5, _delay),
    "pitch": Transform(0.4, _pitch),
    "reverb": Transform(0.3, _reverb),
}


def examples(
    waveform: np.ndarray, sample_rate: int, num_samples: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Applies each of the eight transforms, and the whole chain, to one waveform.

    Args:
        waveform: float32 [length].
        sample_rate: Sample rate in Hz.
        num_samples: Length of the random excerpt that is transformed.
        seed: Seed of the excerpt and the parameters.

    Returns:
        Name of the transform ("crop", …, "chain") -> float32 [num_samples].
    """
    last = max(len(waveform) - num_samples, 0)
    start = int(np.random.default_rng(seed).integers(last + 1))
    cropped = crop(waveform, num_samples, start)
    made = {"crop": cropped}
    for name in (*TRANSFORMS, "chain"):
        names = TRANSFORMS if name == "chain" else [name]
        layer = Augmentation(sample_rate, names, always=True, seed=seed)
        made[name] = ops.convert_to_numpy(layer(cropped[None]))[0]
    return made


class Augmentation(keras.layers.Layer):
    """Applies each transform with its probability, drawn separately for every example.

    waveforms float32 [batch, num_samples] -> the same shape. The waveforms are
    unchanged outside training.

    Args:
        sample_rate: Sample rate of the waveforms in Hz.
        names: Transforms to use. They are applied in the order of TRANSFORMS.
        always: Whether to apply every transform to every example, regardless of its
            probability, and outside training too.
        seed: Seed of the random draws; None takes Keras' global seed.

    Raises:
        ValueError: a name is unknown.

    Reference:
        Won, Choi and Serra, ISMIR 2021, https://arxiv.org/abs/2111.13457
    """

    def __init__(
        self,
        sample_rate: int,
        names: Sequence[str] = tuple(TRANSFORMS),
        always: bool = False,
        seed: int | None = None,
        **kwargs,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        unknown = [name for name in names if name not in TRANSFORMS]
        if unknown:
            raise TaggerError(
                f"Unknown transform {unknown[0]!r}. Choose among:"
                f" {', '.join(TRANSFORMS)}."
            )
        self.sample_rate = sample_rate
        self.names = tuple(names)
        self.always = always
        self.seed = seed
        self._seed = random.SeedGenerator(seed)

    def call(self, waveforms, training=None):
        if not (training or self.always):
            return waveforms

        def uniform(low, high):
            shape = ops.shape(waveforms)[:1]
            return random.uniform(shape, low, high, seed=self._seed)

        for name, (probability, apply) in TRANSFORMS.items():
            if name not in self.names:
                continue
            changed = apply(waveforms, uniform, self._seed, self.sample_rate)
            chosen = uniform(0.0, 1.0) < (1.0 if self.always else probability)
            waveforms = ops.where(ops.expand_dims(chosen, -1), changed, waveforms)
        return waveforms

    def get_config(self):
        return super().get_config() | {
            "sample_rate": self.sample_rate,
            "names": list(self.names),
            "always": self.always,
            "seed": self.seed,
        }
