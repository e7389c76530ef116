"""Saves and loads models, and reads their metadata.

`.keras` file -> keras.Model -> `ModelInfo`. Two functions derive models: the part of a
model after its frontend, and a model that takes segments as the records store them.
"""

import json
import os
import textwrap
import zipfile

import keras

from tagger import validation
from tagger.models.frontends import preset
from tagger.models.layers import AudioInput, TagScores
from tagger.models.metadata import ModelInfo
from tagger.segmentation import INT16_SCALE
from tagger.storage import replacing

MAX_CONFIG_BYTES = 1 << 25


def save_model(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a `.keras` file; a failed save leaves no incomplete file behind."""
    with replacing(path) as unfinished:
        model.save(unfinished)


def load_model(path: str | os.PathLike) -> keras.Model:
    """Reads a `.keras` file made by our training or conversion.

    If the network allows it, the loaded model takes waveforms of any length.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a Keras model, or was not made by this project.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{str(path)!r} is not a .keras model file. The copy may be damaged."
        )
    info = _stored_info(path)
    try:
        model = keras.saving.load_model(path, compile=False)
    # Keras raises many kinds of errors, some of them from h5py or json.
    except Exception as error:
        if "safe_mode" in str(error):  # advice that must not be followed
            raise ValueError(
                f"{str(path)!r} is refused: it contains Python code, such as a Lambda"
                " layer, and code from a file could do anything. Use a model made by"
                " train.py."
            ) from error
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(
            f"{str(path)!r} is not a model that Keras can read:"
            f" {textwrap.shorten(first, 200)}"
        ) from error
    if model_info(model) != info or not _maps_segments_to_scores(model, info):
        raise ValueError(
            f"{str(path)!r} does not map waveforms [batch, num_samples] to scores"
            f" [batch, {info.num_tags}], as it says. Use a model made by train.py."
        )
    return _of_any_length(model)


def _stored_info(path: str | os.PathLike) -> ModelInfo:
    """Reads the metadata in a `.keras` file, before Keras builds layers from it.

    Raises:
        ValueError: the file does not hold such metadata, or it cannot be right.
    """
    try:
        with zipfile.ZipFile(path) as file:
            if file.getinfo("config.json").file_size > MAX_CONFIG_BYTES:
                raise ValueError("its description is too long")
            config = json.loads(file.read("config.json"))["config"]
        layers = {layer["class_name"]: layer["config"] for layer in config["layers"]}
        # AudioWindow: the name of AudioInput in older files.
        audio = layers.get("AudioWindow") or layers["AudioInput"]
        fields = {"thresholds": None} | audio | layers["TagScores"]
        fields["name"] = config["name"]
    except validation.DAMAGED as error:
        raise ValueError(
            f"{str(path)!r} was not made by this project: its sample rate, segmentation"
            " and tags are missing. Use a model made by train.py."
        ) from error
    return ModelInfo.from_dict(fields, path)


def _maps_segments_to_scores(model: keras.Model, info: ModelInfo) -> bool:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return False
    (waveform,), (scores,) = model.inputs, model.outputs
    lengths = (None, info.segmentation.num_samples)
    return (
        len(waveform.shape) == 2
        and waveform.shape[1] in lengths
        and tuple(scores.shape) == (None, info.num_tags)
    )


def model_info(model: keras.Model) -> ModelInfo:
    """Reads the metadata of a model from its first and last layers.

    Raises:
        ValueError: the model is not a Keras model, or does not have one AudioInput and
            one TagScores layer.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            "ONNX files work only with `tag`. Give the .keras file instead."
        )
    audio = [layer for layer in model.layers if isinstance(layer, AudioInput)]
    scores = [layer for layer in model.layers if isinstance(layer, TagScores)]
    if len(audio) != 1 or len(scores) != 1:
        raise ValueError(
            f"Model {model.name!r} was not made by this project: its sample rate,"
            " segmentation and tags are missing. Use a model made by train.py."
        )
    audio, scores = audio[0], scores[0]
    return ModelInfo(
        name=model.name,
        sample_rate=audio.sample_rate,
        segmentation=audio.segmentation,
        num_tags=scores.units,
        tags=scores.tags,
        thresholds=scores.thresholds,
    )


def set_thresholds(model: keras.Model, thresholds) -> None:
    """Sets the decision thresholds [num_tags]; they are saved with the model."""
    (scores,) = (layer for layer in model.layers if isinstance(layer, TagScores))
    scores.thresholds = tuple(float(threshold) for threshold in thresholds)


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
        raise ValueError(
            f"Model {model.name} reads the waveform itself: it has no frontend, so it"
            " cannot take log-mel features."
        )
    name = f"{model.name}_features"
    return keras.Model(frontend[0].output, model.output, name=name)


def _of_any_length(model: keras.Model) -> keras.Model:
    """Returns the model with an input of any length, if its layers allow that."""
    (audio,) = (layer for layer in model.layers if isinstance(layer, AudioInput))
    if audio.min_samples is None or model.input_shape[1] is None:
        return model
    waveform = keras.Input((None,), name=model.inputs[0].name)
    free = keras.models.clone_model(model, input_tensors=waveform)
    free.set_weights(model.get_weights())
    return free


def with_record_inputs(
    model: keras.Model,
    dtype: str,
    features: str | None = None,
    augmentation: keras.Layer | None = None,
) -> keras.Model:
    """Returns a model that takes segments as the records store them.

    Int16 segments are thus transferred to the accelerator as int16, which takes half
    the bytes of float32. Both models share their layers; save the original one.

    Args:
        model: Model that takes float32 waveforms at ±1.
        dtype: Type of the segments, such as "int16". For "float32" without features and
            augmentation, the model itself is returned.
        features: Key of `frontends.PRESETS` if the records contain log-mel spectrograms
            (float16 or float32), which skip the frontend; None if they contain
            waveforms.
        augmentation: Layer that augments the waveforms in training.

    Raises:
        ValueError: the model has no frontend or a different one, or augmentation is
            requested for log-mel spectrograms.
    """
    if features and augmentation:
        raise ValueError(
            "Augmentation needs waveforms, but these records hold log-mel spectrograms."
            " Build without --features, or train without --augment."
        )
    if features:
        frontends = [layer for layer in model.layers if layer.name == "frontend"]
        made_by = [getattr(layer, "log_mel", None) for layer in frontends]
        if made_by != [preset(features)]:
            raise ValueError(
                f"Model {model.name} does not take log-mel spectrograms of the preset"
                f" {features}, which these records hold. Build without --features, or"
                " with the preset that python -m tagger models shows for this model."
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
