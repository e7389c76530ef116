"""Sample-level CNN taggers (Kim, Lee and Nam, ICASSP 2018, https://arxiv.org/abs/1710.10451).

waveform [batch, 59049] -> scores [batch, 50].  59049 = 3**10: the stem's stride and
nine poolings by 3 leave one frame.
"""

from typing import Literal

import keras
from keras import layers

from tagger.models.blocks import waveform_input
from tagger.models.layers import SqueezeExcitation, TagScores
from tagger.segmentation import Segmentation
from tagger.text import TaggerError

BLOCKS = ("se", "rese", "res", "basic")
NUM_BLOCKS = 9


def sample_cnn(
    num_tags: int = 50,
    block: Literal["se", "rese", "res", "basic"] = "se",
    multi: bool = True,
    alpha: float = 16,
    dropout_rate: float = 0.5,
    weight_decay: float = 0.0,
    num_filters: int = 128,
    num_samples: int = 59049,
    sample_rate: int = 22050,
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds a sample-level CNN with basic, SE, Res-2 or ReSE-2 blocks (section 2).

    Args:
        block: "se", "rese", "res" or "basic".
        multi: Concatenate the global maxima of the last three blocks (multi-level
            feature aggregation) instead of using only the last block's.
        alpha: Amplifying ratio of the SE blocks.
        dropout_rate: Dropout rate before the last layer. Residual blocks always use 0.2
            between their convolutions.
        weight_decay: L2 penalty on the kernels of the convolutions.
        num_filters: Channels of the stem; doubled at block 3 and again at block 9.
        num_samples: Length of the waveform in samples, at least 3**10.

    Layers: `stem_conv`, `block1_conv` … `block9_excitation` (output [batch, 1,
    channels]; se and rese), `head_dense`, `head_scores`.

    Raises:
        ValueError: `block` is unknown or `num_samples` is too short.
    """
    if block not in BLOCKS:
        raise TaggerError(
            f"Unknown block {block!r}. Choose one of: {', '.join(BLOCKS)}."
        )
    if num_samples < 3 ** (NUM_BLOCKS + 1):
        raise TaggerError(
            f"sample_cnn needs at least {3 ** (NUM_BLOCKS + 1)} samples, not"
            f" {num_samples}."
        )
    apply_block = _residual_block if block in ("res", "rese") else _plain_block
    alpha = alpha if block in ("se", "rese") else None

    waveform, x = waveform_input(sample_rate, Segmentation(num_samples))
    x = layers.Reshape((num_samples, 1), name="stem_reshape")(x)
    # Valid padding; a stride of 3 reads every sample once: [batch, 19683, 128].
    x = _convolution(
        x, num_filters, 3, weight_decay, "stem", strides=3, padding="valid"
    )
    x = layers.Activation("relu", name="stem_relu")(x)

    levels = []
    for i in range(1, NUM_BLOCKS + 1):
        filters = num_filters * (1 if i < 3 else 2 if i < NUM_BLOCKS else 4)
        x = apply_block(x, filters, alpha, weight_decay, f"block{i}")
        levels.append(x)

    # [batch, 256 + 256 + 512] with `multi`, else [batch, 512]
    first = NUM_BLOCKS - 2 if multi else NUM_BLOCKS
    maxima = [
        layers.GlobalMaxPooling1D(name=f"block{i}_max")(levels[i - 1])
        for i in range(first, NUM_BLOCKS + 1)
    ]
    x = layers.Concatenate(name="levels")(maxima) if multi else maxima[0]
    x = layers.Dense(x.shape[-1], name="head_dense")(x)
    x = layers.BatchNormalization(name="head_norm")(x)
    x = layers.Activation("relu", name="head_relu")(x)
    x = layers.Dropout(dropout_rate, name="head_dropout")(x)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="sample_cnn")


def _plain_block(x, filters, alpha, weight_decay, name):
    """Applies a basic block, or with `alpha` an SE block: excitation after the pool."""
    x = _convolution(x, filters, 3, weight_decay, name)
    x = layers.Activation("relu", name=f"{name}_relu")(x)
    x = layers.MaxPooling1D(3, name=f"{name}_pool")(x)
    return _excite(x, alpha, name)


def _residual_block(x, filters, alpha, weight_decay, name):
    """Applies a Res-2 block, or with `alpha` ReSE-2: excitation before the sum."""
    shortcut = x
    if x.shape[-1] != filters:
        shortcut = _convolution(
            x,
            filters,
            1,
            weight_decay,
            f"{name}_shortcut",
            initializer="glorot_uniform",
        )
    x = _convolution(x, filters, 3, weight_decay, f"{name}_1")
    x = layers.Activation("relu", name=f"{name}_1_relu")(x)
    x = layers.Dropout(0.2, name=f"{name}_dropout")(x)
    x = _convolution(x, filters, 3, weight_decay, f"{name}_2")
    x = _excite(x, alpha, name)
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    x = layers.Activation("relu", name=f"{name}_relu")(x)
    return layers.MaxPooling1D(3, name=f"{name}_pool")(x)


def _excite(x, alpha, name):
    """Multiplies features by their excitation, unless `alpha` is None."""
    if alpha is None:
        return x
    excitation = SqueezeExcitation(alpha, name=f"{name}_excitation")(x)
    return layers.Multiply(name=f"{name}_scale")([x, excitation])


def _convolution(
    x,
    filters,
    kernel_size,
    weight_decay,
    name,
    strides=1,
    padding="same",
    initializer="he_uniform",
):
    """Applies a convolution with bias, then batch norm with Keras' defaults."""
    x = layers.Conv1D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        kernel_initializer=initializer,
        kernel_regularizer=keras.regularizers.L2(weight_decay)
        if weight_decay
        else None,
        name=f"{name}_conv",
    )(x)
    return layers.BatchNormalization(name=f"{name}_norm")(x)
