"""Musically motivated CNN (Pons et al., ISMIR 2018).

https://arxiv.org/abs/1711.02520, as evaluated by Won et al. (SMC 2020,
https://arxiv.org/abs/2006.00751).

waveform [batch, 48000] -> log-mel [batch, 188, 96] -> scores [batch, 50]. The network
of the package `musicnn` is a different one, see `pons.py`.
"""

import keras
from keras import layers

from tagger.models.blocks import (
    convolution_block,
    dense_head,
    horizontal_convolution,
    log_mel_input,
    max_and_mean,
    normed_image,
    vertical_convolution,
)
from tagger.models.layers import TagScores
from tagger.segmentation import Segmentation

VERTICAL_SHARES = (0.7, 0.4)  # shares of the mel bands that the filters span
NUM_VERTICAL_FRAMES = 7
HORIZONTAL_FRAMES = (129, 65, 33)


def musicnn(
    num_tags: int = 50,
    vertical_filters: int = 204,
    horizontal_filters: int = 51,
    num_filters: int = 64,
    dense_units: int = 200,
    dropout_rate: float = 0.5,
    num_samples: int = 48000,
    log_mel: str = "won2020",
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds the network with vertical (timbre) and horizontal (rhythm) filters.

    Args:
        vertical_filters: Channels of each of the two vertical convolutions.
        horizontal_filters: Channels of each of the three horizontal convolutions.
        num_filters: Channels of the three convolutions over time; 512 for MSD.
        dense_units: Units of the dense layer before the last; 500 for MSD.

    Layers: `frontend`, `vertical1_conv` …, `horizontal3_conv`, `middle1_conv` …
    `middle3_add`, `head_dense`, `head_scores`.

    Raises:
        ValueError: the preset is unknown.
    """
    waveform, x = log_mel_input(log_mel, Segmentation(num_samples, "pad"), min_frames=1)
    x = normed_image(x)

    features = [
        vertical_convolution(
            x,
            vertical_filters,
            (NUM_VERTICAL_FRAMES, int(share * x.shape[2])),
            f"vertical{i}",
        )
        for i, share in enumerate(VERTICAL_SHARES, 1)
    ] + [
        horizontal_convolution(x, horizontal_filters, num_frames, f"horizontal{i}")
        for i, num_frames in enumerate(HORIZONTAL_FRAMES, 1)
    ]
    x = layers.Concatenate(name="front")(features)  # [batch, 188, 561]

    levels = [x]
    for i in range(1, 4):
        y = convolution_block(x, num_filters, (7,), f"middle{i}")
        x = y if i == 1 else layers.Add(name=f"middle{i}_add")([y, x])
        levels.append(x)
    x = layers.Concatenate(name="levels")(levels)  # [batch, 188, 753]

    x = max_and_mean(x)
    x = dense_head(x, dense_units, dropout_rate)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="musicnn")
