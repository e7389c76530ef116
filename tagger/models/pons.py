"""The networks of the package musicnn (Pons and Serra 2019).

https://arxiv.org/abs/1909.06654. The wheel contains the weights of both networks,
musicnn and a VGG.

waveform [batch, 48128] -> log-mel [batch, 187, 96] -> scores [batch, 50]. The package
computes one spectrogram over the whole file and cuts it into patches of 187 frames. A
segment here contains exactly the samples of one patch, without padding, so that its
frames are the same. Batch norm comes after ReLU.
"""

import keras
from keras import layers

from tagger.models.blocks import log_mel_input, max_and_mean
from tagger.models.layers import TagScores, VerticalConv2D
from tagger.models.presets import preset
from tagger.segmentation import Segmentation

VERTICAL_SHARES = (0.4, 0.7)  # shares of the mel bands that the filters span
NUM_VERTICAL_FRAMES = 7
HORIZONTAL_FRAMES = (128, 64, 32)
VGG_POOL_SIZES = ((4, 1), (2, 2), (2, 2), (2, 2), (4, 4))  # (time, mel)
VGG_STRIDES = ((2, 2), (2, 2), (2, 2), (2, 2), (4, 4))


def musicnn_pons(
    num_tags: int = 50,
    vertical_filters: int = 204,
    horizontal_filters: int = 51,
    num_filters: int = 64,
    dense_units: int = 200,
    dropout_rate: float = 0.5,
    num_frames: int = 187,
    log_mel: str = "pons2019",
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds the musically motivated network.

    Args:
        vertical_filters: Channels of each of the two vertical (timbre) convolutions.
        horizontal_filters: Channels of each of the three horizontal (rhythm)
            convolutions.
        num_filters: Channels of the three convolutions over time; 512 in
            MSD_musicnn_big.
        dense_units: Units of the dense layer before the last; 500 in MSD_musicnn_big.
        dropout_rate: Dropout rate before each of the two dense layers.
        num_frames: Number of frames of a segment.
        log_mel: Key of a preset without padding in `presets.PRESETS`.

    Layers: `frontend`, `vertical1_conv` … `horizontal3_max`, `middle1_conv` …
    `middle3_add`, `pooled`, `head_dense`, `head_scores`.

    Raises:
        ValueError: the preset is unknown.
    """
    waveform, x = _patch(log_mel, num_frames, is_any_length=True)
    n_mels = x.shape[2]
    margin = NUM_VERTICAL_FRAMES // 2
    padded = layers.ZeroPadding2D(((margin, margin), (0, 0)), name="vertical_zeros")(x)
    features = []
    for i, share in enumerate(VERTICAL_SHARES, 1):
        kernel_size = (NUM_VERTICAL_FRAMES, int(share * n_mels))
        conv = VerticalConv2D(
            vertical_filters, kernel_size, activation="relu", name=f"vertical{i}_conv"
        )
        features.append(_maxima(conv(padded), f"vertical{i}"))
    for i, length in enumerate(HORIZONTAL_FRAMES, 1):
        conv = layers.Conv2D(
            horizontal_filters,
            (length, 1),
            padding="same",
            activation="relu",
            name=f"horizontal{i}_conv",
        )
        features.append(_maxima(conv(x), f"horizontal{i}"))
    x = layers.Concatenate(name="front")(features)  # [batch, 187, 561]

    levels = [x]
    for i in range(1, 4):
        y = layers.Conv1D(
            num_filters, 7, padding="same", activation="relu", name=f"middle{i}_conv"
        )(x)
        y = layers.BatchNormalization(name=f"middle{i}_norm")(y)
        x = y if i == 1 else layers.Add(name=f"middle{i}_add")([y, x])
        levels.append(x)
    x = layers.Concatenate(name="levels")(levels)  # [batch, 187, 753]

    x = max_and_mean(x)
    x = layers.BatchNormalization(name="pooled_norm")(x)
    x = layers.Dropout(dropout_rate, name="pooled_dropout")(x)
    x = layers.Dense(dense_units, activation="relu", name="head_dense")(x)
    x = layers.BatchNormalization(name="head_norm")(x)
    x = layers.Dropout(dropout_rate, name="head_dropout")(x)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="musicnn_pons")


def vgg_pons(
    num_tags: int = 50,
    num_filters: int = 128,
    pool_dropout_rate: float = 0.25,
    dropout_rate: float = 0.5,
    num_frames: int = 187,
    log_mel: str = "pons2019",
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds the VGG: five convolutions, each with max-pooling.

    Args:
        num_filters: Channels of every convolution.
        pool_dropout_rate: Dropout rate before the second to fifth convolution.
        num_frames: Number of frames of a segment.
        log_mel: Key of a preset without padding in `presets.PRESETS`.

    Layers: `frontend`, `block1_conv` … `block5_pool`, `head_scores`.

    Raises:
        ValueError: the preset is unknown.
    """
    waveform, x = _patch(log_mel, num_frames)
    pools = zip(VGG_POOL_SIZES, VGG_STRIDES, strict=True)
    for i, (pool_size, strides) in enumerate(pools, 1):
        if i > 1:
            x = layers.Dropout(pool_dropout_rate, name=f"block{i}_dropout")(x)
        x = layers.Conv2D(
            num_filters, 3, padding="same", activation="relu", name=f"block{i}_conv"
        )(x)
        x = layers.BatchNormalization(name=f"block{i}_norm")(x)
        x = layers.MaxPooling2D(pool_size, strides, name=f"block{i}_pool")(x)
    x = layers.Flatten(name="head_flatten")(x)  # [batch, 2 · 1 · 128]
    x = layers.Dropout(dropout_rate, name="head_dropout")(x)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="vgg_pons")


def _maxima(x, name):
    """Applies batch norm, then the maximum over mel: -> [batch, time, channels]."""
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    width = x.shape[-1]
    x = layers.MaxPooling2D((1, x.shape[2]), name=f"{name}_max")(x)
    return layers.Reshape((-1, width), name=f"{name}_squeeze")(x)


def _patch(log_mel, num_frames, is_any_length=False):
    """Returns the input and its normalised patch [batch, num_frames, n_mels, 1]."""
    definition = preset(log_mel)
    hop_samples = num_frames * definition.hop_length
    num_samples = hop_samples - definition.hop_length + definition.n_fft
    segmentation = Segmentation(
        num_samples, hop_samples=hop_samples, edge_samples=definition.n_fft // 2
    )
    min_frames = 1 if is_any_length else None
    waveform, x = log_mel_input(log_mel, segmentation, min_frames)
    x = layers.Reshape((-1, definition.n_mels, 1), name="input_channel")(x)
    return waveform, layers.BatchNormalization(name="input_norm")(x)
