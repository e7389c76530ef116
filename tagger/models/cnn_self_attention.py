"""CNN with self-attention, as evaluated by Won et al. (SMC 2020).

https://arxiv.org/abs/2006.00751, based on Won, Chun and Serra 2019
(`self_attention.py`).

waveform [batch, 240000] -> log-mel [batch, 938, 128] -> a class token and 118 steps of
256 channels -> scores [batch, 50]. The model has no positional encoding.
"""

import keras
from keras import layers

from tagger.models.blocks import (
    bert_encoder,
    log_mel_input,
    normed_image,
    residual_block,
    torch_dense,
)
from tagger.models.layers import ClassToken, FirstPosition, TagScores
from tagger.segmentation import Segmentation

WIDTHS = (1, 1, 2, 2, 2, 2, 2)  # channels of each block / num_filters
STRIDES = (*3 * ((2, 2),), *4 * ((1, 2),))  # (time, mel); 128 bands to one


def cnn_self_attention(
    num_tags: int = 50,
    num_filters: int = 128,
    num_layers: int = 2,
    num_heads: int = 8,
    attention_dropout_rate: float = 0.5,
    hidden_dropout_rate: float = 0.4,
    dropout_rate: float = 0.5,
    num_samples: int = 240000,
    log_mel: str = "won2020_128",
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds seven residual blocks and a Transformer encoder.

    Args:
        num_filters: Channels of the first block; the encoder has twice as many.
        num_layers: Number of encoder layers.
        num_heads: Number of attention heads.
        attention_dropout_rate: Dropout rate of the attention probabilities.
        hidden_dropout_rate: Dropout rate before each sum of the encoder.
        log_mel: Key of a preset with 128 bands in `presets.PRESETS`.

    Layers: `frontend`, `block1_1_conv` … `block7_add`, `class_token`,
    `encoder1_attention` …, `pooler`, `head_scores`.

    Raises:
        ValueError: the preset is unknown, or the channels cannot be divided evenly
            among the heads.
    """
    waveform, x = log_mel_input(log_mel, Segmentation(num_samples, "pad"), min_frames=1)
    x = normed_image(x)
    for i, (width, strides) in enumerate(zip(WIDTHS, STRIDES, strict=True), 1):
        x = residual_block(x, width * num_filters, f"block{i}", strides)
    x = layers.Reshape((-1, x.shape[-1]), name="steps")(x)  # [batch, 118, 256]
    x = ClassToken(learned=False, name="class_token")(x)
    dropout_rates = (attention_dropout_rate, hidden_dropout_rate)
    for i in range(1, num_layers + 1):
        x = bert_encoder(x, num_heads, dropout_rates, f"encoder{i}")
    x = FirstPosition(name="class")(x)
    x = torch_dense(x, x.shape[-1], "pooler", "tanh")
    x = layers.Dropout(dropout_rate, name="head_dropout")(x)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="cnn_self_attention")
