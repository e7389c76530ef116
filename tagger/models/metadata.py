"""Metadata of a model: how to cut audio for it, and what its scores mean.

Our models store it in their first and last layers, exported models as JSON beside the
network. This module does not import Keras, because tagging with an exported model does
not need it.
"""

import dataclasses
import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from tagger.segmentation import Segmentation

DEFAULT_MODEL = "musicnn_mtt"  # key of `pretrained.PRETRAINED`
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
    """

    name: str
    sample_rate: int
    segmentation: Segmentation
    num_tags: int
    tags: tuple[str, ...] | None
    thresholds: tuple[float, ...] | None = None

    def as_dict(self) -> dict:
        """Returns the metadata as a flat dictionary, which can be stored as JSON.

        Returns:
            name, sample_rate (Hz), the fields of `segmentation.Segmentation`, num_tags,
            tags and thresholds (None or tuples, which JSON turns into lists).
        """
        fields = dataclasses.asdict(self)
        segmentation = fields.pop("segmentation")
        return fields | segmentation

    @classmethod
    def from_dict(cls, fields: dict) -> "ModelInfo":
        """Creates metadata from the result of `as_dict`, with or without JSON between.

        Raises:
            KeyError: a field is missing.
        """
        segmentation = {
            field.name: fields[field.name] for field in dataclasses.fields(Segmentation)
        }
        own = {
            field.name: fields[field.name]
            for field in dataclasses.fields(cls)
            if field.name != "segmentation"
        }
        for name in ("tags", "thresholds"):
            own[name] = own[name] and tuple(own[name])
        return cls(segmentation=Segmentation(**segmentation), **own)


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
