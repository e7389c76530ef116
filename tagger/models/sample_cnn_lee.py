"""Sample-level CNN (Lee, Park, Kim and Nam, SMC 2017).

https://arxiv.org/abs/1703.01789

waveform [batch, 59049] -> scores [batch, 50]. With other widths, the same network is
the SampleCNN of Won et al. 2020 (https://arxiv.org/abs/2006.00751; the default) and
`lee_lee` of Won et al. 2019.
"""

import keras
from keras import layers

from tagger.models.blocks import convolution_block, waveform_input
from tagger.models.layers import TagScores
from tagger.segmentation import Segmentation


def sample_cnn_lee(
    num_tags: int = 50,
    filters: tuple[int, ...] = (128, 128, 128, *6 * (256,), 512, 512),
    dropout_rate: float = 0.5,
    num_samples: int = 59049,
    sample_rate: int = 16000,
    tags: tuple[str, ...] | None = None,
) -> keras.Model:
    """Builds a stem, nine convolutions with pooling by 3, and one with kernel size 1.

    Args:
        filters: Channels of the eleven convolutions. Won et al. 2019 use 64, 64, six
            times 128, 256, 256 and 512.
        num_samples: Length of the waveform in samples; 3**10 leave one step.

    Layers: `stem_conv`, `block1_conv` … `block9_pool`, `block10_conv`, `head_scores`.
    """
    stem, *widths = filters
    waveform, x = waveform_input(sample_rate, Segmentation(num_samples, "pad"))
    x = layers.Reshape((-1, 1), name="stem_reshape")(x)
    x = convolution_block(x, stem, (3,), "stem", strides=3)  # [batch, 19683, 128]
    for i, width in enumerate(widths[:-1], 1):
        x = convolution_block(x, width, (3,), f"block{i}", 3)
    x = convolution_block(x, widths[-1], (1,), f"block{len(widths)}")
    x = layers.Flatten(name="head_flatten")(x)  # [batch, 1, 512] -> [batch, 512]
    x = layers.Dropout(dropout_rate, name="head_dropout")(x)
    scores = TagScores(num_tags, tags, name="head_scores")(x)
    return keras.Model(waveform, scores, name="sample_cnn_lee")
