"""Attention of each layer, and the scores of each moment on its own.

Won, Chun and Serra 2019, "Visualizing and Understanding Self-attention based Music
Tagging", https://arxiv.org/abs/1911.04385.

waveform [num_samples] -> attention [num_heads, length, length] of each layer, and
contribution [num_tags, length]. Position 0 is the class token, position i the i-th time
step of the music.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from tagger import models
from tagger.interpretation.spectrograms import log_mel_frontend
from tagger.models.layers import ClassToken, SelfAttention
from tagger.text import TaggerError


@dataclasses.dataclass(frozen=True)
class Attention:
    """The attention of every layer of a model for one waveform.

    Attributes:
        layers: Name of each layer -> its attention probabilities, float32 [num_heads,
            length (query), length (key)]; those of a query add up to 1.
        seconds: Start of each time step, and the end of the last one [length].
    """

    layers: dict[str, np.ndarray]
    seconds: np.ndarray

    @property
    def uniform(self) -> float:
        """What a head gives to each position if it prefers none."""
        return 1 / len(self.seconds)

    def heads(self, layer: str, queries: str = "class") -> np.ndarray:
        """Returns each head's attention to every position, float32 [heads, length].

        Args:
            layer: Name of a layer.
            queries: "class": the attention of the class token, from which the scores
                are computed; "all": the mean over all queries, for a layer whose output
                later layers attend to.

        Raises:
            ValueError: the layer or the choice of queries is unknown.
        """
        if layer not in self.layers:
            names = ", ".join(self.layers)
            raise TaggerError(f"There is no layer {layer!r}. Choose one of: {names}.")
        if queries not in ("class", "all"):
            raise TaggerError(f"queries must be 'class' or 'all', not {queries!r}.")
        attention = self.layers[layer]
        return attention[:, 0] if queries == "class" else attention.mean(axis=1)

    def heat(
        self, layer: str, head: int | None = None, queries: str = "class"
    ) -> np.ndarray:
        """Returns the attention to every position, float32 [length].

        Args:
            layer: See `heads`.
            head: Index of a head, from 0; None: the sum of all heads.
            queries: See `heads`.

        Raises:
            ValueError: see `heads`, or the head does not exist.
        """
        heads = self.heads(layer, queries)
        if head is None:
            return heads.sum(axis=0)
        if not 0 <= head < len(heads):
            raise TaggerError(
                f"There is no head {head}. Choose one of 0 to {len(heads) - 1}."
            )
        return heads[head]


def layer_titles(found: Attention) -> dict[str, str]:
    """Returns what the attention of each layer shows, in words, by its name."""
    *before, last = found.layers
    total = len(found.layers)
    titles = {
        name: f"Layer {number} of {total}: what all moments look at, on average"
        for number, name in enumerate(before, 1)
    }
    whose = "what the decision looks at (class token)"
    return titles | {last: f"Layer {total} of {total}: {whose}"}


def attention(model: keras.Model, waveform: np.ndarray) -> Attention:
    """Returns the attention of every attention layer of a model.

    Args:
        model: A `self_attention`, `cnn_self_attention` or `music_tagging_transformer`.
        waveform: float32 [num_samples] at the model's sample rate, one segment long. A
            loaded model that takes any length takes any length here, too.

    Raises:
        ValueError: the model has no attention, or the waveform has another length.
    """
    layers = attention_layers(model)
    probe = keras.Model(model.input, [layer.input for layer in layers])
    sequences = _listed(probe(as_batch(model, waveform), training=False))
    found = {}
    for layer, sequence in zip(layers, sequences, strict=True):
        _, probabilities = layer(sequence, return_attention=True)
        found[layer.name] = ops.convert_to_numpy(probabilities)[0]
    num_steps = sequences[0].shape[1] - 1
    return Attention(found, step_seconds(model, num_steps))


def contribution(
    model: keras.Model,
    waveform: np.ndarray,
    layer: str | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Returns the scores if one layer attended only to one position, for each position.

    The attention of all heads and queries is set to 1 at one position and to 0
    elsewhere. Every query then receives the value of that position, so the attention
    need not be computed. After the last layer, positions no longer mix, so only the
    class token is computed there.

    Args:
        model: See `attention`.
        waveform: See `attention`.
        layer: Name of the layer; None: the last one, as in the paper.
        batch_size: Number of positions per call of the model.

    Returns:
        float32 [num_tags, length].

    Raises:
        ValueError: see `attention`, or the model has no such layer.
    """
    layers = {found.name: found for found in attention_layers(model)}
    name = layer or list(layers)[-1]
    if name not in layers:
        names = ", ".join(layers)
        raise TaggerError(f"There is no layer {name!r}. Choose one of: {names}.")
    # The encoders of both papers add the output of attention to its input sequence.
    residual, attended = model.get_layer(f"{name}_add").input
    before = keras.Model(model.input, [layers[name].input, residual])
    behind = keras.Model([residual, attended], model.output)
    sequence, residual = before(as_batch(model, waveform), training=False)
    values = layers[name].output_projection(layers[name].value(sequence))[0]
    if name == list(layers)[-1]:
        residual = residual[:, :1]
        behind = _of_length(behind, 1)
    scores = []
    for start in range(0, len(values), batch_size):
        chunk = values[start : start + batch_size, None]
        shape = (len(chunk), *residual.shape[1:])
        inputs = [ops.broadcast_to(part, shape) for part in (residual, chunk)]
        scores.append(ops.convert_to_numpy(behind(inputs, training=False)))
    return np.concatenate(scores).T


