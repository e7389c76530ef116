"""Keras layers shared by our models; they run on every Keras backend."""

import dataclasses

import keras
import numpy as np
from keras import layers, ops

from tagger.models import metadata
from tagger.segmentation import Segmentation
from tagger.text import TaggerError


def torch_uniform() -> keras.initializers.Initializer:
    """Returns PyTorch's kernel initializer: U(-b, b) with b = 1 / sqrt(fan-in)."""
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


# Model files store this layer under its former name.
@keras.saving.register_keras_serializable("tagger", name="AudioWindow")
class AudioInput(layers.Layer):
    """Stores what audio a model takes and returns its input unchanged.

    Because it is a layer, every way to save the model saves it too: a loaded model
    knows its sample rate and segmentation without the code that trained it.

    waveform [batch, num_samples] -> the same.

    Args:
        sample_rate: Rate of the waveform in Hz.
        segmentation: How clips are cut for the model.
        min_samples: Shortest waveform, in samples, that a model of any input length
            takes; None if the model takes only segments of one length.

    Raises:
        ValueError: a waveform is shorter than `min_samples`. (After calls with several
            lengths, TensorFlow's `predict` hides the length; TensorFlow then raises its
            own error.)
    """

    def __init__(
        self, sample_rate, segmentation, min_samples=None, dtype="float32", **kwargs
    ):
        # Half precision would leave the frontend only 8 or 11 of the 16 bits.
        super().__init__(dtype=dtype, **kwargs)
        self.sample_rate = sample_rate
        self.segmentation = segmentation
        self.min_samples = min_samples

    def call(self, waveform):
        length = waveform.shape[1]
        if self.min_samples and isinstance(length, int) and length < self.min_samples:
            raise TaggerError(
                f"The model takes waveforms of at least {self.min_samples} samples, not"
                f" {length}. Repeat or pad shorter ones."
            )
        return waveform

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "sample_rate": self.sample_rate,
            "min_samples": self.min_samples,
            **dataclasses.asdict(self.segmentation),
        }

    @classmethod
    def from_config(cls, config):
        """Creates the layer from the result of `get_config`."""
        config = dict(config)
        fields = {
            field.name: config.pop(field.name)
            for field in dataclasses.fields(Segmentation)
        }
        return cls(segmentation=Segmentation(**fields), **config)


@keras.saving.register_keras_serializable("tagger")
class SqueezeExcitation(layers.Layer):
    """Computes the excitation of an SE block: one factor in 0..1 per channel.

    Multiply the features by the excitation.

    features [batch, time, channels] -> excitation [batch, 1, channels].

    Args:
        amplifying_ratio: Hidden units per channel. Image networks use a bottleneck
            (below 1); Kim et al. widen the hidden layer (16).

    Reference:
        Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507;
        Kim, Lee and Nam, ICASSP 2018, section 2.2.
    """

    def __init__(self, amplifying_ratio=16, **kwargs):
        super().__init__(**kwargs)
        self.amplifying_ratio = amplifying_ratio

    def build(self, input_shape):
        channels = input_shape[-1]
        self.squeeze = layers.Dense(
            int(channels * self.amplifying_ratio),
            activation="relu",
            dtype=self.dtype_policy,
            name="squeeze",
        )
        self.excite = layers.Dense(
            channels, activation="sigmoid", dtype=self.dtype_policy, name="excite"
        )
        self.squeeze.build((input_shape[0], 1, channels))
        self.excite.build((input_shape[0], 1, self.squeeze.units))

    def call(self, features):
        return self.excite(self.squeeze(ops.mean(features, axis=1, keepdims=True)))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1, input_shape[-1])

    def get_config(self):
        return super().get_config() | {"amplifying_ratio": self.amplifying_ratio}


@keras.saving.register_keras_serializable("tagger")
class TagScores(layers.Dense):
    """Last layer: one sigmoid score per tag. It stores the tag names in the model.

    features [batch, channels] -> scores [batch, num_tags], float32 in every precision.

    Args:
        num_tags: Number of tags.
        tags: Tag names in the order of the scores; None if they are unknown (the
            original projects' weights do not contain them).
        thresholds: Decision threshold of each tag; None if none have been chosen.
        provenance: See `ModelInfo.provenance`.
    """

    def __init__(
        self,
        num_tags,
        tags=None,
        thresholds=None,
        provenance=None,
        dtype="float32",
        **kwargs,
    ):
        kwargs.pop("units", None)
        kwargs.setdefault("activation", "sigmoid")
        super().__init__(num_tags, dtype=dtype, **kwargs)
        metadata.check_tags(num_tags, tags, thresholds)
        self.tags = None if tags is None else tuple(tags)
        self.thresholds = None if thresholds is None else tuple(thresholds)
        self.provenance = None if provenance is None else dict(provenance)

    def get_config(self):
        return super().get_config() | {
            "num_tags": self.units,
            "tags": None if self.tags is None else list(self.tags),
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "provenance": self.provenance,
        }


