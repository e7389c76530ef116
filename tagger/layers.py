"""Keras layers that our models share; they run on every Keras backend."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("tagger")
class AudioWindow(keras.layers.Layer):
    """Says how music is cut for a model; passes its input through.

    Being a layer, it is saved inside the model's file, whoever saves it: a loaded model
    knows its rate and its window without the code that trained it.

    waveform [batch, num_samples] -> the same.

    Args:
        sample_rate: Rate of the waveform in Hz.
        num_samples: Length of a window.
        remainder: What becomes of a clip's last, incomplete window: "drop" (clips are
            scored on whole windows) or "pad" (zeros fill it up).
    """

    def __init__(self, sample_rate, num_samples, remainder="drop", **kwargs):
        super().__init__(**kwargs)
        if remainder not in ("drop", "pad"):
            raise ValueError(
                f"remainder must be 'drop' or 'pad'. Received: {remainder!r}"
            )
        self.sample_rate = sample_rate
        self.num_samples = num_samples
        self.remainder = remainder

    def call(self, waveform):
        return waveform

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return super().get_config() | {
            "sample_rate": self.sample_rate,
            "num_samples": self.num_samples,
            "remainder": self.remainder,
        }


@keras.saving.register_keras_serializable("tagger")
class SqueezeExcitation(keras.layers.Layer):
    """The gate of a squeeze-and-excitation block: one factor in 0..1 per channel.

    Its output is the excitation; multiply the features by it.

    features [batch, time, channels] -> excitation [batch, 1, channels].

    Args:
        amplifying_ratio: Hidden units per channel. Above 1 the bottleneck of the image
            networks becomes wide: 16 in Kim et al.

    Reference:
        Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507;
        Kim, Lee and Nam, ICASSP 2018, section 2.2.
    """

    def __init__(self, amplifying_ratio=16, **kwargs):
        super().__init__(**kwargs)
        self.amplifying_ratio = amplifying_ratio

    def build(self, input_shape):
        channels = input_shape[-1]
        self.squeeze = keras.layers.Dense(
            int(channels * self.amplifying_ratio),
            activation="relu",
            dtype=self.dtype_policy,
            name="squeeze",
        )
        self.excite = keras.layers.Dense(
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
class TagScores(keras.layers.Dense):
    """The last layer: one sigmoid score per tag. It keeps the tags' names in the model.

    features [batch, channels] -> scores [batch, num_tags], float32 in every precision.

    Args:
        num_tags: Number of tags.
        tags: Their names in the order of the scores; None where they are not known
            (weights of the original projects hold none).
    """

    def __init__(self, num_tags, tags=None, dtype="float32", **kwargs):
        kwargs.pop("units", None)
        kwargs.setdefault("activation", "sigmoid")
        super().__init__(num_tags, dtype=dtype, **kwargs)
        if tags is not None and len(tags) != num_tags:
            raise ValueError(
                f"{num_tags} tags need {num_tags} names. Received: {len(tags)}"
            )
        self.tags = None if tags is None else tuple(tags)

    def get_config(self):
        return super().get_config() | {
            "num_tags": self.units,
            "tags": None if self.tags is None else list(self.tags),
        }
