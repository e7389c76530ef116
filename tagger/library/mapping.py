"""Which tag goes to which field of a file: a table, `fields.csv`, that users may edit.

scores of a song -> values by field, such as {"genre": ["Rock"], "mood": ["sad"]}

Its column `group` says where the page shows a tag; it may be empty or missing.
"""

import csv
import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tagger import validation
from tagger.text import TaggerError

TABLE_PATH = Path(__file__).parent / "fields.csv"
COLUMNS = ["tag", "field", "value"]
GROUPS = ("genre", "instrument", "mood", "voice", "other")
MARGIN = 1.5  # times the odds of the model's threshold that a written score has
# Of a value on the left and those on the right, only the strongest is written.
_SUNG = ("vocals", "female vocals", "male vocals", "choir", "opera")
OPPOSITES = {
    "no vocals": _SUNG,
    "instrumental": _SUNG,
    "slow": ("fast",),
    "quiet": ("loud",),
    "soft": ("loud",),
}
OTHER = "*"  # as the tag of the row for all tags without a row
WRITTEN = "autotags_written"  # field that names our values among those of others
USUAL_FIELDS = ("genre", "mood", "autotags")  # those of our own table
# Fields that say what a recording is; scores may not change them.
IDENTITY = {
    "title", "artist", "album", "albumartist", "album artist", "album_artist", "date",
    "year", "tracknumber", "discnumber", "composer", "comment", "copyright", "isrc",
    "lyrics", WRITTEN,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mapping:
    """Where tags are written.

    Attributes:
        targets: Field and value of each tag, by its name in lower case; an empty field
            means that it is not written.
        other: Field of all other tags; "" does not write them.
        groups: Group of tags whose field does not say it, by name in lower case.
    """

    targets: dict[str, tuple[str, str]]
    other: str
    groups: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def fields(self) -> set[str]:
        """The fields to which it writes, and those of our own table."""
        return {field for field, _ in self.targets.values()} | {
            *USUAL_FIELDS,
            self.other,
        } - {""}

    def group_of(self, tag: str) -> str:
        """Returns the group, one of GROUPS, in which a page shows a tag."""
        field, _ = self.target_of(tag) or ("", "")
        group = self.groups.get(tag.casefold()) or field
        return group if group in GROUPS else "other"

    def target_of(self, tag: str) -> tuple[str, str] | None:
        """Returns the field and the value of a tag, or None if it is not written."""
        field, value = self.targets.get(tag.casefold(), (self.other, tag))
        return (field, value or tag) if field else None

    def values(
        self,
        tags: Sequence[str],
        scores: np.ndarray,
        thresholds: np.ndarray,
        max_per_field: int,
    ) -> dict[str, list[str]]:
        """Returns what to write for a song: the values of each field, best first.

        Args:
            tags: Tag names in the order of the scores.
            scores: Scores of the song [num_tags].
            thresholds: Score from which each tag counts [num_tags].
            max_per_field: Number of values that a field may get.
        """
        # A score of .2 is much for some tags and little for others.
        relative = scores / np.maximum(thresholds, 1e-12)
        found, said = {}, set()
        for tag in np.argsort(-relative, kind="stable"):
            target = self.target_of(tags[tag])
            if target is None or scores[tag] < thresholds[tag]:
                continue
            field, value = target
            values = found.setdefault(field, [])
            low = value.casefold()
            contradicts = any(
                other in OPPOSITES.get(low, ()) or low in OPPOSITES.get(other, ())
                for other in said
            )
            if not contradicts and value not in values and len(values) < max_per_field:
                values.append(value)
                said.add(low)
        return {field: values for field, values in found.items() if values}


def thresholds_to_write(thresholds: Sequence[float]) -> np.ndarray:
    """Returns the scores from which tags are written [num_tags].

    A score that just reaches its threshold is often wrong, so its odds must be MARGIN
    times the threshold's: about MARGIN times a small threshold, and never above 1.
    """
    found = np.asarray(thresholds, float)
    return MARGIN * found / (1 + (MARGIN - 1) * found)


def read_mapping(path: str | os.PathLike | None = None) -> Mapping:
    """Reads a table with the columns tag, field and value.

    Args:
        path: CSV file in UTF-8; None: our own table.

    Raises:
        ValueError: it is not such a table, or sends a tag to a field like the title.
        OSError: it cannot be read.
    """
    path = Path(path or TABLE_PATH)
    validation.check_regular(path)
    then = "Start from ours: tagger write --show-fields > map.csv."
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TaggerError(f"{str(path)!r} is no table in UTF-8. {then}") from error
    targets, groups, other = {}, {}, ""
    for number, row in enumerate(rows, 2):
        if (
            list(row)[:3] != COLUMNS
            or {*list(row)[3:]} - {"group"}
            or None in row.values()
        ):
            raise TaggerError(
                f"{str(path)!r}, line {number}: the columns must be"
                f" {', '.join(COLUMNS)}. {then}"
            )
        tag, field, value = (row[column].strip() for column in COLUMNS)
        _check(path, number, field, value)
        if tag == OTHER:
            other = field.lower()
        else:
            targets[tag.casefold()] = field.lower(), value
            groups[tag.casefold()] = (row.get("group") or "").strip()
    if not rows:
        raise TaggerError(f"{str(path)!r} holds no rows. {then}")
    return Mapping(targets, other, groups)


def _check(path: Path, number: int, field: str, value: str) -> None:
    where = f"{str(path)!r}, line {number}"
    if field and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_ ]{0,40}", field):
        raise TaggerError(
            f"{where}: {field!r} is no name of a field. Use letters, digits, spaces and"
            " underscores."
        )
    if field.lower() in IDENTITY:
        raise TaggerError(
            f"{where}: the field {field!r} says what a recording is, and scores must"
            " not change it. Use genre, mood, or a name of your own."
        )
    if "\0" in value:
        raise TaggerError(f"{where}: a value cannot contain a zero byte.")
