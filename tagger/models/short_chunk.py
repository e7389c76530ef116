"""Short-chunk CNNs, plain and residual (Won, Ferraro, Bogdanov and Serra, SMC 2020).

https://arxiv.org/abs/2006.00751

waveform [batch, 59049] -> log-mel [batch, 231, 128] -> scores [batch, 50]. Seven
halvings reduce the 128 bands to one; the maximum is taken over the remaining steps.
"""

import keras
from keras import layers

from tagger.models.blocks import (
    convolution_block,
    dense_head,
    log_mel_input,
    normed_image,
    residual_block,
)
from tagger.models.layers import TagScores
from tagger.segmentation import Segmentation
from tagger.text import TaggerError

WIDTHS = (1, 1, 2, 2, 2, 2, 4)  # channels of each block / num_filters


def short_chunk_cnn(
    num_tags: int = 50,
    num_filters: int = 128,
    dropout_rate: float = 0.5,
    num_samples: int = 59049,
    log_mel: str = "won2020_128",
    widths: tuple[int, ...] = WIDTHS,
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds the plain network: seven convolutions, each with max-pooling by 2.

    Args:
        num_filters: Channels of a block of width 1.
        log_mel: Key of a preset with 128 bands in `presets.PRESETS`.
        widths: Width of each of the seven blocks, as a multiple of num_filters. The
            first blocks take most of the time, the last most of the weights.

    Layers: `frontend`, `block1_conv` … `block7_pool`, `head_dense`, `head_scores`.

    Raises:
        ValueError: the preset is unknown, or there are not seven widths.
    """
    return _short_chunk("short_chunk_cnn", **locals())


def short_chunk_resnet(
    num_tags: int = 50,
    num_filters: int = 128,
    dropout_rate: float = 0.5,
    num_samples: int = 59049,
    log_mel: str = "won2020_128",
    widths: tuple[int, ...] = WIDTHS,
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds the residual network: two convolutions per block, stride 2, no pooling.

    Args:
        num_filters: Channels of a block of width 1.
        log_mel: Key of a preset with 128 bands in `presets.PRESETS`.
        widths: Width of each of the seven blocks, as a multiple of num_filters.

    Layers: `frontend`, `block1_1_conv`, `block1_shortcut_conv` … `block7_add`,
    `head_dense`, `head_scores`.
    """
    return _short_chunk("short_chunk_resnet", **locals())


# Block, its options, and the fewest frames: every pooling halves them, strided
# convolutions round up.
BLOCKS = {
    "short_chunk_cnn": (
        convolution_block,
        {"kernel_size": (3, 3), "pool_size": 2},
        2 ** len(WIDTHS),
    ),
    "short_chunk_resnet": (residual_block, {"strides": 2}, 1),
}


def _short_chunk(
    name, num_tags, num_filters, dropout_rate, num_samples, log_mel, widths, tags
):
    block, options, min_frames = BLOCKS[name]
    if len(widths) != len(WIDTHS):
        raise TaggerError(
            f"The network has {len(WIDTHS)} blocks, but widths are given for"
            f" {len(widths)}: {tuple(widths)}. Give one width per block."
        )
    waveform, x = log_mel_input(log_mel, Segmentation(num_samples, "pad"), min_frames)
    x = normed_image(x)
    for i, width in enumerate(widths, 1):
        x = block(x, width * num_filters, name=f"block{i}", **options)
    x = layers.GlobalMaxPooling2D(name="pooled")(x)
    x = dense_head(x, x.shape[-1], dropout_rate)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name=name)
