"""Stretches of layers that the papers' models repeat: convolution blocks, encoders.

Functions that add named layers to a functional graph. Spectrogram features are [batch,
time, mel, channels], waveform features [batch, time, channels]. The originals are
PyTorch models: batch norm with epsilon 1e-5 and momentum .9 (PyTorch counts it .1), and
the same padding on both sides.
"""

import numpy as np
from keras import layers

from tagger.models.layers import SelfAttention, VerticalConv2D, torch_uniform


def torch_norm(x, name: str):
    """Batch normalisation with PyTorch's epsilon and momentum."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def convolution(
    x, filters: int, kernel_size: tuple[int, ...], name: str, strides=1, norm=True
):
    """Convolution and batch norm: layers `{name}_conv`, `{name}_norm`.

    Args:
        x: Features; the number of their axes says whether the convolution is 1-D or
            2-D.
        filters: Output channels.
        kernel_size: Odd lengths, one per axis.
        name: Of the stretch.
        strides: One, or one per axis.
        norm: False leaves the batch norm out.
    """
    strides = np.broadcast_to(strides, len(kernel_size))
    is_2d = len(kernel_size) == 2
    padding = "same"
    if (strides > 1).any():
        # Keras' "same" would pad a strided convolution at the end more than before.
        around = [(size // 2, size // 2) for size in kernel_size]
        pad = layers.ZeroPadding2D if is_2d else layers.ZeroPadding1D
        x = pad(around if is_2d else around[0], name=f"{name}_zeros")(x)
        padding = "valid"
    convolve = layers.Conv2D if is_2d else layers.Conv1D
    x = convolve(
        filters,
        kernel_size,
        strides=tuple(map(int, strides)),
        padding=padding,
        kernel_initializer=torch_uniform(),
        name=f"{name}_conv",
    )(x)
    return torch_norm(x, f"{name}_norm") if norm else x


def convolution_block(
    x, filters: int, kernel_size: tuple[int, ...], name: str, pool_size=None, strides=1
):
    """Convolution, batch norm, ReLU and, where `pool_size` is given, max-pooling."""
    x = convolution(x, filters, kernel_size, name, strides)
    x = layers.Activation("relu", name=f"{name}_relu")(x)
    if pool_size is None:
        return x
    pool = layers.MaxPooling2D if len(kernel_size) == 2 else layers.MaxPooling1D
    return pool(pool_size, name=f"{name}_pool")(x)


def residual_block(x, filters: int, name: str, strides=1, pool_size=None):
    """Two 3x3 convolutions beside a shortcut, ReLU, then max-pooling if asked for.

    The shortcut is a 3x3 convolution (`{name}_shortcut_conv`) where strides or channels
    change, else the input itself.

    Reference:
        Won, Ferraro, Bogdanov and Serra, SMC 2020, https://arxiv.org/abs/2006.00751.
    """
    shortcut = x
    if np.any(np.array(strides) > 1) or x.shape[-1] != filters:
        shortcut = convolution(x, filters, (3, 3), f"{name}_shortcut", strides)
    x = convolution_block(x, filters, (3, 3), f"{name}_1", strides=strides)
    x = convolution(x, filters, (3, 3), f"{name}_2")
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    x = layers.Activation("relu", name=f"{name}_relu")(x)
    if pool_size is None:
        return x
    return layers.MaxPooling2D(pool_size, name=f"{name}_pool")(x)


def vertical_convolution(x, filters: int, kernel_size: tuple[int, int], name: str):
    """Timbre filters: kernel over time and mel, then the maximum over mel.

    log-mel [batch, time, mel, 1] -> [batch, time, filters].

    Reference:
        Pons et al., ISMIR 2018, https://arxiv.org/abs/1711.02520, section 2.2.
    """
    num_frames = kernel_size[0] // 2
    x = layers.ZeroPadding2D(((num_frames, num_frames), (0, 0)), name=f"{name}_zeros")(
        x
    )
    x = VerticalConv2D(
        filters, kernel_size, kernel_initializer=torch_uniform(), name=f"{name}_conv"
    )(x)
    x = torch_norm(x, f"{name}_norm")
    x = layers.Activation("relu", name=f"{name}_relu")(x)
    x = layers.MaxPooling2D((1, x.shape[2]), name=f"{name}_max")(x)
    return layers.Reshape((-1, filters), name=f"{name}_squeeze")(x)


def horizontal_convolution(x, filters: int, kernel_size: int, name: str):
    """Rhythm filters: the mean over mel, then a long kernel over time.

    log-mel [batch, time, mel, 1] -> [batch, time, filters].

    Reference:
        Pons et al., ISMIR 2018, section 2.2.
    """
    x = layers.AveragePooling2D((1, x.shape[2]), name=f"{name}_mean")(x)
    x = layers.Reshape((-1, 1), name=f"{name}_squeeze")(x)
    return convolution_block(x, filters, (kernel_size,), name)


def torch_dense(x, units: int, name: str, activation: str | None = None):
    """Dense layer with PyTorch's draw of the first weights."""
    return layers.Dense(
        units, activation=activation, kernel_initializer=torch_uniform(), name=name
    )(x)


def normed_image(x):
    """Features [batch, time, mel] -> [batch, time, mel, 1], batch-normed."""
    x = layers.Reshape((-1, x.shape[-1], 1), name="input_channel")(x)
    return torch_norm(x, "input_norm")


def max_and_mean(x):
    """Features [batch, time, channels] -> their maxima, then their means over time."""
    return layers.Concatenate(name="pooled")(
        [
            layers.GlobalMaxPooling1D(name="pooled_max")(x),
            layers.GlobalAveragePooling1D(name="pooled_mean")(x),
        ]
    )


def dense_head(x, units: int, dropout_rate: float):
    """Dense layer, batch norm, ReLU and dropout: what stands before the scores."""
    x = torch_dense(x, units, "head_dense")
    x = torch_norm(x, "head_norm")
    x = layers.Activation("relu", name="head_relu")(x)
    return layers.Dropout(dropout_rate, name="head_dropout")(x)


def bert_encoder(x, num_heads: int, dropout_rates: tuple[float, float], name: str):
    """Encoder layer with the norm after each sum (post-norm), exact GELU, 4x wide.

    sequence [batch, length, channels] -> the same shape. Layers `{name}_attention`,
    `{name}_attention_norm`, `{name}_hidden`, `{name}_output`, `{name}_norm`.

    Args:
        x: Sequence.
        num_heads: Attention heads.
        dropout_rates: On the attention's probabilities, and before each sum.
        name: Of the stretch.

    Reference:
        Devlin et al. 2019, https://arxiv.org/abs/1810.04805, as Won et al. 2019 use it.
    """
    attention_rate, hidden_rate = dropout_rates
    channels = x.shape[-1]
    attended = SelfAttention(
        num_heads, dropout_rate=attention_rate, name=f"{name}_attention"
    )(x)
    attended = layers.Dropout(hidden_rate, name=f"{name}_attention_dropout")(attended)
    x = layers.Add(name=f"{name}_attention_add")([x, attended])
    x = layers.LayerNormalization(epsilon=1e-12, name=f"{name}_attention_norm")(x)
    hidden = torch_dense(x, 4 * channels, f"{name}_hidden", "gelu")
    hidden = torch_dense(hidden, channels, f"{name}_output")
    hidden = layers.Dropout(hidden_rate, name=f"{name}_dropout")(hidden)
    x = layers.Add(name=f"{name}_add")([x, hidden])
    return layers.LayerNormalization(epsilon=1e-12, name=f"{name}_norm")(x)
