"""Saves and loads models, and reads their metadata.

`.keras` file -> keras.Model -> `ModelInfo`.
"""

import contextlib
import os
import textwrap
import zipfile
from collections.abc import Iterator, Sequence

import keras

from tagger.models import frontends  # noqa: F401, registers its layers for load_model
from tagger.models.files import read_info
from tagger.models.layers import AudioInput, TagScores
from tagger.models.metadata import ModelInfo
from tagger.storage import replacing
from tagger.text import TaggerError


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
        raise TaggerError(
            f"{str(path)!r} is not a .keras model file. The copy may be damaged."
        )
    info = read_info(path)
    with _explained(path):
        model = keras.saving.load_model(path, compile=False)
    if model_info(model) != info or not _maps_segments_to_scores(model, info):
        raise TaggerError(
            f"{str(path)!r} does not map waveforms [batch, num_samples] to scores"
            f" [batch, {info.num_tags}], as it says. Use a model made by train.py."
        )
    return of_any_length(model)


@contextlib.contextmanager
def _explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns Keras' errors on a file, many of them h5py's or json's, into a sentence."""
    try:
        yield
    except Exception as error:
        if "safe_mode" in str(error):  # advice that must not be followed
            raise TaggerError(
                f"{str(path)!r} is refused: it contains Python code, such as a Lambda"
                " layer, and code from a file could do anything. Use a model made by"
                " train.py."
            ) from error
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise TaggerError(
            f"{str(path)!r} is not a model that Keras can read:"
            f" {textwrap.shorten(first, 200)}"
        ) from error


def load_weights(model: keras.Model, path: str | os.PathLike) -> None:
    """Loads the weights of a `.keras` file into a model of the same kind.

    Raises:
        ValueError: the file is damaged, or holds another kind of model.
    """
    with _explained(path):
        model.load_weights(path)


def check_kind(model: keras.Model, name: str) -> None:
    """Checks that a factory from outside returns a model as ours are.

    Args:
        model: What it returns.
        name: Its name, for the error message.

    Raises:
        ValueError: it is another kind of model.
    """
    try:
        is_one = _maps_segments_to_scores(model, model_info(model))
    except (ValueError, AttributeError):
        is_one = False
    if not is_one:
        raise TaggerError(
            f"{name} must return a keras.Model from waveforms [batch, num_samples] to"
            " scores [batch, num_tags] with one AudioInput layer after its input and a"
            " TagScores layer at its end (both in tagger.models.layers)."
        )


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
        raise TaggerError("An ONNX file has no layers. Give a .keras file instead.")
    audio = [layer for layer in model.layers if isinstance(layer, AudioInput)]
    scores = [layer for layer in model.layers if isinstance(layer, TagScores)]
    if len(audio) != 1 or len(scores) != 1:
        raise TaggerError(
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
        provenance=scores.provenance,
    )


def set_thresholds(model: keras.Model, thresholds: Sequence[float]) -> None:
    """Sets the decision thresholds [num_tags]; they are saved with the model."""
    (scores,) = (layer for layer in model.layers if isinstance(layer, TagScores))
    scores.thresholds = tuple(float(threshold) for threshold in thresholds)


def of_any_length(model: keras.Model) -> keras.Model:
    """Returns the model with an input of any length, if its layers allow that."""
    (audio,) = (layer for layer in model.layers if isinstance(layer, AudioInput))
    if audio.min_samples is None or model.input_shape[1] is None:
        return model
    waveform = keras.Input((None,), name=model.inputs[0].name)
    free = keras.models.clone_model(model, input_tensors=waveform)
    free.set_weights(model.get_weights())
    return free
