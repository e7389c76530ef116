"""The table of models: factories, papers, recipes and published scores.

This module does not load Keras. It reads `facts.csv` and `published.csv` in this
folder. `facts.csv` describes what each factory builds by default, so that listing the
models does not have to build them:

    python -m tagger.models.registry        # rewrites facts.csv
"""

import csv
import dataclasses
import functools
import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tagger import options
from tagger.options import Signature
from tagger.text import TaggerError, suggest_names

if TYPE_CHECKING:
    import keras

FACTS_PATH = Path(__file__).parent / "facts.csv"
OUTSIDE_RECIPE = "won2020"  # of models from outside
PUBLISHED_PATH = Path(__file__).parent / "published.csv"


@dataclasses.dataclass(frozen=True)
class Published:
    """Macro test scores that somebody published for one configuration.

    Attributes:
        model: Key of MODELS, or the name of an encoder that is not ours.
        dataset: Key of `datasets.DATASETS`.
        split: Test set, as published.csv explains.
        roc_auc: ROC-AUC; None if not published.
        pr_auc: PR-AUC; None if not published.
        options: Options of the factory.
        source: Who published them.
    """

    model: str
    dataset: str
    split: str
    roc_auc: float | None
    pr_auc: float | None
    options: dict
    source: str

    def described(self) -> str:
        """Returns the source and the options."""
        return ", ".join([self.source, *(f"{k} {v}" for k, v in self.options.items())])


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts of the model that a factory builds with its default options.

    Attributes:
        sample_rate: Rate of the waveform in Hz.
        num_samples: Length of a segment in samples.
        frontend: Key of `presets.PRESETS`, or "harmonic", or "waveform" for models
            without a frontend.
        num_parameters: Number of trainable weights with 50 tags.
    """

    sample_rate: int
    num_samples: int
    frontend: str
    num_parameters: int


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A model from the literature, or from outside.

    Attributes:
        name: Key of MODELS, the name of the factory, or package.module:factory.
        module: Module that contains the factory.
        paper: Authors, venue and URL of the paper; empty for a model from outside.
        recipe: Key of `recipes.RECIPES`.
    """

    name: str
    module: str
    paper: str
    recipe: str

    @property
    def factory(self) -> "Callable[..., keras.Model]":
        """Function(num_tags=…, tags=…, …) -> keras.Model, with the paper's defaults.

        The first access loads Keras.
        """
        module = importlib.import_module(self.module)
        return getattr(module, self.name.rpartition(":")[2])

    @property
    def facts(self) -> Facts:
        """Facts of the default model, which is built only if facts.csv lacks it."""
        stored = _stored_facts()
        return stored[self.name] if self.name in stored else derive_facts(self.name)

    @property
    def published(self) -> tuple[Published, ...]:
        """Published test scores, as their sources print them."""
        return tuple(row for row in all_published() if row.model == self.name)


_KIM_2018 = "Kim, Lee and Nam, ICASSP 2018, https://arxiv.org/abs/1710.10451"
_WON_2019 = "Won, Chun and Serra 2019, https://arxiv.org/abs/1906.04972"
_WON_2020 = "Won et al., SMC 2020, https://arxiv.org/abs/2006.00751"
_PONS_2019 = "Pons and Serra 2019, https://arxiv.org/abs/1909.06654"

