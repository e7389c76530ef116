"""Pretrained models by name, and the cache that stores them.

name ─▶ download ─┬─▶ filling ──────────────▶ `.onnx` in the cache
                  └─▶ conversion by Keras ──▶ `.keras` with a graph in the cache

`pretrained.csv` in this folder lists the models, and `shipped/` holds the one that
needs no download. Listing them does not load Keras.
"""

import csv
import dataclasses
import hashlib
import importlib.util
import os
import tempfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tagger import models, storage, weights
from tagger.datasets import magnatagatune, million_song, mtg_jamendo
from tagger.models import registry
from tagger.models.metadata import ModelInfo
from tagger.storage import file_lock
from tagger.text import TaggerError, suggest_names
from tagger.weights import hub
from tagger.weights.downloads import GitFile, Wheel, fetch, fetch_wheel, unpack

if TYPE_CHECKING:
    import keras

TABLE_PATH = Path(__file__).parent / "pretrained.csv"
LEGACY_ENDINGS = (".hdf5", ".h5")
SHIPPED_FOLDER = Path(__file__).parent / "shipped"
TAGS = {
    "mtt": magnatagatune.TOP_50_TAGS,
    "mtt ascending": magnatagatune.RESEMUL_TAGS,
    "msd": million_song.CLASSIC_TAGS,
    "mtt and msd": tuple(
        dict.fromkeys((*magnatagatune.TOP_50_TAGS, *million_song.CLASSIC_TAGS))
    ),
    "cals": million_song.CALS_TAGS,
    "jamendo": mtg_jamendo.TOP_50_TAGS,
}


def vocabulary(name: str, model: str) -> tuple[str, ...] | None:
    """Returns the tags of mtt, msd, cals or jamendo as a model's authors order them.

    Args:
        name: Name of the vocabulary; None is returned for others.
        model: Key of `models.MODELS`.
    """
    if (name, model) == ("mtt", "sample_cnn"):
        name = "mtt ascending"
    elif name not in ("mtt", "msd", "cals", "jamendo"):
        return None
    return TAGS[name]


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A model inside this package, a `.keras` file with a graph.

    Attributes:
        path: Its `.keras` file.
        identity: SHA-256 of the file as it was first published; it changes with the
            weights.
    """

    path: Path
    identity: str


@dataclasses.dataclass(frozen=True)
class ByHand:
    """A file that the user downloads; we have not tried the address.

    Attributes:
        commands: Commands that download it and, unless it is resemul's `.hdf5`, which
            every command reads as it is, convert it.
        model: What to give as --model then.
    """

    commands: tuple[str, ...]
    model: str

    @classmethod
    def of(cls, row: dict[str, str]) -> "ByHand":
        """Makes the source of a row of the table."""
        url, name = row["path"], row["name"]
        file = urllib.parse.urlsplit(url).path.rpartition("/")[2]
        download = f"curl -L -o {file} '{url}'"
        if file.endswith(".hdf5"):
            return cls((download,), file)
        convert = (
            f"tagger models convert {file} --architecture {row['model']} --tag-file"
            f" {row['tags']}"
        )
        return cls((download, f"{convert} --output {name}.keras"), f"{name}.keras")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model that somebody trained and published.

    Attributes:
        name: Key of PRETRAINED.
        model: Key of `models.MODELS`.
        dataset: Data that it was trained on: a key of `datasets.DATASETS`, with the
            split's name if it has several, or "open music".
        tags: Tag names in the order of the scores.
        licence: Licence of the weights.
        source: Where the weights are.
        repository: Where they are published: "owner/name" on GitHub, or "PyPI", or
            "tagger" for this package.
        scores: Published macro ROC-AUC and PR-AUC (None if not published) on the test
            split, or None.
        is_verified: Whether we have converted and run these weights.
    """

    name: str
    model: str
    dataset: str
    tags: tuple[str, ...]
    licence: str
    source: Wheel | GitFile | Shipped | ByHand
    repository: str
    scores: tuple[float, float | None] | None
    is_verified: bool

    @property
    def num_bytes(self) -> int:
        """Size of the download, estimated from the number of weights if unknown."""
        if isinstance(self.source, Wheel):
            return Wheel.NUM_BYTES
        if isinstance(self.source, Shipped):
            return self.source.path.stat().st_size
        return 4 * registry.entry(self.model).facts.num_parameters

    @property
    def place(self) -> str:
        """Where the weights come from; or the commands that get them."""
        if isinstance(self.source, ByHand):
            return f"{'; then '.join(self.source.commands)} (not tried by us)"
        if isinstance(self.source, Wheel):
            return f"PyPI, {Wheel.REQUIREMENT}"
        if isinstance(self.source, Shipped):
            return "in this package"
        return f"github.com/{self.repository}"


