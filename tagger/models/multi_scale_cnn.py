"""Multi-scale CNN (Dabral and Deshmukh, "Multi-Scale Music Tagger").

https://github.com/amalad/Multi-Scale-Music-Tagger

waveform [batch, 321093] -> log-mel [batch, 628, 128] -> scores [batch, 50]. The network
reads the spectrogram at three scales: in full, averaged over 4 frames and 2 bands, and
that average max-pooled over 4 frames and 2 bands.
"""

import keras
from keras import layers

from tagger.models.blocks import log_mel_input
from tagger.models.layers import TagScores
from tagger.segmentation import Segmentation


def multi_scale_cnn(
    num_tags: int = 50,
    filters: tuple[int, int, int] = (50, 100, 70),
    dense_units: int = 500,
    dropout_rate: float = 0.6,
    num_samples: int = 321093,
    log_mel: str = "multi_scale",
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds the three-scale network.

    Args:
        filters: Channels of the first, the second and every later convolution.
        dense_units: Units of the dense layer before the last.
        dropout_rate: Dropout rate before the dense layers.
        num_samples: Length of the waveform in samples; the default is one MTT clip (628
            frames).

    Layers: `frontend`, `scale1_1_conv` … `scale3_1_pool`, `merged1_conv`,
    `merged2_pool`, `head_norm`, `head_dense`, `head_scores`.

    Raises:
        ValueError: the preset is unknown.
    """
    first, second, later = filters

    def block(x, width, num_frames, pool_size, name):
        x = layers.Conv2D(
            width,
            (num_frames, 3),
            padding="same",
            activation="relu",
            kernel_initializer="glorot_normal",
            name=f"{name}_conv",
        )(x)
        if pool_size is None:
            return x
        return layers.MaxPooling2D(pool_size, name=f"{name}_pool")(x)

    waveform, x = log_mel_input(log_mel, Segmentation(num_samples))
    x = layers.Reshape((-1, x.shape[2], 1), name="input_channel")(x)

    half = layers.AveragePooling2D((4, 2), name="scale2_mean")(x)  # [batch, 157, 64, 1]
    quarter = layers.MaxPooling2D((4, 2), name="scale3_max")(half)  # [batch, 39, 32, 1]
    x = block(x, first, 7, (4, 2), "scale1_1")
    x = block(x, second, 5, (4, 2), "scale1_2")
    x = block(x, later, 3, 2, "scale1_3")
    half = block(half, second, 5, (4, 2), "scale2_1")
    half = block(half, later, 3, 2, "scale2_2")
    quarter = block(quarter, later, 3, 2, "scale3_1")

    x = layers.Concatenate(name="merged")([x, half, quarter])  # [batch, 19, 16, 210]
    x = block(x, later, 3, None, "merged1")
    x = block(x, later, 3, 2, "merged2")
    x = layers.Flatten(name="head_flatten")(x)  # [batch, 9 · 8 · 70]
    x = layers.BatchNormalization(momentum=0.01, epsilon=1e-3, name="head_norm")(x)
    x = layers.Dropout(dropout_rate, name="head_dropout")(x)
    x = layers.Dense(
        dense_units,
        activation="relu",
        kernel_initializer="glorot_normal",
        name="head_dense",
    )(x)
    scores = TagScores(
        num_tags,
        tags,
        kernel_initializer="glorot_normal",
        name="head_scores",
    )(x)
    return keras.Model(waveform, scores, name="multi_scale_cnn")
