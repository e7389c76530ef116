"""The annotations of a dataset, in the same form for every dataset.

csv, tsv or pickle of a dataset -> Annotations (clip ids, paths, tags, labels, splits).
"""

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tagger.text import TaggerError

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val", "test", "student")  # student: unlabelled music


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Clips with their labels and splits.

    Attributes:
        dataset: Key of `datasets.DATASETS`, or "demo".
        split_rule: How clips were assigned to splits; printed with every score.
        tags: Tag names in the order of the labels.
        clip_ids: str [num_clips], unique.
        audio_dir: Folder of the audio.
        paths: str [num_clips], relative to `audio_dir`. Paths have no extension if
            their files may have different ones (.mp3, .flac …).
        labels: uint8 0/1 [num_clips, num_tags]; meaningless in the student split.
        splits: str [num_clips], each one of SPLITS; student is unlabelled music.
        published: Published number of clips per split; empty if unknown.
        groups: str [num_clips], such as the artist of each clip; None if unknown.
        folds: int [num_clips], the fold of each clip for cross-validation, from 0; -1
            for clips in no fold. None if there are no folds.

    Raises:
        ValueError: two clips have the same id, two tags have the same name, a split is
            unknown, or the lengths differ.
    """

    dataset: str
    split_rule: str
    tags: tuple[str, ...]
    clip_ids: np.ndarray
    audio_dir: Path
    paths: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    published: dict[str, int] = dataclasses.field(default_factory=dict)
    groups: np.ndarray | None = None
    folds: np.ndarray | None = None

    def __post_init__(self):
        num_clips = len(self.clip_ids)
        if self.labels.shape != (num_clips, len(self.tags)) or not (
            len(self.paths) == len(self.splits) == num_clips
        ):
            raise TaggerError(
                f"{num_clips} clip ids and {len(self.tags)} tags need labels of shape"
                f" {(num_clips, len(self.tags))}, {num_clips} paths and {num_clips}"
                f" splits. Received: {self.labels.shape}, {len(self.paths)} paths and"
                f" {len(self.splits)} splits."
            )
        twice = sorted({tag for tag in self.tags if self.tags.count(tag) > 1})
        if twice:
            raise TaggerError(
                f"Tag {twice[0]!r} occurs twice in the annotations of {self.dataset}."
                " Give every tag a unique name."
            )
        ids, counts = np.unique(self.clip_ids, return_counts=True)
        if len(ids) < num_clips:
            raise TaggerError(
                f"Clip id {str(ids[counts > 1][0])!r} occurs twice in the annotations"
                f" of {self.dataset}. Give every clip a unique id."
            )
        unknown = set(self.splits) - set(SPLITS)
        if unknown:
            raise TaggerError(
                f"Unknown split {str(min(unknown))!r}. Choose from:"
                f" {', '.join(SPLITS)}."
            )

    def __len__(self) -> int:
        return len(self.clip_ids)

    def counts(self) -> dict[str, int]:
        """Returns the clips per split, in the order of SPLITS, without empty splits."""
        held = {split: int(np.sum(self.splits == split)) for split in SPLITS}
        return {split: count for split, count in held.items() if count}

    def sha256(self) -> str:
        """Returns a hash of the ids, paths, splits, tags and labels, in their order."""
        digest = hashlib.sha256("\n".join(self.tags).encode())
        for row in zip(
            self.clip_ids, self.paths, self.splits, self.labels, strict=True
        ):
            clip_id, path, split, labels = row
            text = f"\n{clip_id}\t{path}\t{split}\t"
            # File names need not be UTF-8.
            digest.update(text.encode(errors="surrogateescape") + labels.tobytes())
        return digest.hexdigest()


def top_tags(labels: np.ndarray, num_tags: int, order: str) -> np.ndarray:
    """Chooses the most frequent tags.

    Args:
        labels: 0/1 [num_clips, num_all_tags], columns in the order of the file.
        num_tags: Largest number of tags to take.
        order: "ascending" or "descending" frequency; tags with equal counts keep the
            order of their columns.

    Returns:
        int [min(num_tags, num_all_tags)], columns of `labels`.

    Raises:
        ValueError: `num_tags` is not positive, or `order` is unknown.
    """
    if num_tags < 1:
        raise TaggerError(f"The number of tags must be at least 1, not {num_tags}.")
    counts = labels.sum(axis=0, dtype=np.int64)
    columns = np.argsort(counts, kind="stable")[-num_tags:]
    if order == "ascending":
        return columns
    if order == "descending":
        columns = np.sort(columns)
        return columns[np.argsort(-counts[columns], kind="stable")]
    raise TaggerError(
        f"Unknown tag order {order!r}. Choose one of: ascending, descending."
    )


def warn_unless_published(annotations: Annotations, source: Path) -> None:
    """Warns if the clips per split differ from the published counts."""
    counts = annotations.counts()
    if annotations.published and counts != annotations.published:
        warnings.warn(
            f"{source} gives {counts} clips, but {annotations.published} are published:"
            " the file was changed, so scores are not comparable with published ones.",
            stacklevel=3,
        )


def read_table(path: Path, separator: str) -> "pd.DataFrame":
    """Reads a csv or tsv as text; a byte order mark and empty lines are skipped.

    Raises:
        ValueError: the file is not such a table, two columns have the same name, or a
            row has more or fewer cells than the first line.
    """
    import pandas as pd  # here, because `--help` must not wait .7 s

    kind = {"\t": "tab", ",": "comma", ";": "semicolon"}[separator]
    options = {"header": None, "dtype": str, "keep_default_na": False}
    options["engine"] = "python"  # the other one takes a missing cell for an empty one
    try:
        # utf-8-sig also reads plain UTF-8; spreadsheets add the byte order mark.
        table = pd.read_csv(path, sep=separator, encoding="utf-8-sig", **options)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        reason = str(error).strip().removesuffix(".")
        raise TaggerError(f"{path} is not {kind}-separated text: {reason}.") from error
    short = table.isna().any(axis=1).to_numpy()
    if short.any():
        row = int(np.argmax(short))
        raise TaggerError(
            f"{path} is not {kind}-separated text: row {row} has"
            f" {table.iloc[row].notna().sum()} cells, but the first line has"
            f" {table.shape[1]}."
        )
    columns = table.iloc[0].tolist()
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise TaggerError(f"{path} has two columns called {twice[0]!r}.")
    return table.iloc[1:].reset_index(drop=True).set_axis(columns, axis=1)


def binary(cells: np.ndarray, columns: Sequence[str], source: Path) -> np.ndarray:
    """Returns labels uint8 0/1 from cells of text or numbers, [num_rows, num_columns].

    Args:
        cells: Labels as they were read.
        columns: Name of each column.
        source: File that they come from.

    Raises:
        ValueError: a cell holds something else.
    """
    ones, zeros = (
        (cells == text if cells.dtype.kind in "OUST" else cells == int(text))
        for text in "10"
    )
    wrong = np.argwhere(~(ones | zeros))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise TaggerError(
            f"{source}, row {row + 1}: column {columns[column]!r} holds"
            f" {cells.tolist()[row][column]!r}, but the labels of a tag are 0 or 1."
        )
    return ones.astype(np.uint8)


def existing(path: Path, remedy: str) -> Path:
    """Returns a file of a dataset.

    Args:
        path: Path of the file.
        remedy: What to do if it is missing, the last sentence of the error.

    Raises:
        FileNotFoundError: the file, or its folder, is missing.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r}. Give the folder that holds"
            f" {path.name} with `data_dir=`."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path.name} in {str(path.parent)!r}. {remedy}"
        )
    return path


def read_tags(path: str | os.PathLike) -> tuple[str, ...]:
    """Reads tag names: one per line, a JSON list, or those of a manifest.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no tag names.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no tag file {str(path)!r}.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaggerError(f"{str(path)!r} is not a text file.") from error
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        content = None
    if isinstance(content, dict):
        content = content.get("tags")
    elif not isinstance(content, list):  # a tag may be called 80 or null
        content = [line.strip() for line in text.splitlines() if line.strip()]
    is_list = isinstance(content, list) and content
    if not is_list or not all(isinstance(tag, str) and tag for tag in content):
        raise TaggerError(
            f"{str(path)!r} holds no tag names. Give one per line, in the order of the"
            " scores, or a JSON list of them."
        )
    return tuple(content)
