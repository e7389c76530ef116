"""Sample-level CNN with residual SE blocks, as evaluated by Won et al. (SMC 2020).

https://arxiv.org/abs/2006.00751, based on Kim, Lee and Nam 2018 (`sample_cnn.py`).

waveform [batch, 59049] -> scores [batch, 50].
"""

import keras
from keras import layers

from tagger.models.blocks import (
    convolution,
    convolution_block,
    dense_head,
    waveform_input,
)
from tagger.models.layers import SqueezeExcitation, TagScores
from tagger.segmentation import Segmentation


def sample_cnn_se_won2020(
    num_tags: int = 50,
    filters: tuple[int, ...] = (128, 128, 128, *6 * (256,), 512, 512),
    dropout_rate: float = 0.5,
    num_samples: int = 59049,
    sample_rate: int = 16000,
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds eleven residual SE blocks.

    The first has stride 3, the next nine pool by 3, and the last has kernel size 1.

    Args:
        filters: Channels of the blocks.
        num_samples: Length of the waveform in samples; 3**10 leave one step.

    Layers: `block1_1_conv` … `block11_excitation` (output [batch, 1, channels]),
    `head_dense`, `head_scores`.
    """
    waveform, x = waveform_input(sample_rate, Segmentation(num_samples, "pad"))
    x = layers.Reshape((-1, 1), name="stem_reshape")(x)
    x = _block(x, filters[0], 3, "block1", strides=3)  # [batch, 19683, 128]
    for i, width in enumerate(filters[1:-1], 2):
        x = _block(x, width, 3, f"block{i}", pool_size=3)
    x = _block(x, filters[-1], 1, f"block{len(filters)}")
    x = layers.Flatten(name="head_flatten")(x)  # [batch, 1, 512] -> [batch, 512]
    x = dense_head(x, x.shape[-1], dropout_rate)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="sample_cnn_se_won2020")


def _block(x, filters, kernel_size, name, strides=1, pool_size=None):
    """Applies two convolutions and an excitation with a shortcut, ReLU and pooling."""
    shortcut, kernel_size = x, (kernel_size,)
    if strides > 1 or x.shape[-1] != filters:
        shortcut = convolution(x, filters, kernel_size, f"{name}_shortcut", strides)
    x = convolution_block(x, filters, kernel_size, f"{name}_1", strides=strides)
    x = convolution(x, filters, kernel_size, f"{name}_2")
    excitation = SqueezeExcitation(1, name=f"{name}_excitation")(x)
    x = layers.Multiply(name=f"{name}_scale")([x, excitation])
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    x = layers.Activation("relu", name=f"{name}_relu")(x)
    return layers.MaxPooling1D(pool_size, name=f"{name}_pool")(x) if pool_size else x
