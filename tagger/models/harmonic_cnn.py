"""Harmonic CNN (Won, Chun, Nieto and Serra, ICASSP 2020).

https://github.com/minzwon/data-driven-harmonic-filters, as evaluated by Won et al. (SMC
2020, https://arxiv.org/abs/2006.00751).

waveform [batch, 80000] -> harmonic decibels [batch, 313, 128, 6] -> scores [batch, 50].
"""

import keras
from keras import layers

from tagger.models.blocks import (
    convolution_block,
    dense_head,
    residual_block,
    torch_norm,
    waveform_input,
)
from tagger.models.frontends import HarmonicSpectrogram
from tagger.models.layers import TagScores
from tagger.segmentation import Segmentation

# The shortest waveform that the seven poolings reduce to one step.
MIN_SAMPLES = (2**5 * 3**2 - 1) * HarmonicSpectrogram.HOP_LENGTH


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
        num_filters: Channels of the first four blocks; the others have twice as many.
        num_harmonics: Number of harmonics per pitch, including the pitch itself.
        bands_per_semitone: Pitch resolution in bands per semitone.

    Layers: `frontend`, `block1_conv`, `block2_1_conv` … `block7_pool`, `head_dense`,
    `head_scores`.
    """
    segmentation = Segmentation(num_samples, "pad")
    waveform, x = waveform_input(sample_rate, segmentation, MIN_SAMPLES)
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
