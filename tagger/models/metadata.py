"""What a model file says of itself: how to cut music for it, what its scores mean.

Our models hold it in their first and last layers, exported ones as JSON beside the
network. No Keras here: tagging with an exported model does not need it.
"""

import dataclasses
import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from tagger.segmentation import Segmentation

DEFAULT_MODEL = "musicnn_mtt"  # key of `pretrained.PRETRAINED`
EXPORT_FORMATS = {"saved-model": "", "litert": ".tflite", "onnx": ".onnx"}  # endings


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a model says of itself.

    Attributes:
        name: Name of the model.
        sample_rate: Rate of its waveforms in Hz.
        segmentation: How it takes a clip.
        num_tags: Number of scores.
        tags: Names of the scores, or None.
        thresholds: Decision threshold of each tag, or None.
    """

    name: str
    sample_rate: int
    segmentation: Segmentation
    num_tags: int
    tags: tuple[str, ...] | None
    thresholds: tuple[float, ...] | None = None

    def as_dict(self) -> dict:
        """Returns the same for JSON: what an engine needs to run the model.

        Returns:
            name, sample_rate (Hz), the fields of `segmentation.Segmentation`, num_tags,
            tags and thresholds (tuples, or lists in JSON; or None).
        """
        fields = dataclasses.asdict(self)
        segmentation = fields.pop("segmentation")
        return fields | segmentation

    @classmethod
    def from_dict(cls, fields: dict) -> "ModelInfo":
        """Reads what `as_dict` returned, also after a round trip through JSON.

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
    """Checks the place of an export, before anything is loaded.

    Args:
        path: File or folder to write.
        to: Key of EXPORT_FORMATS.

    Raises:
        ValueError: the format is unknown, or the path has another ending.
        FileNotFoundError: the folder to write to is missing.
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
    """Returns a sentence for an unknown name: the most similar ones, or all."""
    names = list(names)
    alike = difflib.get_close_matches(name, names, 3, 0.5)
    if alike:
        return f"Did you mean {' or '.join(alike)}?"
    return f"Available: {', '.join(names)}."
