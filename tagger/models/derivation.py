"""Derives models from models; both share their layers, and so their weights.

model ─┬─▶ feature_network       log-mel spectrograms -> scores
       ├─▶ with_logits           waveforms -> what the last activation takes
       ├─▶ with_record_inputs    segments as the records store them -> scores
       └─▶ embedding_network ─▶ with_head    new tags on known music, averages
"""

from collections.abc import Sequence

import keras

from tagger.models.head import NO_HEAD, Head
from tagger.models.layers import AudioInput, TagScores
from tagger.models.metadata import PENULTIMATE, ModelInfo, network_name
from tagger.models.presets import preset
from tagger.segmentation import INT16_SCALE
from tagger.text import TaggerError, suggest_names

MEMBER_SCORES = "member_scores"  # layer of the members' scores in an average


def feature_network(model: keras.Model) -> keras.Model:
    """Returns the part of a model after its frontend; both models share their layers.

    Returns:
        Model from log-mel features [batch, num_frames, n_mels] (harmonic_cnn: [batch,
        num_frames, bands, harmonics]) to scores [batch, num_tags].

    Raises:
        ValueError: the model has no frontend; it reads the waveform itself.
    """
    frontend = [layer for layer in model.layers if layer.name == "frontend"]
    if not frontend:
        raise TaggerError(
            f"Model {model.name} reads the waveform itself: it has no frontend, so it"
            " cannot take log-mel features."
        )
    name = f"{model.name}_features"
    return keras.Model(frontend[0].output, model.output, name=name)


def with_length(model: keras.Model, num_samples: int | None) -> keras.Model:
    """Copies a model for waveforms of another length; None allows any length.

    Its layers compute in the precision that Keras is set to, unless they always compute
    in float32.
    """

    def copied(layer):
        config = layer.get_config()
        config.pop("dtype", None)
        return type(layer).from_config(config)

    waveform = keras.Input((num_samples,), name=model.inputs[0].name)
    copy = keras.models.clone_model(
        model, input_tensors=waveform, clone_function=copied
    )
    copy.set_weights(model.get_weights())
    return copy


def check_no_average(model: keras.Model) -> None:
    """Checks that the scores of a model are sigmoids of its embedding.

    Raises:
        ValueError: they are means of several models' scores.
    """
    if model.layers[-1].activation is not keras.activations.sigmoid:
        raise TaggerError(f"Model {model.name} {NO_HEAD}")


class _Logits(keras.layers.Layer):
    """Computes the input of a `TagScores` layer's activation."""

    def __init__(self, scores: TagScores):
        super().__init__(dtype="float32", name="logits")
        self.scores = scores

    def call(self, features):
        return keras.ops.matmul(features, self.scores.kernel) + self.scores.bias


def with_logits(model: keras.Model) -> keras.Model:
    """Returns a model from waveforms [batch, num_samples] to logits [batch, num_tags].

    Training takes it: a loss on logits has exact gradients where scores are 0 or 1.
    Both models share their layers; save the original one.

    Raises:
        ValueError: see `check_no_average`.
    """
    check_no_average(model)
    scores = model.layers[-1]
    return keras.Model(model.input, _Logits(scores)(scores.input), name=model.name)


def with_record_inputs(
    model: keras.Model,
    dtype: str,
    features: str | None = None,
    augmentation: keras.Layer | None = None,
) -> keras.Model:
    """Returns a model that takes segments as the records store them.

    Int16 segments are thus transferred to the accelerator as int16, which takes half
    the bytes of float32. Both models share their layers.

    Args:
        model: Model that takes float32 waveforms at ±1.
        dtype: Type of the segments, such as "int16". For "float32" without features and
            augmentation, the model itself is returned.
        features: Key of `presets.PRESETS` if the records contain log-mel spectrograms
            (float16 or float32), which skip the frontend; None if they contain
            waveforms.
        augmentation: Layer that augments the waveforms in training.

    Raises:
        ValueError: the model has no frontend or a different one, or augmentation is
            requested for log-mel spectrograms.
    """
    if features and augmentation:
        raise TaggerError(
            "Augmentation needs waveforms, but these records hold log-mel spectrograms."
            " Build without `features=`, or train without `augment=`."
        )
    if features:
        frontends = [layer for layer in model.layers if layer.name == "frontend"]
        made_by = [getattr(layer, "log_mel", None) for layer in frontends]
        if made_by != [preset(features)]:
            raise TaggerError(
                f"Model {model.name} does not take log-mel spectrograms of the preset"
                f" {features}, which these records hold. Build without `features=`, or"
                " with the preset that tagger models show names for this model."
            )
        network = feature_network(model)
        spectrogram = keras.Input(network.input_shape[1:], dtype=dtype, name="log_mel")
        scores = network(keras.ops.cast(spectrogram, "float32"))
        return keras.Model(spectrogram, scores, name=f"{model.name}_features")
    if dtype == "float32" and not augmentation:
        return model
    segments = keras.Input(model.input_shape[1:], dtype=dtype, name="segments")
    # float32 in every precision: bfloat16 would keep 8 of the 16 bits.
    scale = 1.0 if dtype == "float32" else 1 / INT16_SCALE
    x = keras.layers.Rescaling(scale, dtype="float32", name="to_waveform")(segments)
    if augmentation:
        x = augmentation(x)
    return keras.Model(segments, model(x), name=f"{model.name}_{dtype}")