def _read_table() -> dict[str, Pretrained]:
    with TABLE_PATH.open(encoding="utf-8", newline="") as file:
        return {row["name"]: _entry_of(row) for row in csv.DictReader(file)}


def _entry_of(row: dict[str, str]) -> Pretrained:
    if row["blob_id"]:
        source = GitFile(
            row["repository"],
            row["commit"],
            row["path"],
            row["blob_id"],
            row["sha256"] or None,
        )
    elif row["repository"] == "PyPI":
        source = Wheel(row["path"])
    elif row["repository"] == "tagger":
        source = Shipped(SHIPPED_FOLDER / row["path"], row["sha256"])
    else:
        source = ByHand.of(row)
    scores, wanted = None, [row[key] for key in ("published_by", "dataset", "options")]
    for one in registry.entry(row["model"]).published:
        options = " ".join(f"{key}={value}" for key, value in one.options.items())
        if [one.source, one.dataset, options] == wanted:
            scores = (one.roc_auc, one.pr_auc)
    return Pretrained(
        row["name"],
        row["model"],
        row["dataset"],
        TAGS[row["tags"]],
        row["licence"],
        source,
        row["repository"],
        scores,
        row["verified"] == "yes",
    )


PRETRAINED = _read_table()


def entry(name: str) -> Pretrained:
    """Returns the entry of a pretrained model.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in PRETRAINED:
        raise TaggerError(
            f"There is no pretrained model {name!r}. {suggest_names(name, PRETRAINED)}"
        )
    return PRETRAINED[name]


def ensure_cached(name: str) -> Path:
    """Downloads and converts a model unless it is in the package or in the cache.

    Returns:
        Path of its file: `.onnx` if the package holds its network, else `.keras`.

    Raises:
        ValueError: the name is unknown, the weights cannot be downloaded automatically,
            or the download is not the published file.
        OSError: there is no network, or the cache is not writable.
        ImportError: the weights are a PyTorch file and PyTorch is not installed.
    """
    found = entry(name)
    if isinstance(found.source, Shipped):
        return found.source.path
    if isinstance(found.source, ByHand):
        commands = "; ".join(found.source.commands)
        raise TaggerError(
            f"{name} cannot be downloaded automatically. Get it yourself (we have not"
            f" tried the address): {commands}. Then give --model {found.source.model}."
        )
    is_filled = isinstance(found.source, Wheel)
    ending = ".onnx" if is_filled else ".keras"
    path = storage.cache_folder() / "models" / f"{name}{ending}"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # A second process waits, and then finds the model.
    with file_lock(path, f"${storage.CACHE_VARIABLE}", waits=True):
        if not path.exists():
            (_fill if is_filled else _convert)(found, path)
    return path


def _fill(found: Pretrained, path: Path) -> None:
    """Writes the graph of a model whose network is in this package."""
    held = weights.filling.weights_of(found.model, original_weights(found.name))
    graph = weights.filling.fill(found.model, held, found.tags, found.name)
    models.graphs.save(graph, path)


def _convert(found: Pretrained, path: Path) -> None:
    """Writes a model for Keras, with its graph."""
    model = _converted(found.name)
    models.export.save(model, path)


def _converted(name: str) -> "keras.Model":
    """Downloads a model's weights and puts them into a Keras model."""
    found = entry(name)
    if isinstance(found.source, GitFile) and not importlib.util.find_spec("torch"):
        raise ImportError(
            f"{name} is a PyTorch file, and PyTorch is not installed: pip install torch"
            " (the CPU build is enough)."
        )
    storage.load_tensorflow()
    convert = weights.conversion.convert  # loads Keras, before anything is downloaded
    model = convert(original_weights(name), found.model, tags=found.tags)
    model.name = name
    model.layers[-1].provenance = {"network": found.model}
    return model


