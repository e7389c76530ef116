"""Fully convolutional tagger (Choi, Fazekas and Sandler, ISMIR 2016).

https://arxiv.org/abs/1606.00298, as evaluated by Won et al. (SMC 2020,
https://arxiv.org/abs/2006.00751).

waveform [batch, 464000] -> log-mel [batch, 1813, 96] -> scores [batch, 50]. Five
poolings reduce the spectrogram to one cell.
"""

import keras
from keras import layers

from tagger.models.blocks import convolution_block, log_mel_input, normed_image
from tagger.models.layers import TagScores
from tagger.segmentation import Segmentation

POOL_SIZES = ((4, 2), (4, 2), (4, 2), (5, 3), (4, 4))  # (time, mel)


def fcn(
    num_tags: int = 50,
    filters: tuple[int, ...] = (64, 128, 128, 128, 64),
    dropout_rate: float = 0.5,
    num_samples: int = 464000,
    log_mel: str = "won2020",
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds the fully convolutional network.

    Args:
        filters: Channels of the five convolutions.
        num_samples: Length of the waveform in samples; 29 s are reduced to one cell.
        log_mel: Key of a preset with 96 bands in `presets.PRESETS`.

    Layers: `frontend`, `block1_conv` … `block5_pool`, `head_scores`.

    Raises:
        ValueError: the preset is unknown.
    """
    waveform, x = log_mel_input(log_mel, Segmentation(num_samples, "pad"))
    x = normed_image(x)
    for i, (width, pool_size) in enumerate(zip(filters, POOL_SIZES, strict=True), 1):
        x = convolution_block(x, width, (3, 3), f"block{i}", pool_size)
    x = layers.Flatten(name="head_flatten")(x)  # [batch, 1, 1, 64] -> [batch, 64]
    x = layers.Dropout(dropout_rate, name="head_dropout")(x)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="fcn")
