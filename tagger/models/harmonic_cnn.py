"""Harmonic CNN (Won, Chun, Nieto and Serra, ICASSP 2020).

https://github.com/minzwon/data-driven-harmonic-filters, as Won et al. compare it (SMC
2020, https://arxiv.org/abs/2006.00751).

waveform [batch, 80000] -> harmonic decibels [batch, 313, 128, 6] -> scores [batch, 50].
"""

import keras
import numpy as np
from keras import layers, ops

from tagger.models.blocks import (
    convolution_block,
    dense_head,
    residual_block,
    torch_norm,
)
from tagger.models.frontends import power_spectrogram
from tagger.models.layers import AudioInput, TagScores
from tagger.segmentation import Segmentation

N_FFT, HOP_LENGTH = 512, 256
MIN_SAMPLES = (2**5 * 3**2 - 1) * HOP_LENGTH  # what seven poolings reduce to one step
LOWEST_MIDI = 24  # C1
# Bandwidth of the ear (Glasberg and Moore 1990): .1079 f + 24.7 Hz
BANDWIDTH_SLOPE, BANDWIDTH_HZ = 0.1079, 24.7
FLOOR = 1e-10


def harmonic_cnn(
    num_tags: int = 50,
    num_filters: int = 128,
    num_harmonics: int = 6,
    bands_per_semitone: int = 2,
    dropout_rate: float = 0.5,
    num_samples: int = 80000,
    sample_rate: int = 16000,
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds seven blocks on a spectrogram whose channels are the harmonics of a pitch.

    Args:
        num_tags: Number of scores.
        num_filters: Channels of the first four blocks; twice as many after them.
        num_harmonics: Multiples of the pitch that are looked at.
        bands_per_semitone: Resolution in pitch.
        dropout_rate: Before the last layer.
        num_samples: Length of the waveform.
        sample_rate: Rate of the waveform in Hz.
        tags: Names of the tags, kept in the model.

    Returns:
        Model from float32 waveform [batch, num_samples] at ±1 to scores [batch,
        num_tags]. Layers: `frontend`, `block1_conv`, `block2_1_conv` … `block7_pool`,
        `head_dense`, `head_scores`.
    """
    waveform = keras.Input((num_samples,), name="waveform")
    x = AudioInput(
        sample_rate,
        Segmentation(num_samples, "pad"),
        min_samples=MIN_SAMPLES,
        name="audio_input",
    )(waveform)
    x = HarmonicSpectrogram(
        sample_rate, num_harmonics, bands_per_semitone, name="frontend"
    )(x)
    x = torch_norm(x, "input_norm")
    x = convolution_block(x, num_filters, (3, 3), "block1", pool_size=2)
    for i in (2, 3, 4):
        x = residual_block(x, num_filters, f"block{i}", pool_size=2)
    x = convolution_block(x, 2 * num_filters, (3, 3), "block5", pool_size=2)
    for i in (6, 7):
        x = residual_block(x, 2 * num_filters, f"block{i}", pool_size=(3, 2))
    x = layers.GlobalMaxPooling2D(name="pooled")(x)
    x = dense_head(x, x.shape[-1], dropout_rate)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="harmonic_cnn")


@keras.saving.register_keras_serializable("tagger")
class HarmonicSpectrogram(layers.Layer):
    """Decibels in bands around the harmonics of every pitch; the bandwidth is learned.

    waveform [batch, num_samples] -> [batch, num_frames, bands, num_harmonics], float32.
    Bands go from C1 up to the pitch whose highest harmonic is half the rate. Its one
    weight `q` [1] divides the ear's bandwidth.

    Args:
        sample_rate: Rate of the waveform in Hz.
        num_harmonics: Harmonics, the first being the pitch itself.
        bands_per_semitone: Resolution in pitch.
        fourier: See `frontends.power_spectrogram`.

    Reference:
        Won, Chun, Nieto and Serra, ICASSP 2020, section 2.
    """

    def __init__(
        self,
        sample_rate,
        num_harmonics=6,
        bands_per_semitone=2,
        fourier="auto",
        dtype="float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.sample_rate = sample_rate
        self.num_harmonics = num_harmonics
        self.bands_per_semitone = bands_per_semitone
        self.fourier = fourier
        highest_hz = sample_rate / (2 * num_harmonics)
        highest_midi = round(69 + 12 * np.log2(highest_hz / 440))
        self.num_bands = (highest_midi - LOWEST_MIDI) * bands_per_semitone
        midi = np.linspace(LOWEST_MIDI, highest_midi, self.num_bands + 1)[:-1]
        pitch_hz = 440 * 2 ** ((midi - 69) / 12)
        # Band, then harmonic, so that the harmonics become channels.
        self._centre_hz = np.outer(pitch_hz, 1 + np.arange(num_harmonics)).ravel()

    def build(self, input_shape):
        self.q = self.add_weight(shape=(1,), initializer="ones", name="q")

    def call(self, waveform):
        spectrogram = power_spectrogram(
            waveform, N_FFT, HOP_LENGTH, "reflect", self.fourier
        )
        centre = self._centre_hz.astype(np.float32)
        bins = np.linspace(0, self.sample_rate / 2, N_FFT // 2 + 1, dtype=np.float32)
        half_ear = (BANDWIDTH_SLOPE * centre + BANDWIDTH_HZ) / 2
        distance = np.abs(bins[:, None] - centre) / half_ear
        triangles = ops.maximum(0.0, 1 - ops.multiply(distance, self.q))
        power = ops.matmul(spectrogram, triangles)
        decibels = 10 * ops.log10(ops.maximum(power, FLOOR))
        shape = (-1, ops.shape(decibels)[1], self.num_bands, self.num_harmonics)
        return ops.reshape(decibels, shape)

    def compute_output_shape(self, input_shape):
        batch, num_samples = input_shape
        frames = None if num_samples is None else num_samples // HOP_LENGTH + 1
        return (batch, frames, self.num_bands, self.num_harmonics)

    def get_config(self):
        return super().get_config() | {
            "sample_rate": self.sample_rate,
            "num_harmonics": self.num_harmonics,
            "bands_per_semitone": self.bands_per_semitone,
            "fourier": self.fourier,
        }