MODELS = {
    name: ModelEntry(name, f"{__package__}.{module}", paper, recipe)
    for name, module, paper, recipe in (
        ("sample_cnn", "sample_cnn", _KIM_2018, "resemul"),
        (
            "sample_cnn_lee",
            "sample_cnn_lee",
            "Lee, Park, Kim and Nam, SMC 2017, https://arxiv.org/abs/1703.01789",
            "won2020",
        ),
        ("sample_cnn_se_won2020", "sample_cnn_se_won2020", _WON_2020, "won2020"),
        (
            "multi_scale_cnn",
            "multi_scale_cnn",
            "Dabral and Deshmukh, https://github.com/amalad/Multi-Scale-Music-Tagger",
            "multi_scale",
        ),
        ("self_attention", "self_attention", _WON_2019, "won2019"),
        (
            "music_tagging_transformer",
            "music_tagging_transformer",
            "Won, Choi and Serra, ISMIR 2021, https://arxiv.org/abs/2111.13457",
            "transformer",
        ),
        ("short_chunk_cnn", "short_chunk", _WON_2020, "won2020"),
        ("short_chunk_resnet", "short_chunk", _WON_2020, "won2020"),
        (
            "fcn",
            "fcn",
            "Choi, Fazekas and Sandler, ISMIR 2016, https://arxiv.org/abs/1606.00298",
            "won2020",
        ),
        (
            "crnn",
            "crnn",
            "Choi et al., ICASSP 2017, https://arxiv.org/abs/1609.04243",
            "won2020",
        ),
        (
            "musicnn",
            "musicnn",
            "Pons et al., ISMIR 2018, https://arxiv.org/abs/1711.02520",
            "won2020",
        ),
        ("cnn_self_attention", "cnn_self_attention", _WON_2019, "won2020"),
        (
            "harmonic_cnn",
            "harmonic_cnn",
            "Won, Chun, Nieto and Serra, ICASSP 2020,"
            " https://github.com/minzwon/data-driven-harmonic-filters",
            "won2020",
        ),
        ("musicnn_pons", "pons", _PONS_2019, "won2020"),
        ("vgg_pons", "pons", _PONS_2019, "won2020"),
    )
}


# The names of Won, Chun and Serra's main.py -> model and options. Recipe: won2019.
ARCHITECTURES = {
    "pons_won": ("self_attention", {}),
    "pons_pons": ("self_attention", {"back_end": "cnn"}),
    "lee_won": ("self_attention", {"front_end": "lee"}),
    "lee_lee": (
        "sample_cnn_lee",
        {"filters": (64, 64, *6 * (128,), 256, 256, 512)},
    ),
}


# Options of a quarter of the teacher's width, as in Won, Choi and Serra 2021.
_SMALLER = {
    "music_tagging_transformer": {"size": "student"},
    "short_chunk_resnet": {"num_filters": 32},
    "short_chunk_cnn": {"num_filters": 32},
}


def smaller(name: str, options: dict) -> dict:
    """Returns the options of a student that is narrower than its teacher.

    Args:
        name: Key of MODELS.
        options: Options that were chosen; they are kept.

    Raises:
        ValueError: the model has no smaller size, and no option was chosen.
    """
    if name not in _SMALLER and not options:
        raise TaggerError(
            f"{name} has no predefined smaller size. Set its options (tagger models"
            f" show {name}), or choose one of: {', '.join(_SMALLER)}."
        )
    return _SMALLER.get(name, {}) | options


def entry(name: str) -> ModelEntry:
    """Returns the entry of a model.

    Args:
        name: Key of MODELS, or package.module:factory for a model from outside, whose
            module is imported.

    Raises:
        ValueError: the name is unknown, or there is no such module or factory.
    """
    if ":" in name:
        return _outside_entry(name)
    if name not in MODELS:
        raise TaggerError(
            f"Unknown model {name!r}. Choose one of: {', '.join(MODELS)}; or give"
            " package.module:factory for a model of your own."
        )
    return MODELS[name]


