"""What a model tells of itself: how to cut music for it, what its scores mean.

A model of ours holds it in its first and last layers; an exported one beside its
network, as JSON. No Keras here: who tags with an exported model need not start it.
"""

import dataclasses
import difflib
from collections.abc import Iterable

from tagger.data.records import Window

DEFAULT_MODEL = "musicnn_mtt"  # of the trained ones in `pretrained`


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a model tells of itself.

    Attributes:
        name: Of the model.
        sample_rate: Of the waveforms it takes, in Hz.
        window: How it takes a clip.
        num_tags: Scores it gives.
        tags: Their names; None: the file holds none.
        thresholds: Scores from which each tag applies; None: the file holds none.
    """

    name: str
    sample_rate: int
    window: Window
    num_tags: int
    tags: tuple[str, ...] | None
    thresholds: tuple[float, ...] | None = None

    def as_dict(self) -> dict:
        """The same for JSON: all that is needed to feed a model and read its scores.

        Returns:
            name, sample_rate (Hz), num_samples (of a window), remainder ("drop" or
            "pad"), hop_samples, edge_samples (see `records.Window`), num_tags, tags and
            thresholds (tuples, in JSON lists; or None).
        """
        fields = dataclasses.asdict(self)
        window = fields.pop("window")
        return fields | window

    @classmethod
    def from_dict(cls, fields: dict) -> "ModelInfo":
        """What `as_dict` made, also after a trip through JSON.

        Raises:
            KeyError: a field is missing.
        """
        window = {
            field.name: fields[field.name] for field in dataclasses.fields(Window)
        }
        own = {
            field.name: fields[field.name]
            for field in dataclasses.fields(cls)
            if field.name != "window"
        }
        for name in ("tags", "thresholds"):
            own[name] = own[name] and tuple(own[name])
        return cls(window=Window(**window), **own)


def nearest_names(name: str, names: Iterable[str]) -> str:
    """A sentence for who typed a name that is unknown: the most similar, or all."""
    names = list(names)
    alike = difflib.get_close_matches(name, names, 5, 0.5)
    return f"{'The nearest' if alike else 'There are'}: {', '.join(alike or names)}."
