"""Metadata of a model: how to cut audio for it, and what its scores mean.

Our models store it in their first and last layers, exported models as JSON beside the
network. This module does not import Keras, because tagging with an exported model does
not need it.
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tagger import validation
from tagger.segmentation import Segmentation
from tagger.text import TaggerError
from tagger.validation import Name, SampleRate, TagCount

MAX_CONFIG_BYTES = 1 << 25
MAX_GRAPH_BYTES = 1 << 31
GRAPH_MEMBER = "graph.onnx"  # of a `.keras` file
OUTPUTS = ("scores", "embedding")  # of a graph
DEFAULT_MODEL = "student"  # key of `pretrained.PRETRAINED`
PENULTIMATE = "penultimate"  # the layer of embeddings: the input of the last layer
ExportFormat = Literal["saved-model", "litert", "onnx"]
EXPORT_FORMATS = {"saved-model": "", "litert": ".tflite", "onnx": ".onnx"}  # suffixes


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Metadata of a model.

    Attributes:
        name: Name of the model; of one from `train.py`, its architecture.
        sample_rate: Rate of its waveforms in Hz.
        segmentation: How clips are cut for it.
        num_tags: Number of scores.
        tags: Tag names in the order of the scores, or None if they are unknown.
        thresholds: Decision threshold of each tag, or None if none have been chosen.
        provenance: Where the model comes from, such as base model, data and date, and
            as "network" its architecture, if its name is another; None if it does not
            say.

    Raises:
        ValueError: see `check_tags`.
    """

    name: Name
    sample_rate: SampleRate
    segmentation: Segmentation
    num_tags: TagCount
    tags: tuple[Name, ...] | None
    thresholds: tuple[float, ...] | None = None
    provenance: dict[Name, str] | None = None

    def __post_init__(self):
        check_tags(self.num_tags, self.tags, self.thresholds)

    @property
    def architecture(self) -> str:
        """Key of `models.MODELS`, as far as it is known."""
        return (self.provenance or {}).get("network", self.name)

    def as_dict(self) -> dict:
        """Returns the metadata as a flat dictionary, which can be stored as JSON.

        Returns:
            name, sample_rate (Hz), the fields of `segmentation.Segmentation`, num_tags,
            tags and thresholds (None or tuples, which JSON turns into lists), and
            provenance.
        """
        fields = dataclasses.asdict(self)
        segmentation = fields.pop("segmentation")
        return fields | segmentation

    @classmethod
    def from_texts(cls, texts: dict[str, str], path: str | os.PathLike) -> "ModelInfo":
        """Creates metadata from the fields of a graph, each of them JSON."""
        fields = {}
        for key, text in texts.items():
            # Other tools may not write JSON.
            with contextlib.suppress(ValueError, RecursionError):
                fields[key] = json.loads(text)
        return cls.from_dict(fields, path)

    @classmethod
    def from_dict(cls, fields: dict, path: str | os.PathLike) -> "ModelInfo":
        """Creates metadata from the result of `as_dict`, with or without JSON between.

        Args:
            fields: Result of `as_dict`; further keys are ignored, and thresholds and
                provenance may be missing.
            path: Model file that holds the fields, for error messages.

        Raises:
            ValueError: a field is missing, has another type or is out of range.
        """
        names = ["name", "sample_rate", "num_tags", "tags"]
        names += [field.name for field in dataclasses.fields(Segmentation)]
        missing = [name for name in names if name not in fields]
        if missing:
            raise TaggerError(
                f"{str(path)!r} does not hold {', '.join(missing)}. Use a model file"
                " made by train.py, or by tagger models."
            )
        segmentation = {
            field.name: fields[field.name] for field in dataclasses.fields(Segmentation)
        }
        own = {
            field.name: fields[field.name]
            for field in dataclasses.fields(cls)
            if field.name in fields
        }
        return validation.convert(
            own | {"segmentation": segmentation},
            cls,
            path,
            "Use a model file made by train.py, or by tagger models.",
        )


def read_graph(path: str | os.PathLike) -> bytes | None:
    """Returns the graph that a model file holds; None: the file is Keras' alone.

    Args:
        path: `.onnx`, or `.keras`, of which the graph is a further member.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no model file {str(path)!r}.")
    if not zipfile.is_zipfile(path):
        return Path(path).read_bytes() if str(path).endswith(".onnx") else None
    try:
        with zipfile.ZipFile(path) as file:
            if GRAPH_MEMBER not in file.namelist():
                return None
            if file.getinfo(GRAPH_MEMBER).file_size > MAX_GRAPH_BYTES:
                raise TaggerError("its graph is too large")
            return file.read(GRAPH_MEMBER)
    except validation.DAMAGED as error:
        raise TaggerError(f"{str(path)!r} is damaged: {error}.") from error


def check_alike(infos: Sequence[ModelInfo], names: Sequence[str]) -> None:
    """Checks that models take the same segments at the same sample rate.

    Args:
        infos: Metadata of the models.
        names: What to call them in the error.

    Raises:
        ValueError: two models differ.
    """

    def facts(info):
        return {"rate": info.sample_rate, **dataclasses.asdict(info.segmentation)}

    first, *others = map(facts, infos)
    for name, other in zip(names[1:], others, strict=True):
        differing = [
            f"{what} {first[what]} and {other[what]}"
            for what in first
            if first[what] != other[what]
        ]
        if differing:
            raise TaggerError(
                f"{names[0]} and {name} cut music differently ({'; '.join(differing)}):"
                " one model cannot hold both. Choose models that hear the same, such as"
                " musicnn_mtt and musicnn_msd."
            )


def check_tags(
    num_tags: int, tags: Sequence[str] | None, thresholds: Sequence[float] | None
) -> None:
    """Checks the tags and thresholds of a model.

    Raises:
        ValueError: there is not one name and one threshold for each score, a name
            occurs twice, or a threshold is not finite.
    """
    for what, values in {"tags": tags, "thresholds": thresholds}.items():
        if values is not None and len(values) != num_tags:
            raise TaggerError(
                f"{num_tags} scores need as many {what}. Received: {len(values)}"
            )
    twice = [tag for tag, count in Counter(tags or ()).items() if count > 1]
    if twice:
        raise TaggerError(f"Tag {twice[0]!r} is listed twice.")
    if not all(map(math.isfinite, thresholds or ())):
        raise TaggerError("A threshold is NaN or infinite.")


def check_export_path(path: str | os.PathLike, to: str) -> None:
    """Checks the output path of an export before anything is loaded.

    Args:
        path: File or folder to write.
        to: Format, a key of EXPORT_FORMATS.

    Raises:
        ValueError: the format is unknown, or the path has the wrong suffix.
        FileNotFoundError: the parent folder does not exist.
    """
    path = Path(path)
    if to not in EXPORT_FORMATS:
        raise TaggerError(
            f"Unknown format {to!r}. Choose one of: {', '.join(EXPORT_FORMATS)}."
        )
    ending = EXPORT_FORMATS[to]
    if ending and path.suffix != ending:
        raise TaggerError(
            f"The output for {to} must end in {ending}, not {path.name!r}."
        )
    if not ending and path.suffix in filter(None, EXPORT_FORMATS.values()):
        raise TaggerError(f"The output for {to} is a folder, not {path.name!r}.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r}. Create it first."
        )


def network_name(name: str) -> str:
    """Returns a name that Keras accepts; TensorFlow uses it in names of operations."""
    return re.sub(r"^[^A-Za-z0-9]|[^A-Za-z0-9_.-]", "_", name).lstrip("_") or "model"
