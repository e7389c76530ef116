"""Music Tagging Transformer (Won, Choi and Serra, ISMIR 2021).

https://arxiv.org/abs/2111.13457

waveform [batch, 220500] -> log-mel [batch, 431, 128] -> a class token and 107 steps ->
scores [batch, 50]. The teacher's encoder has 256 channels, that of the student
(knowledge distillation) 64.
"""

from typing import Literal

import keras
from keras import layers

from tagger.models.blocks import (
    log_mel_input,
    normed_image,
    residual_block,
    torch_dense,
)
from tagger.models.layers import (
    ClassToken,
    FirstPosition,
    LearnedPositions,
    SelfAttention,
    TagScores,
)
from tagger.segmentation import Segmentation
from tagger.text import TaggerError

POOL_SIZES = ((2, 2), (2, 2), (1, 2))  # (time, mel)
CHANNELS = {"teacher": 256, "student": 64}


def music_tagging_transformer(
    num_tags: int = 50,
    size: Literal["teacher", "student"] = "teacher",
    num_filters: int = 128,
    channels: int | None = None,
    num_layers: int = 4,
    num_heads: int = 8,
    max_length: int = 512,
    dropout_rate: float = 0.1,
    num_samples: int = 220500,
    log_mel: str = "won2021",
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds the network: three residual blocks and a Transformer encoder.

    Args:
        size: "teacher" or "student".
        num_filters: Channels of the convolutions.
        channels: Channels of the encoder; None: those of `size`.
        num_layers: Number of encoder layers.
        num_heads: Number of attention heads.
        max_length: Longest sequence in steps of 4 frames (93 ms); the default is 47 s.
        dropout_rate: Dropout rate in the encoder.

    Layers: `frontend`, `block1_1_conv` … `block3_pool`, `embedding`, `class_token`,
    `positions`, `encoder1_attention` … `encoder4_add`, `head_norm`, `head_scores`.

    Raises:
        ValueError: the size or preset is unknown, or the waveform is longer than
            `max_length`.
    """
    if size not in CHANNELS:
        raise TaggerError(
            f"Unknown size {size!r}. Choose one of: {', '.join(CHANNELS)}."
        )
    channels = channels or CHANNELS[size]
    waveform, x = log_mel_input(log_mel, Segmentation(num_samples), min_frames=4)
    x = normed_image(x)
    for i, pool_size in enumerate(POOL_SIZES, 1):
        x = residual_block(x, num_filters, f"block{i}", pool_size=pool_size)
    x = layers.Reshape((-1, x.shape[2] * num_filters), name="steps")(x)
    x = torch_dense(x, channels, "embedding")  # [batch, 107, 256]

    x = ClassToken(name="class_token")(x)
    x = LearnedPositions(1 + max_length, name="positions")(x)
    x = layers.Dropout(dropout_rate, name="positions_dropout")(x)
    for i in range(1, num_layers + 1):
        x = _encoder(x, num_heads, dropout_rate, f"encoder{i}")
    x = FirstPosition(name="class")(x)
    x = layers.LayerNormalization(epsilon=1e-5, name="head_norm")(x)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="music_tagging_transformer")


def _encoder(x, num_heads, dropout_rate, name):
    """Applies a Transformer encoder layer: pre-norm, exact GELU, 4x hidden width."""
    channels = x.shape[-1]
    y = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_attention_norm")(x)
    y = SelfAttention(num_heads, use_bias=False, name=f"{name}_attention")(y)
    y = layers.Dropout(dropout_rate, name=f"{name}_attention_dropout")(y)
    x = layers.Add(name=f"{name}_attention_add")([x, y])
    y = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm")(x)
    y = torch_dense(y, 4 * channels, f"{name}_hidden", "gelu")
    y = layers.Dropout(dropout_rate, name=f"{name}_hidden_dropout")(y)
    y = torch_dense(y, channels, f"{name}_output")
    y = layers.Dropout(dropout_rate, name=f"{name}_dropout")(y)
    return layers.Add(name=f"{name}_add")([x, y])