@keras.saving.register_keras_serializable("tagger")
class ClassToken(layers.Layer):
    """Prepends one vector, the same for every example, to a sequence.

    sequence [batch, length, channels] -> [batch, 1 + length, channels].

    Args:
        learned: If True, the vector is a trainable weight, initialised from N(0, 1).
            If False, it is fixed: numbers in 0..1 drawn with seed 0, as in Won et al.
            2019.

    Reference:
        Won, Chun and Serra 2019, https://arxiv.org/abs/1906.04972 (fixed);
        Won, Choi and Serra, ISMIR 2021, section 3.1 (learned).
    """

    def __init__(self, learned=True, **kwargs):
        super().__init__(**kwargs)
        self.learned = learned

    def build(self, input_shape):
        channels = input_shape[-1]

        def fixed(shape, dtype=None):
            return np.random.RandomState(0).random_sample(shape).astype(dtype)

        self.token = self.add_weight(
            shape=(channels,),
            initializer=keras.initializers.RandomNormal(stddev=1.0)
            if self.learned
            else fixed,
            trainable=self.learned,
            name="token",
        )

    def call(self, sequence):
        shape = (ops.shape(sequence)[0], 1, sequence.shape[-1])
        token = ops.broadcast_to(ops.cast(self.token, sequence.dtype), shape)
        return ops.concatenate([token, sequence], axis=1)

    def compute_output_shape(self, input_shape):
        batch, length, channels = input_shape
        return (batch, None if length is None else length + 1, channels)

    def get_config(self):
        return super().get_config() | {"learned": self.learned}


