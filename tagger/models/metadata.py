"""Metadata of a model: how to cut audio for it, and what its scores mean.

Our models store it in their first and last layers, exported models as JSON beside the
network. This module does not import Keras, because tagging with an exported model does
not need it.
"""

import dataclasses
import difflib
import json
import math
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tagger import validation
from tagger.segmentation import Segmentation
from tagger.validation import Name, SampleRate, TagCount

MAX_CONFIG_BYTES = 1 << 25
DEFAULT_MODEL = "student"  # key of `pretrained.PRETRAINED`
PENULTIMATE = "penultimate"  # the layer of embeddings: the input of the last layer
EXPORT_FORMATS = {"saved-model": "", "litert": ".tflite", "onnx": ".onnx"}  # suffixes


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Metadata of a model.

    Attributes:
        name: Name of the model.
        sample_rate: Rate of its waveforms in Hz.
        segmentation: How clips are cut for it.
        num_tags: Number of scores.
        tags: Tag names in the order of the scores, or None if they are unknown.
        thresholds: Decision threshold of each tag, or None if none have been chosen.
        provenance: Where the model comes from, such as base model, data and date; None
            if it does not say.

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
            raise ValueError(
                f"{str(path)!r} does not hold {', '.join(missing)}. Use a model file"
                " made by train.py, or by tagger export or convert."
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
            "Use a model file made by train.py, or by tagger export or convert.",
        )


def read_info(path: str | os.PathLike) -> ModelInfo:
    """Reads the metadata in a `.keras` file without Keras.

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
        fields = audio | layers["TagScores"]
        fields["name"] = config["name"]
    except validation.DAMAGED as error:
        if str(path).endswith((".hdf5", ".h5", ".onnx")):
            raise ValueError(
                f"{str(path)!r} does not say what its scores are. Give a .keras file;"
                " tagger convert makes one of the weights of other projects."
            ) from error
        raise ValueError(
            f"{str(path)!r} was not made by this project: its sample rate, segmentation"
            " and tags are missing. Use a model made by train.py."
        ) from error
    return ModelInfo.from_dict(fields, path)


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
            raise ValueError(
                f"{num_tags} scores need as many {what}. Received: {len(values)}"
            )
    twice = [tag for tag, count in Counter(tags or ()).items() if count > 1]
    if twice:
        raise ValueError(f"Tag {twice[0]!r} is listed twice.")
    if not all(map(math.isfinite, thresholds or ())):
        raise ValueError("A threshold is NaN or infinite.")


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
        raise ValueError(
            f"Unknown format {to!r}. Choose one of: {', '.join(EXPORT_FORMATS)}."
        )
    ending = EXPORT_FORMATS[to]
    if ending and path.suffix != ending:
        raise ValueError(
            f"The output for {to} must end in {ending}, not {path.name!r}."
        )
    if not ending and path.suffix in filter(None, EXPORT_FORMATS.values()):
        raise ValueError(f"The output for {to} is a folder, not {path.name!r}.")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r}. Create it first."
        )


def suggest_names(name: str, names: Iterable[str]) -> str:
    """Returns a hint for an unknown name: the most similar names, or all of them."""
    names = list(names)
    alike = difflib.get_close_matches(name, names, 3, 0.5)
    if alike:
        return f"Did you mean {' or '.join(alike)}?"
    return f"Available: {', '.join(names)}."