def half_and_half(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Joins the first half of a waveform and the first half of another one.

    The paper concatenates two clips in this way, to see each tag in its own half.

    Args:
        first: Waveform [num_samples].
        second: Waveform of the same length.

    Raises:
        ValueError: their lengths differ.
    """
    if len(first) != len(second):
        raise TaggerError(
            f"The waveforms have {len(first)} and {len(second)} samples. Give two of"
            " the same length."
        )
    middle = len(first) // 2
    return np.concatenate([first[:middle], second[: len(first) - middle]])


def attention_layers(model: keras.Model) -> list[SelfAttention]:
    """Returns the attention layers of a model, from first to last.

    Raises:
        ValueError: the model has no attention layers.
    """
    found = [layer for layer in model.layers if isinstance(layer, SelfAttention)]
    if not found:
        raise TaggerError(
            f"Model {model.name} has no attention layers. Choose one of: self_attention"
            " (with back end attention), cnn_self_attention, music_tagging_transformer."
        )
    return found


def step_seconds(model: keras.Model, num_steps: int) -> np.ndarray:
    """Returns the start of each time step of attention, and the end of the last one.

    The middle of a step is the middle of its receptive field, the part of the music
    that its convolutions and poolings cover.

    Args:
        model: See `attention`.
        num_steps: Number of time steps, without the class token.

    Returns:
        [num_steps + 1], in seconds; not negative.
    """
    # Middle of the first step, and distance to the next one, in frames or samples.
    middle, stride = 0.0, 1
    for layer in model.layers:
        if isinstance(layer, ClassToken):
            break
        if isinstance(layer, keras.layers.MaxPooling1D | keras.layers.MaxPooling2D):
            middle += stride * (layer.pool_size[0] - 1) / 2
            stride *= layer.pool_size[0]
        elif isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2D):
            # Padding is symmetric; a shortcut runs parallel to its block.
            if "shortcut" not in layer.name:
                stride *= layer.strides[0]
    unit = 1 / models.model_info(model).sample_rate
    if (frontend := log_mel_frontend(model)) is not None:
        unit *= frontend.log_mel.hop_length
    edges = (middle + stride * (np.arange(num_steps + 1) - 0.5)) * unit
    return np.maximum(edges, 0)


def as_batch(model: keras.Model, waveform: np.ndarray) -> np.ndarray:
    """Returns a waveform as a batch for a model: float32 [1, num_samples].

    Raises:
        ValueError: the waveform does not have one axis, or not the length that the
            model takes.
    """
    expected, info = model.input_shape[1], models.model_info(model)
    if np.ndim(waveform) != 1:
        raise TaggerError(
            f"A waveform has one axis, [num_samples]. Received: {np.shape(waveform)}"
        )
    if expected not in (None, len(waveform)):
        raise TaggerError(
            f"Model {info.name} takes a waveform of {expected} samples"
            f" ({info.segmentation.num_samples / info.sample_rate:.2f} s at"
            f" {info.sample_rate} Hz) here. Received: {np.shape(waveform)}"
        )
    return np.asarray(waveform, np.float32)[None]


def _of_length(network: keras.Model, length: int) -> keras.Model:
    """Returns a model with the same layers for sequences of another length."""
    channels = network.inputs[0].shape[-1]
    inputs = [keras.Input((length, channels)) for _ in network.inputs]
    return keras.models.clone_model(network, inputs, lambda layer: layer)


def _listed(outputs) -> list:
    return outputs if isinstance(outputs, list | tuple) else [outputs]
