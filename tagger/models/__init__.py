"""The taggers: a table of them, one file per paper, and what a model file tells."""

import dataclasses
import inspect
import os
import zipfile
from collections.abc import Callable

import keras

from tagger.layers import AudioWindow, TagScores
from tagger.models.sample_cnn import sample_cnn
from tagger.records import INT16_SCALE


@dataclasses.dataclass(frozen=True)
class Published:
    """Macro scores a paper prints for one configuration; None where it prints none."""

    dataset: str  # key of `datasets.DATASETS`
    options: dict  # of the factory
    roc_auc: float
    pr_auc: float | None = None


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A tagger of the field.

    Attributes:
        factory: Function(num_tags=…, tags=…, …) -> keras.Model; its defaults are the
            paper's.
        paper: Reference.
        recipe: Key of `training.RECIPES`.
        published: Test scores as the paper prints them.
    """

    factory: Callable[..., keras.Model]
    paper: str
    recipe: str
    published: tuple[Published, ...]

    @property
    def sample_rate(self) -> int:
        """Rate of the published model in Hz."""
        return inspect.signature(self.factory).parameters["sample_rate"].default

    @property
    def num_samples(self) -> int:
        """Window of the published model."""
        return inspect.signature(self.factory).parameters["num_samples"].default


MODELS = {
    "sample_cnn": ModelEntry(
        factory=sample_cnn,
        paper="Kim, Lee and Nam, ICASSP 2018, https://arxiv.org/abs/1710.10451",
        recipe="resemul",
        published=tuple(
            Published(dataset, {"block": block, "multi": multi}, roc_auc)
            for dataset, block, multi, roc_auc in (
                ("magnatagatune", "basic", True, 0.9077),
                ("magnatagatune", "basic", False, 0.9055),
                ("magnatagatune", "se", True, 0.9111),
                ("magnatagatune", "se", False, 0.9083),
                ("magnatagatune", "res", True, 0.9098),
                ("magnatagatune", "res", False, 0.9061),
                ("magnatagatune", "rese", True, 0.9113),
                ("magnatagatune", "rese", False, 0.9102),
                ("million_song", "se", True, 0.8840),
                ("million_song", "rese", True, 0.8847),
            )
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a model tells of itself: how to cut music for it, what its scores mean."""

    name: str
    sample_rate: int  # Hz
    num_samples: int  # of a window
    remainder: str  # see layers.AudioWindow
    num_tags: int
    tags: tuple[str, ...] | None  # None: the file holds none


def build_model(name: str, **options) -> keras.Model:
    """Builds a model by its name in MODELS; options go to its factory.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}. Choose one of: {', '.join(MODELS)}.")
    return MODELS[name].factory(**options)


def load_model(path: str | os.PathLike) -> keras.Model:
    """Reads a `.keras` file made by our training or conversion.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no Keras model, or not one of ours.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{str(path)!r} is no .keras model file (a damaged copy, perhaps)."
        )
    try:
        model = keras.saving.load_model(path, compile=False)
    except (
        Exception
    ) as error:  # Keras raises many kinds, some of them from h5py or json
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(
            f"{str(path)!r} is no model Keras can read: {first}"
        ) from error
    model_info(model)
    return model


def model_info(model: keras.Model) -> ModelInfo:
    """Reads what a model says of itself from its first and last layers.

    Raises:
        ValueError: the model has no AudioWindow or no TagScores layer.
    """
    window = [layer for layer in model.layers if isinstance(layer, AudioWindow)]
    scores = [layer for layer in model.layers if isinstance(layer, TagScores)]
    if len(window) != 1 or len(scores) != 1:
        raise ValueError(
            f"Model {model.name!r} is no tagger of this project: it does not say its"
            " rate, window and tags. Use a model made by train.py."
        )
    window, scores = window[0], scores[0]
    return ModelInfo(
        name=model.name,
        sample_rate=window.sample_rate,
        num_samples=window.num_samples,
        remainder=window.remainder,
        num_tags=scores.units,
        tags=scores.tags,
    )


def fed_with(model: keras.Model, dtype: str) -> keras.Model:
    """Makes a model that takes segments as the records hold them and scales them.

    So int16 crosses to the accelerator, half the bytes of float32. Both models share
    their layers; save the one that was given.

    Args:
        model: Takes float32 waveforms at ±1.
        dtype: "int16", or "float32" for the model as it is.
    """
    if dtype == "float32":
        return model
    segments = keras.Input(model.input_shape[1:], dtype=dtype, name="segments")
    # float32 in every precision: bfloat16 would keep 8 of the 16 bits.
    scale = keras.layers.Rescaling(1 / INT16_SCALE, dtype="float32", name="to_waveform")
    return keras.Model(segments, model(scale(segments)), name=f"{model.name}_int16")
