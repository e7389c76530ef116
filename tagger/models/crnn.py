"""Convolutional recurrent tagger (Choi, Fazekas, Sandler and Cho, ICASSP 2017).

https://arxiv.org/abs/1609.04243, as evaluated by Won et al. (SMC 2020,
https://arxiv.org/abs/2006.00751).

waveform [batch, 464000] -> log-mel [batch, 1813, 96] -> 18 steps of 128 channels ->
scores [batch, 50].
"""

import math

import keras
from keras import layers

from tagger.models.blocks import convolution_block, log_mel_input, normed_image
from tagger.models.layers import TagScores
from tagger.segmentation import Segmentation

POOL_SIZES = ((2, 2), (3, 3), (4, 4), (4, 4))  # (time, mel); 96 bands to one


def crnn(
    num_tags: int = 50,
    filters: tuple[int, ...] = (64, 128, 128, 128),
    gru_units: int = 32,
    dropout_rate: float = 0.5,
    num_samples: int = 464000,
    log_mel: str = "won2020",
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds the network: four convolutions and two recurrent layers.

    Args:
        filters: Channels of the convolutions.
        gru_units: Units of each recurrent layer; the last state of the second is used.
        log_mel: Key of a preset with 96 bands in `presets.PRESETS`.

    Layers: `frontend`, `block1_conv` … `block4_pool`, `gru1`, `gru2`, `head_scores`.

    Raises:
        ValueError: the preset is unknown.
    """
    min_frames = math.prod(num_frames for num_frames, _ in POOL_SIZES)
    waveform, x = log_mel_input(log_mel, Segmentation(num_samples, "pad"), min_frames)
    x = normed_image(x)
    for i, (width, pool_size) in enumerate(zip(filters, POOL_SIZES, strict=True), 1):
        x = convolution_block(x, width, (3, 3), f"block{i}", pool_size)
    x = layers.Reshape((-1, filters[-1]), name="steps")(x)  # [batch, 18, 128]
    x = layers.GRU(gru_units, return_sequences=True, name="gru1")(x)
    x = layers.GRU(gru_units, name="gru2")(x)
    x = layers.Dropout(dropout_rate, name="head_dropout")(x)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="crnn")