def original_weights(name: str) -> dict[str, np.ndarray]:
    """Downloads the weights of a pretrained model, and returns them as published.

    Raises:
        ValueError, OSError, ImportError: see `ensure_cached`.
    """
    source, downloads = entry(name).source, storage.cache_folder() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    if isinstance(source, GitFile):
        download = downloads / f"{source.blob_id}{Path(source.path).suffix}"
        fetch(source, download)
        return weights.readers.read_weights(download)
    wheel = fetch_wheel(downloads)
    with tempfile.TemporaryDirectory() as folder:
        unpack(wheel, source, Path(folder))
        return weights.readers.read_weights(Path(folder) / source.folder)


def path_of(name_or_path: str | os.PathLike) -> Path:
    """Returns the file of a pretrained model or of one on the hub, or the given path.

    Raises:
        FileNotFoundError: the argument is neither a pretrained model nor a file.
        ValueError, OSError, ImportError: see `ensure_cached` and `hub.download`.
    """
    if name_or_path in PRETRAINED:
        return ensure_cached(name_or_path)
    if hub.is_hub_name(name_or_path):
        return hub.download(name_or_path, storage.cache_folder() / "hub")
    if not os.path.isfile(name_or_path):
        raise FileNotFoundError(
            f"There is no model file or pretrained model {str(name_or_path)!r}."
            f" {suggest_names(str(name_or_path), PRETRAINED)}"
        )
    return Path(name_or_path)


def is_graph_alone(name_or_path: str | os.PathLike) -> bool:
    """Returns whether a model is an `.onnx` file, from which Keras has no network."""
    if name_or_path in PRETRAINED:  # Keras gets those from the published weights
        return False
    return path_of(name_or_path).suffix == ".onnx"


def digest(name_or_path: str | os.PathLike) -> str:
    """Returns a SHA-256 that identifies a model, in hexadecimal.

    For a pretrained model it is that of its source, because another version of Keras
    may write other bytes; for a file see `files.digest`.

    Raises:
        FileNotFoundError, ValueError, OSError, ImportError: see `path_of`.
    """
    source = PRETRAINED[name_or_path].source if name_or_path in PRETRAINED else None
    if source is not None and not isinstance(source, ByHand):
        text = f"{name_or_path} {source.identity}"
        return hashlib.sha256(text.encode()).hexdigest()
    return models.files.digest(path_of(name_or_path))


def described(name_or_path: str | os.PathLike) -> dict[str, str]:
    """Returns what run.json says of a model: its name for people, and its digest."""
    return {"name": os.path.basename(name_or_path), "digest": digest(name_or_path)}


def load(name_or_path: str | os.PathLike) -> "keras.Model":
    """Loads a model: the one loader of names and files.

    Args:
        name_or_path: Name of a pretrained model, hf://user/name, a `.keras` file, or a
            legacy `.hdf5` of the original resemul, which has no tag names; its sample
            rate and segmentation are the paper's.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError, OSError, ImportError: see `path_of` and `models.load_model`.
    """
    if name_or_path in PRETRAINED and isinstance(entry(name_or_path).source, Wheel):
        return models.serialization.of_any_length(_converted(name_or_path))
    path = path_of(name_or_path)
    if path.suffix in LEGACY_ENDINGS:
        return weights.conversion.convert(
            weights.readers.read_weights(path), "sample_cnn"
        )
    if path.suffix == ".onnx":
        raise TaggerError(
            f"{str(path)!r} is an ONNX file, which Keras cannot run. Give a .keras file"
            " instead."
        )
    return models.load_model(path)


def provenance_of(
    bases: Sequence[str | os.PathLike], infos: Sequence[ModelInfo]
) -> dict[str, str]:
    """Returns the provenance of a model made from others: their names and licences.

    Args:
        bases: Names of pretrained models, or model files.
        infos: Their metadata, whose own provenance is passed on.
    """
    licences = []
    for base, info in zip(bases, infos, strict=True):
        held = dict(info.provenance or {})
        if base in PRETRAINED:
            held["licence"] = PRETRAINED[base].licence
        for key in ("licence", "licence of the base"):
            licences += filter(None, (held.get(key) or "").split(", "))
    about = {"from": ", ".join(map(short_name, bases))}
    about["network"] = " + ".join(dict.fromkeys(one.architecture for one in infos))
    if licences:
        about["licence of the base"] = ", ".join(dict.fromkeys(licences))
    return about


def short_name(model: str | os.PathLike) -> str:
    """Returns the name of a model; of a file, its name without the folder."""
    return str(model) if hub.is_hub_name(model) else os.path.basename(model)