@keras.saving.register_keras_serializable("tagger")
class LearnedPositions(layers.Layer):
    """Adds a learned vector to every position of a sequence.

    sequence [batch, length, channels] -> the same shape.

    Args:
        max_length: Number of positions, the longest sequence that the layer accepts.

    Raises:
        ValueError: the sequence is longer than `max_length`; like AudioInput, the layer
            can check this only if the length is known.
    """

    def __init__(self, max_length, **kwargs):
        super().__init__(**kwargs)
        self.max_length = max_length

    def build(self, input_shape):
        self._check(input_shape[1])
        self.positions = self.add_weight(
            shape=(self.max_length, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=1.0),
            name="positions",
        )

    def _check(self, length):
        if isinstance(length, int) and length > self.max_length:
            raise TaggerError(
                f"{self.name} has {self.max_length} positions but the sequence has"
                f" {length}. Give shorter waveforms."
            )

    def call(self, sequence):
        self._check(sequence.shape[1])
        positions = self.positions[: ops.shape(sequence)[1]]
        return sequence + ops.cast(positions, sequence.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {"max_length": self.max_length}


@keras.saving.register_keras_serializable("tagger")
class SinusoidPositions(layers.Layer):
    """Adds sines and cosines of the position; position 0 (a class token's) gets zeros.

    sequence [batch, length, channels] -> the same shape. Channels 2i and 2i + 1 hold
    the sine and cosine of position / 10000^(2i / channels).

    Reference:
        Vaswani et al. 2017, section 3.5; the zeros follow the code of Won et al.
        2019.
    """

    def call(self, sequence):
        channels = sequence.shape[-1]
        # All arguments are given, because jax2onnx cannot convert defaults.
        length = ops.shape(sequence)[1]
        position = ops.arange(0, length, 1, dtype="float32")[:, None]
        rate = 10000.0 ** (-(np.arange(channels) // 2 * 2) / channels)
        angle = position * rate.astype(np.float32)
        is_sine = np.arange(channels) % 2 == 0
        waves = ops.where(is_sine, ops.sin(angle), ops.cos(angle))
        return sequence + ops.cast(ops.where(position > 0, waves, 0.0), sequence.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("tagger")
class SelfAttention(layers.Layer):
    """Multi-head self-attention whose probabilities can be read and replaced.

    sequence [batch, length, channels] -> the same shape.

    `layer(sequence, return_attention=True)` also returns the probabilities [batch,
    num_heads, length (query), length (key)]. `layer(sequence, attention=…)` uses the
    given probabilities of that shape (or one that broadcasts to it) instead of its own:
    the manual attention of Won et al. 2019, section 5.

    Args:
        num_heads: Number of heads; the channels are divided evenly among them.
        use_bias: Whether the query, key and value projections have a bias; the output
            projection always has one.
        dropout_rate: Dropout rate of the probabilities.

    Raises:
        ValueError: the channels cannot be divided evenly among the heads.

    Reference:
        Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.
    """

    def __init__(self, num_heads, use_bias=True, dropout_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.use_bias = use_bias
        self.dropout_rate = dropout_rate

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.num_heads:
            raise TaggerError(
                f"{channels} channels cannot be divided evenly among"
                f" {self.num_heads} heads."
            )

        def projection(name, use_bias):
            dense = layers.Dense(
                channels,
                use_bias=use_bias,
                kernel_initializer=torch_uniform(),
                dtype=self.dtype_policy,
                name=name,
            )
            dense.build((*input_shape[:-1], channels))
            return dense

        self.query = projection("query", self.use_bias)
        self.key = projection("key", self.use_bias)
        self.value = projection("value", self.use_bias)
        self.output_projection = projection("output", True)
        self.dropout = layers.Dropout(self.dropout_rate, dtype=self.dtype_policy)

    def call(self, sequence, attention=None, return_attention=False, training=None):
        channels = sequence.shape[-1]
        length = ops.shape(sequence)[1]

        def heads(projection):  # -> [batch, heads, length, channels per head]
            shape = (-1, length, self.num_heads, channels // self.num_heads)
            return ops.transpose(ops.reshape(projection(sequence), shape), (0, 2, 1, 3))

        if attention is None:
            scale = (channels // self.num_heads) ** -0.5
            keys = ops.transpose(heads(self.key), (0, 1, 3, 2))
            logits = ops.matmul(heads(self.query) * scale, keys)
            # float32: a half-precision softmax over hundreds of keys loses the tail.
            attention = ops.softmax(ops.cast(logits, "float32"))
        else:
            shape = (ops.shape(sequence)[0], self.num_heads, length, length)
            attention = ops.broadcast_to(attention, shape)
        weights = ops.cast(attention, self.compute_dtype)
        weights = self.dropout(weights, training=training)
        context = ops.transpose(ops.matmul(weights, heads(self.value)), (0, 2, 1, 3))
        output = self.output_projection(ops.reshape(context, (-1, length, channels)))
        return (output, attention) if return_attention else output

    def compute_output_spec(
        self, sequence, attention=None, return_attention=False, training=None
    ):
        """Returns the specs of the output and, if requested, the probabilities."""
        batch, length, _ = sequence.shape
        output = keras.KerasTensor(sequence.shape, dtype=self.compute_dtype)
        shape = (batch, self.num_heads, length, length)
        spread = keras.KerasTensor(shape, dtype="float32")
        return (output, spread) if return_attention else output

    def get_config(self):
        return super().get_config() | {
            "num_heads": self.num_heads,
            "use_bias": self.use_bias,
            "dropout_rate": self.dropout_rate,
        }


@keras.saving.register_keras_serializable("tagger")
class FirstPosition(layers.Layer):
    """Returns the first position of a sequence, where `ClassToken` puts its vector.

    sequence [batch, length, channels] -> [batch, channels].
    """

    def call(self, sequence):
        return sequence[:, 0]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])


@keras.saving.register_keras_serializable("tagger")
class VerticalConv2D(layers.Conv2D):
    """Convolves a spectrogram with kernels that span most of its mel bands.

    log-mel [batch, time, mel, 1] -> [batch, time', mel', filters], without padding.

    In training it runs as a 1-D convolution over time, once per mel offset of the
    kernel. The sums are the same, but gradients are 3 times as fast on CPUs, where
    those of a 2-D convolution of one channel are slow (`benchmarks/models.py`).

    Args:
        filters: Number of output channels.
        kernel_size: Frames and mel bands of a kernel.
        kwargs: Other arguments of Conv2D. Strides, padding and bias must be the
            defaults.

    Raises:
        ValueError: strides, padding or bias are not the defaults, or the input has
            several channels.
    """

    def __init__(self, filters, kernel_size, **kwargs):
        super().__init__(filters, kernel_size, **kwargs)
        if (self.strides, self.padding, self.use_bias) != ((1, 1), "valid", True):
            raise TaggerError(
                "VerticalConv2D supports only strides 1, padding 'valid' and a bias."
                f" Received: strides {self.strides}, padding {self.padding!r}, use_bias"
                f" {self.use_bias}"
            )

    def build(self, input_shape):
        if input_shape[-1] != 1:
            raise TaggerError(
                f"VerticalConv2D takes one input channel. Received: {input_shape[-1]}"
            )
        super().build(input_shape)

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        num_frames, num_mels = self.kernel_size
        places = inputs.shape[2] - num_mels + 1
        bands = ops.stack(
            [inputs[:, :, at : at + num_mels, 0] for at in range(places)], axis=1
        )
        length = ops.shape(inputs)[1]
        bands = ops.reshape(bands, (-1, length, num_mels))
        outputs = ops.conv(bands, self.kernel[:, :, 0], padding="valid")
        shape = (-1, places, length - num_frames + 1, self.filters)
        outputs = ops.transpose(ops.reshape(outputs, shape), (0, 2, 1, 3))
        return self.activation(outputs + self.bias)
