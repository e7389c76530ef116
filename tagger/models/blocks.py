"""Blocks of layers that several models share: convolutions, residuals, encoders.

Each function adds named layers to a functional graph. Spectrogram features are [batch,
time, mel, channels], waveform features [batch, time, channels]. The originals are
PyTorch models, so batch norm uses epsilon 1e-5 and momentum .9 (.1 in PyTorch's
convention), and the padding is the same on both sides.
"""

import keras
import numpy as np
from keras import layers

from tagger.models.frontends import LogMelSpectrogram
from tagger.models.layers import (
    AudioInput,
    SelfAttention,
    VerticalConv2D,
    torch_uniform,
)
from tagger.models.presets import preset
from tagger.segmentation import Segmentation


def waveform_input(
    sample_rate: int, segmentation: Segmentation, min_samples: int | None = None
):
    """Returns the input of a model, and its waveform [batch, num_samples].

    Args:
        sample_rate: Rate of the waveform in Hz.
        segmentation: How clips are cut for the model.
        min_samples: See `AudioInput`.
    """
    waveform = keras.Input((segmentation.num_samples,), name="waveform")
    about = AudioInput(
        sample_rate, segmentation, min_samples=min_samples, name="audio_input"
    )
    return waveform, about(waveform)


def log_mel_input(log_mel: str, segmentation: Segmentation, min_frames=None):
    """Returns the input of a model, and its log-mel [batch, num_frames, n_mels].

    Args:
        log_mel: Key of `presets.PRESETS`.
        segmentation: How clips are cut for the model.
        min_frames: Fewest frames of a network that takes any number of them; None: it
            takes only whole segments.

    Raises:
        ValueError: the preset is unknown.
    """
    definition, min_samples = preset(log_mel), None
    if min_frames:
        min_samples = max((min_frames - 1) * definition.hop_length, definition.n_fft)
    waveform, x = waveform_input(definition.sample_rate, segmentation, min_samples)
    return waveform, LogMelSpectrogram(definition, name="frontend")(x)


def torch_norm(x, name: str):
    """Applies batch normalisation with PyTorch's epsilon and momentum."""
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def convolution(
    x, filters: int, kernel_size: tuple[int, ...], name: str, strides=1, norm=True
):
    """Applies a convolution and batch norm: layers `{name}_conv`, `{name}_norm`.

    Args:
        x: Features [batch, time, channels] for a 1-D convolution, [batch, time, mel,
            channels] for a 2-D one.
        filters: Number of output channels.
        kernel_size: Odd kernel lengths, one per axis of the convolution.
        name: Prefix of the layer names.
        strides: One stride for all axes, or one per axis.
        norm: Whether batch norm follows the convolution.
    """
    strides = np.broadcast_to(strides, len(kernel_size))
    is_2d = len(kernel_size) == 2
    padding = "same"
    if (strides > 1).any():
        # Keras' "same" pads a strided convolution more at the end than at the start.
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
    """Applies a convolution, batch norm, ReLU and, if given a size, max-pooling."""
    x = convolution(x, filters, kernel_size, name, strides)
    x = layers.Activation("relu", name=f"{name}_relu")(x)
    if pool_size is None:
        return x
    pool = layers.MaxPooling2D if len(kernel_size) == 2 else layers.MaxPooling1D
    return pool(pool_size, name=f"{name}_pool")(x)


def residual_block(x, filters: int, name: str, strides=1, pool_size=None):
    """Applies two 3x3 convolutions with a shortcut, ReLU and optional max-pooling.

    The shortcut is a 3x3 convolution (`{name}_shortcut_conv`) if the block has strides
    or changes the number of channels; otherwise it is the input itself.

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
    """Applies timbre filters: a kernel over time and mel, then the maximum over mel.

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
    """Applies rhythm filters: the mean over mel, then a long kernel over time.

    log-mel [batch, time, mel, 1] -> [batch, time, filters].

    Reference:
        Pons et al., ISMIR 2018, section 2.2.
    """
    x = layers.AveragePooling2D((1, x.shape[2]), name=f"{name}_mean")(x)
    x = layers.Reshape((-1, 1), name=f"{name}_squeeze")(x)
    return convolution_block(x, filters, (kernel_size,), name)


def torch_dense(x, units: int, name: str, activation: str | None = None):
    """Applies a dense layer with PyTorch's default initialisation."""
    return layers.Dense(
        units, activation=activation, kernel_initializer=torch_uniform(), name=name
    )(x)


def normed_image(x):
    """Applies batch norm to features: [batch, time, mel] -> [batch, time, mel, 1]."""
    x = layers.Reshape((-1, x.shape[-1], 1), name="input_channel")(x)
    return torch_norm(x, "input_norm")


def max_and_mean(x):
    """Concatenates maximum and mean over time of features [batch, time, channels]."""
    return layers.Concatenate(name="pooled")(
        [
            layers.GlobalMaxPooling1D(name="pooled_max")(x),
            layers.GlobalAveragePooling1D(name="pooled_mean")(x),
        ]
    )


def dense_head(x, units: int, dropout_rate: float):
    """Applies the layers before the scores: dense, batch norm, ReLU and dropout."""
    x = torch_dense(x, units, "head_dense")
    x = torch_norm(x, "head_norm")
    x = layers.Activation("relu", name="head_relu")(x)
    return layers.Dropout(dropout_rate, name="head_dropout")(x)


def bert_encoder(x, num_heads: int, dropout_rates: tuple[float, float], name: str):
    """Applies a Transformer encoder layer: post-norm, exact GELU, 4x hidden width.

    sequence [batch, length, channels] -> the same shape. Layers `{name}_attention`,
    `{name}_attention_norm`, `{name}_hidden`, `{name}_output`, `{name}_norm`.

    Args:
        x: Sequence [batch, length, channels].
        num_heads: Number of attention heads.
        dropout_rates: Dropout rates of the attention probabilities, and before each
            sum.
        name: Prefix of the layer names.

    Reference:
        Devlin et al. 2019, https://arxiv.org/abs/1810.04805, as used by Won et al.
        2019.
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