def embedding_network(model: keras.Model, layer: str = PENULTIMATE) -> keras.Model:
    """Returns the part of a model up to one layer: waveforms -> embeddings.

    Args:
        model: Model that takes waveforms [batch, num_samples].
        layer: Name of the layer; "penultimate" is the input of the last layer, or, of
            an average of models, of the layer of their scores. Time and frequency axes
            of its output are averaged.

    Returns:
        Model from waveforms [batch, num_samples] to embeddings [batch, channels].

    Raises:
        ValueError: the model has no such layer, or the layer has no single output.
    """
    if layer == PENULTIMATE:
        members = [one for one in model.layers if one.name == MEMBER_SCORES]
        output = (members or model.layers)[-1].input
    else:
        output = _layer(model, layer).output
    if not isinstance(output, keras.KerasTensor) or len(output.shape) < 2:
        raise TaggerError(
            f"Layer {layer!r} of {model.name} does not have exactly one output of shape"
            " [batch, …, channels]. Choose another layer."
        )
    if output.shape[-1] is None:
        raise TaggerError(
            f"Layer {layer!r} of {model.name} has no channels of a fixed number."
            " Choose another layer."
        )
    if len(output.shape) > 2:
        output = keras.ops.mean(output, axis=tuple(range(1, len(output.shape) - 1)))
    return keras.Model(model.input, output, name=f"{model.name}_embedding")


def with_embedding(model: keras.Model, layer: str = PENULTIMATE) -> keras.Model:
    """Returns a model with two outputs: scores and embedding.

    Args:
        model: See `embedding_network`.
        layer: See `embedding_network`.

    Returns:
        Model from waveforms [batch, num_samples] to [scores [batch, num_tags],
        embeddings [batch, channels]].
    """
    embedding = embedding_network(model, layer).output
    return keras.Model(model.input, [model.output, embedding], name=model.name)


def _layer(model: keras.Model, name: str) -> keras.Layer:
    names = [layer.name for layer in model.layers]
    if name in names:
        return model.get_layer(name)
    raise TaggerError(
        f"Model {model.name} has no layer {name!r}."
        f" {suggest_names(name, [PENULTIMATE, *names])}"
    )


def _joined(networks: Sequence[keras.Model]) -> keras.Model:
    """Returns one network that concatenates the embeddings of several.

    The networks become the layers base1, base2 …, which are copies.
    """
    inputs = [_audio_input(network) for network in networks]
    shortest = [layer.min_samples for layer in inputs]
    num_samples = None if all(shortest) else inputs[0].segmentation.num_samples
    waveform = keras.Input((num_samples,), name="waveform")
    first = AudioInput(
        inputs[0].sample_rate,
        inputs[0].segmentation,
        min_samples=max(shortest) if all(shortest) else None,
        name="audio_input",
    )(waveform)
    outputs = []
    for number, network in enumerate(networks, 1):
        copy = keras.models.clone_model(network, clone_function=_without_audio_input)
        copy.set_weights(network.get_weights())
        copy.name = f"base{number}"
        outputs.append(copy(first))
    joined = keras.layers.Concatenate(name="embedding")(outputs)
    return keras.Model(waveform, joined, name="joined")


def _without_audio_input(layer: keras.Layer) -> keras.Layer:
    """Copies a layer; a model has only one AudioInput, so the parts have none."""
    if isinstance(layer, AudioInput):
        return keras.layers.Identity(name=layer.name)
    return type(layer).from_config(layer.get_config())


def _audio_input(network: keras.Model) -> AudioInput:
    (layer,) = (layer for layer in network.layers if isinstance(layer, AudioInput))
    return layer


def with_head(
    networks: Sequence[keras.Model], head: Head, info: ModelInfo
) -> keras.Model:
    """Returns a model that scores tags from the embeddings of networks.

    Args:
        networks: Networks from `embedding_network` with the same sample rate and
            segmentation; several become the layers base1, base2 …, which are copies.
        head: Head on their concatenated embeddings.
        info: Name, tags, thresholds and provenance of the model.

    Returns:
        Model from waveforms [batch, num_samples] to scores [batch, num_tags]. In an
        average, the layer `member_scores` gives what is averaged.
    """
    network = networks[0] if len(networks) == 1 else _joined(networks)
    features, weights, activation = network.output, [head.kernel, head.bias], "sigmoid"
    if head.shares is not None:
        members = keras.layers.Dense(len(head.bias), "sigmoid", name=MEMBER_SCORES)
        features = members(features)
        members.set_weights(weights)
        weights, activation = [head.shares, 0 * head.shares[0]], "linear"
    scores = TagScores(
        info.num_tags,
        info.tags,
        info.thresholds,
        info.provenance,
        activation=activation,
        name="head_scores",
    )
    output = scores(features)
    scores.set_weights(weights)
    return keras.Model(network.input, output, name=network_name(info.name))