def _outside_entry(name: str) -> ModelEntry:
    module_name, _, factory_name = name.rpartition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` does, but for the console command
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise TaggerError(
            f"Cannot import the module of model {name!r} ({reason}). Install it, or run"
            " the command in the folder that contains it."
        ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise TaggerError(
            f"{module_name} has no function {factory_name!r}."
            f" {suggest_names(factory_name, [n for n in vars(module) if n[0] != '_'])}"
        )
    stated = options.read_imported(name, factory)
    missing = set(options.TAGS) - stated.parameters.keys()
    if missing:
        raise TaggerError(
            f"{name} must take the arguments num_tags and tags, but lacks"
            f" {' and '.join(sorted(missing))}."
        )
    for one in stated.parameters.values():
        if one.default is options.MISSING and one.name not in options.TAGS:
            raise TaggerError(
                f"{name} needs a default for its argument {one.name}; the option"
                f" --{one.name.replace('_', '-')} can then change it."
            )
    return ModelEntry(name, module_name, "", OUTSIDE_RECIPE)


def build_model(name: str, **settings) -> "keras.Model":
    """Builds a model and passes the options to its factory.

    Args:
        name: See `entry`.
        **settings: Arguments of the factory.

    Raises:
        ValueError: the name or the value of an option is unknown, or a factory from
            outside returns another kind of model.
    """
    factory = entry(name).factory
    try:
        model = factory(**settings)
    except TaggerError:
        raise
    except ValueError as error:  # Keras refuses a value
        first = str(error).strip().splitlines()[0]
        raise TaggerError(f"Model {name} cannot be built: {first}") from error
    if name not in MODELS:
        from tagger.models import serialization

        serialization.check_kind(model, name)
    return model


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model with random weights, to be built for the tags of some data.

    Attributes:
        name: See `entry`.
        options: Options of the factory that differ from its defaults.
    """

    name: str
    options: dict = dataclasses.field(default_factory=dict)

    def build(self, tags: Sequence[str] | None, num_tags: int) -> "keras.Model":
        """Returns the model; the names of its tags may be unknown."""
        return build_model(self.name, num_tags=num_tags, tags=tags, **self.options)

    def describe(self) -> dict:
        """Returns the part of run.json that must be the same to resume."""
        return {"model": default_options(self.name) | self.options}


def options_of(name: str) -> Signature:
    """Returns the options of a model's factory: its arguments, except the tags.

    Those of MODELS are read from the source, which takes milliseconds; importing it
    would load Keras.
    """
    found = entry(name)
    if name in MODELS:
        stated = options.read(f"{found.module}:{name}")
    else:
        stated = options.read_imported(name, found.factory)
    return stated.only([one for one in stated.parameters if one not in options.TAGS])


def default_options(name: str) -> dict:
    """Returns the options of a model's factory with their defaults."""
    return options_of(name).defaults()


def features_of(name: str) -> tuple[str, int | None]:
    """Returns the frontend and the segment length that records of log-mel need.

    Args:
        name: Key of MODELS whose records are wanted, or of `presets.PRESETS`.

    Returns:
        Key of PRESETS, and the segment length in samples of the models that have it;
        None if no model has.

    Raises:
        ValueError: the models with this frontend have different segments, or the model
            reads waveforms.
    """
    if name in MODELS:
        facts = entry(name).facts
        if facts.frontend in ("waveform", "harmonic"):
            raise TaggerError(
                f"{name} has no log-mel frontend: build waveforms, without `features=`."
            )
        return facts.frontend, facts.num_samples
    lengths = {
        model: entry(model).facts.num_samples
        for model in MODELS
        if entry(model).facts.frontend == name
    }
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{model} ({n} samples)" for model, n in lengths.items())
        raise TaggerError(
            f"Models with the frontend {name} have different segments: {listed}. Give"
            " one of them with `features=`, or a length with `num_samples=`."
        )
    return name, min(lengths.values(), default=None)


def derive_facts(name: str) -> Facts:
    """Builds the default model of a factory and reads its facts."""
    from tagger.models import presets, serialization

    model = build_model(name, num_tags=50, tags=None)
    info = serialization.model_info(model)
    frontend = [layer for layer in model.layers if layer.name == "frontend"]
    preset = "harmonic" if frontend else "waveform"
    for key, log_mel in presets.PRESETS.items():
        if frontend and getattr(frontend[0], "log_mel", None) == log_mel:
            preset = key
    return Facts(
        info.sample_rate,
        info.segmentation.num_samples,
        preset,
        sum(math.prod(weight.shape) for weight in model.trainable_weights),
    )


@functools.cache
def _stored_facts() -> dict[str, Facts]:
    with FACTS_PATH.open(encoding="utf-8", newline="") as file:
        return {
            row["model"]: Facts(
                int(row["sample_rate"]),
                int(row["num_samples"]),
                row["frontend"],
                int(row["num_parameters"]),
            )
            for row in csv.DictReader(file)
        }


@functools.cache
def all_published() -> tuple[Published, ...]:
    """Returns the published scores of our models, and of encoders of others."""
    found, truth = [], {"True": True, "False": False}
    with PUBLISHED_PATH.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(line for line in file if line[0] != "#"):
            pairs = (pair.split("=") for pair in row["options"].split())
            row["options"] = {key: truth.get(value, value) for key, value in pairs}
            for name in ("roc_auc", "pr_auc"):
                row[name] = float(row[name]) if row[name] else None
            found.append(Published(**row))
    return tuple(found)


def _write_facts() -> None:
    with FACTS_PATH.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["model", *(field.name for field in dataclasses.fields(Facts))])
        for name in MODELS:
            rows.writerow([name, *dataclasses.astuple(derive_facts(name))])


if __name__ == "__main__":
    _write_facts()
