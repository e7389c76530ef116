"""Self-attention tagger (Won, Chun and Serra 2019, https://arxiv.org/abs/1906.04972).

front end: Pons et al.'s spectrogram filters, or Lee et al.'s sample-level convolutions
back end:  a class token and a Transformer encoder, or Pons et al.'s convolutions

waveform [batch, 65280] -> log-mel [batch, 256, 96] -> 257 steps of 512 channels ->
scores [batch, 50]. The paper's `lee_lee`, which uses neither back end, is in
`sample_cnn_lee.py`.
"""

from typing import Literal

import keras
from keras import layers

from tagger.models.blocks import (
    bert_encoder,
    convolution_block,
    horizontal_convolution,
    log_mel_input,
    max_and_mean,
    torch_dense,
    torch_norm,
    vertical_convolution,
    waveform_input,
)
from tagger.models.layers import (
    ClassToken,
    FirstPosition,
    LearnedPositions,
    SinusoidPositions,
    TagScores,
)
from tagger.models.presets import preset
from tagger.segmentation import Segmentation
from tagger.text import TaggerError

FRONT_ENDS = ("pons", "lee")
BACK_ENDS = ("attention", "cnn")
POSITIONS = ("sinusoid", "learned")
NUM_SAMPLES = {"pons": 65280, "lee": 65610}  # 256 frames; 270 steps of 3**5 samples
NUM_FILTERS = {"pons": 16, "lee": 64}
VERTICAL_SHARES = (0.9, 0.4)  # shares of the mel bands that the filters span
VERTICAL_FRAMES = ((7, 1), (3, 2), (1, 4))  # (frames, filters / num_filters)
HORIZONTAL_FRAMES = ((165, 1), (129, 2), (65, 4), (33, 8))  # the same
LEE_WIDTHS = (1, 2, 2, 2)
CNN_DENSE_UNITS = 500


def self_attention(
    num_tags: int = 50,
    front_end: Literal["pons", "lee"] = "pons",
    back_end: Literal["attention", "cnn"] = "attention",
    num_filters: int | None = None,
    channels: int = 512,
    num_layers: int = 2,
    num_heads: int = 8,
    attention_dropout_rate: float = 0.4,
    dropout_rate: float = 0.5,
    positions: Literal["sinusoid", "learned"] = "sinusoid",
    max_length: int | None = None,
    num_samples: int | None = None,
    log_mel: str = "won2019",
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds one of the paper's combinations; the default is its `pons_won`.

    Args:
        front_end: "pons" (spectrogram) or "lee" (waveform).
        back_end: "attention", or "cnn" (only with "pons").
        num_filters: Width of the front end; None means 16 for "pons", 64 for "lee".
        channels: Channels of the back end.
        num_layers: Number of encoder layers.
        num_heads: Number of attention heads.
        attention_dropout_rate: Dropout rate in the encoder.
        positions: "sinusoid", or "learned" with a layer norm (the network of the
            authors' figures).
        max_length: Number of learned positions; None creates as many as needed.
        num_samples: Length of the waveform in samples; None means 65280 for "pons" (256
            frames), 65610 for "lee".
        log_mel: Key of `presets.PRESETS`, used with "pons".

    Layers: `frontend`, `vertical1_conv` … `horizontal4_conv` or `stem_conv` …
    `block4_pool`; `front_conv`, `class_token`, `positions`, `encoder1_attention` …,
    `pooler` or `middle1_conv` …, `head_dense`; `head_scores`.

    Raises:
        ValueError: a choice is unknown, or front_end is "lee" and back_end "cnn".
    """
    for name, value, choices in (
        ("front_end", front_end, FRONT_ENDS),
        ("back_end", back_end, BACK_ENDS),
        ("positions", positions, POSITIONS),
    ):
        if value not in choices:
            raise TaggerError(
                f"Unknown {name} {value!r}. Choose one of: {', '.join(choices)}."
            )
    if (front_end, back_end) == ("lee", "cnn"):
        raise TaggerError(
            "front_end 'lee' works only with back_end 'attention', not 'cnn'. Lee et"
            " al.'s convolutional network is the model sample_cnn_lee."
        )
    num_samples = num_samples or NUM_SAMPLES[front_end]
    num_filters = num_filters or NUM_FILTERS[front_end]

    segmentation = Segmentation(num_samples)
    if front_end == "pons":
        waveform, x = log_mel_input(log_mel, segmentation)
        x = _pons_front_end(x, num_filters)
        if back_end == "attention":
            x = convolution_block(x, channels, (1,), "front")
    else:
        waveform, x = waveform_input(preset(log_mel).sample_rate, segmentation)
        x = _lee_front_end(x, num_filters)
        x = convolution_block(x, channels, (7,), "front")

    if back_end == "cnn":
        x = _pons_back_end(x, channels)
    else:
        x = ClassToken(learned=False, name="class_token")(x)
        if positions == "learned":
            x = LearnedPositions(max_length or x.shape[1], name="positions")(x)
            x = layers.LayerNormalization(epsilon=1e-12, name="positions_norm")(x)
            x = layers.Dropout(attention_dropout_rate, name="positions_dropout")(x)
        else:
            x = SinusoidPositions(name="positions")(x)
        for i in range(1, num_layers + 1):
            x = bert_encoder(x, num_heads, 2 * (attention_dropout_rate,), f"encoder{i}")
        x = FirstPosition(name="class")(x)
        x = torch_dense(x, channels, "pooler", "tanh")
    x = layers.Dropout(dropout_rate, name="head_dropout")(x)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="self_attention")


def _pons_front_end(x, num_filters):
    """Log-mel [batch, 256, 96] -> [batch, 256, 29 · num_filters]."""
    n_mels = x.shape[-1]
    x = layers.Reshape((-1, n_mels, 1), name="input_channel")(x)
    x = torch_norm(x, "input_norm")
    shapes = [
        ((num_frames, int(share * n_mels)), width)
        for share in VERTICAL_SHARES
        for num_frames, width in VERTICAL_FRAMES
    ]
    features = [
        vertical_convolution(x, width * num_filters, kernel_size, f"vertical{i}")
        for i, (kernel_size, width) in enumerate(shapes, 1)
    ] + [
        horizontal_convolution(x, width * num_filters, num_frames, f"horizontal{i}")
        for i, (num_frames, width) in enumerate(HORIZONTAL_FRAMES, 1)
    ]
    return layers.Concatenate(name="features")(features)


def _lee_front_end(x, num_filters):
    """Waveform [batch, 65610] -> [batch, 270, 2 · num_filters]."""
    x = layers.Reshape((-1, 1), name="stem_reshape")(x)
    x = convolution_block(x, num_filters, (3,), "stem", strides=3)
    for i, width in enumerate(LEE_WIDTHS, 1):
        x = convolution_block(x, width * num_filters, (3,), f"block{i}", 3)
    return x


def _pons_back_end(x, channels):
    """[batch, 256, 29 · num_filters] -> [batch, 500]."""
    x = convolution_block(x, channels, (7,), "middle1")
    y = convolution_block(x, channels, (7,), "middle2")
    x = layers.Add(name="middle2_add")([x, y])
    x = layers.MaxPooling1D(2, name="middle2_pool")(x)
    y = convolution_block(x, channels, (7,), "middle3")
    x = layers.Add(name="middle3_add")([x, y])
    x = max_and_mean(x)
    x = torch_dense(x, CNN_DENSE_UNITS, "head_dense")
    x = torch_norm(x, "head_norm")
    return layers.Activation("relu", name="head_relu")(x)
