"""Your own music: a csv of files and tags, or a folder with one subfolder per tag.

    tracks.csv                                   music
        path,tags,artist                         ├── jazz
        blue/01.flac,jazz;piano,Anna             │   └── 01.mp3
        red/02.mp3,rock,Ben                      └── rock
                                                     └── 02.flac

`path` is absolute, or relative to the folder of the csv. Tags are either in one column
`tags`, separated by semicolons (other columns are then ignored), or every other column
is a tag and holds 0s and 1s. Optional columns: `clip_id` (default: the path), `split`
(train, val, test, student), `artist`, and `fold` (0, 1 … for cross-validation; empty
for clips in no fold). Without `split`, artists are dealt 8:1:1 to
train, val and test, so that no artist is in two of them and each split has clips of
every tag, as far as that is possible; without `artist`, files are dealt. A row without
tags is unlabelled music and joins the split student, unless `split` says otherwise.
"""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from unicodedata import normalize

import numpy as np

from tagger.datasets.annotations import (
    Annotations,
    binary,
    read_table,
    read_tags,
    top_tags,
)
from tagger.datasets.splitting import deal_folds, stratify, tags_lacking
from tagger.listing import AUDIO_EXTENSIONS, audio_files_in
from tagger.options import Option
from tagger.text import TaggerError, as_utf8

if TYPE_CHECKING:
    import pandas as pd

FACTS = ("path", "tags", "clip_id", "split", "artist", "fold")  # not tags
SHARES = {"train": 0.8, "test": 0.1, "val": 0.1}  # test gets rare tags before val
SPLIT_NAMES = {  # spellings in the column `split`
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
    "student": "student", "unlabelled": "student", "unlabeled": "student",
}  # fmt: skip


def load_annotations(
    source: str | os.PathLike,
    tags: Annotated[str | None, Option(flag="--tag-file", metavar="FILE")] = None,
    num_tags: Annotated[int | None, Option(ge=1)] = None,
    seed: Annotated[int, Option(ge=0)] = 0,
    tag_separator: Annotated[str, Option(min_length=1)] = ";",
    folds: Annotated[int | None, Option(ge=2)] = None,
) -> Annotations:
    """Reads a csv, or walks a folder with one subfolder per tag.

    Args:
        source: A csv (comma, semicolon or tab), or a folder with one subfolder per tag.
        tags: File with the names of the tags to take, in order (one per line, or a JSON
            list); other tags are left out; None: all tags in alphabetical order.
        num_tags: Number of tags to take, the most frequent ones; None: all.
        seed: Seed of the random split, if the csv has no column split, and of the
            folds.
        tag_separator: Separator of the tags in the column `tags`.
        folds: Number of folds to deal the labelled clips to, by artist, for fit and
            eval --fold; None: those of the column fold, if there is one.

    Returns:
        Annotations in the order of the rows of the csv, or of the paths.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the csv lacks a column, a label is not 0 or 1, a split is unknown,
            no file has a tag, or there are too few artists to split or to deal.
    """
    wanted = read_tags(tags) if tags else None
    return _load(source, wanted, num_tags, tag_separator, seed, folds)


def load_unsplit(
    source: str | os.PathLike,
    tags: tuple[str, ...] | None = None,
    num_tags: int | None = None,
    tag_separator: str = ";",
) -> Annotations:
    """Reads a csv or a folder as `load_annotations` does, but makes no splits.

    Args:
        source: See `load_annotations`.
        tags: Tags to take, in order. Default: all in alphabetical order.
        num_tags: See `load_annotations`.
        tag_separator: See `load_annotations`.

    Returns:
        Annotations with the splits of the csv. If it has none, every labelled clip is
        in train and every other one in student.

    Raises:
        FileNotFoundError, ValueError: see `load_annotations`.
    """
    return _load(source, tags, num_tags, tag_separator)


def _load(
    source: str | os.PathLike,
    tags: tuple[str, ...] | None,
    num_tags: int | None,
    tag_separator: str,
    seed: int | None = None,
    num_folds: int | None = None,
) -> Annotations:
    """Reads a csv or a folder; makes splits if there are none and there is a seed."""
    source = Path(source)
    if source.is_dir():
        audio_dir, rows = source, _walk(source)
    elif source.is_file():
        audio_dir, rows = source.parent, _read_rows(source, tag_separator)
    else:
        raise FileNotFoundError(
            f"There is no {str(source)!r}. Give a csv of paths and tags, or a folder"
            " with one subfolder per tag."
        )
    names, labels = _labels(rows.pop("tags"), tags, source)
    if num_tags:
        kept = np.sort(top_tags(labels, num_tags, "ascending"))
        names, labels = [names[column] for column in kept], labels[:, kept]
    if not labels.any() and not tags:
        raise TaggerError(
            f"No file of {source} has a tag. For unlabelled music, give the file that"
            " names the tags of the labelled music with `tags=`."
        )
    if "split" in rows:
        splits, rule = _given_splits(rows, source), "its own split"
    elif seed is None:
        splits, rule = np.where(labels.any(axis=1), "train", "student"), "not split"
    else:
        splits, rule = _splits(rows, labels, source, seed)
    if seed is not None:
        _warn_of_lacking_tags(labels, splits, names, source)
    kept = splits != ""
    groups = rows["artist"].to_numpy(str) if "artist" in rows else None
    folds = _folds(rows, labels, splits, source, num_folds, seed or 0)
    return Annotations(
        dataset="csv",
        split_rule=f"{source.name}: {rule}; {len(names)} tags",
        tags=tuple(names),
        clip_ids=rows["clip_id"].to_numpy(str)[kept],
        audio_dir=audio_dir,
        paths=rows["path"].to_numpy(str)[kept],
        labels=labels[kept],
        splits=splits[kept],
        groups=None if groups is None else groups[kept],
        folds=None if folds is None else folds[kept],
    )


# --- Rows: columns path, clip_id, tags (a list per row), optionally split and artist --


def _read_rows(path: Path, tag_separator: str) -> "pd.DataFrame":
    try:
        with open(path, encoding="utf-8-sig") as file:
            head = file.readline()
    except UnicodeDecodeError as error:
        raise TaggerError(f"{path} is not UTF-8 text. Save it as UTF-8.") from error
    table = read_table(path, max("\t;,", key=head.count))
    table.columns = [_fact_or_tag(column) for column in table.columns]
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise TaggerError(f"{path} has two columns called {twice!r}.")
    if "path" not in table:
        raise TaggerError(
            f"{path} must have a column called path; its columns are"
            f" {', '.join(map(repr, table.columns))}."
        )
    if not len(table):
        raise TaggerError(f"{path} has no rows: name at least one audio file.")
    if (table["path"] == "").any():
        row = int(np.argmax(table["path"] == ""))
        raise TaggerError(f"{path}: row {row + 1} has no path.")
    if table["path"].str.contains("\0", regex=False).any():
        raise TaggerError(f"{path} holds a path with a zero byte.")
    table["path"] = table["path"].map(os.path.normpath)  # ./a.mp3 is a.mp3
    if "artist" in table:
        table["artist"] = table["artist"].str.strip()
    if "clip_id" not in table:
        twice = table["path"][table["path"].duplicated()]
        if len(twice):
            raise TaggerError(
                f"{path} names the file {twice.iloc[0]!r} twice. Keep one row, with all"
                " its tags."
            )
        table["clip_id"] = table["path"]
    if "tags" in table:
        cells = table["tags"].str.split(tag_separator, regex=False)
        table["tags"] = [[t.strip() for t in cell if t.strip()] for cell in cells]
        _warn_of_other_separators(table["tags"], path, tag_separator)
    else:
        table["tags"] = _tags_of_columns(table, path)
    return table[[column for column in FACTS if column in table]]


def _warn_of_other_separators(
    tags_of_rows: "pd.Series", path: Path, tag_separator: str
) -> None:
    tags = {tag for tags in tags_of_rows for tag in tags}
    for other in {",", ";", "|", "/"} - {tag_separator}:
        joined = sorted(tag for tag in tags if other in tag)
        if len(joined) > len(tags) / 4:
            warnings.warn(
                f"{len(joined)} of {len(tags)} tags of {path} contain {other!r}, such"
                f" as {joined[0]!r}. If it separates tags, add"
                f" `tag_separator='{other}'`.",
                stacklevel=4,
            )


def _fact_or_tag(column: str) -> str:
    name = column.strip()
    return name.lower() if name.lower() in FACTS else name


def _tags_of_columns(table: "pd.DataFrame", path: Path) -> list[list[str]]:
    tags = [column for column in table if column not in FACTS]
    if not tags:
        raise TaggerError(
            f"{path} has neither a column called tags nor a column per tag; it has only"
            f" {', '.join(map(repr, table.columns))}."
        )
    try:
        cells = binary(table[tags].to_numpy(str), tags, path)
    except ValueError as error:
        raise TaggerError(
            f"{error} Remove columns that are not tags, or list the tags in a column"
            " called tags."
        ) from error
    return [[tags[column] for column in np.flatnonzero(row)] for row in cells]


def _walk(folder: Path) -> "pd.DataFrame":
    """Lists the audio files in the subfolders; the outermost subfolder is the tag."""
    import pandas as pd  # here, because `--help` must not wait .7 s

    found = []
    for tag in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in audio_files_in(tag, root=folder):
            name = path.relative_to(folder).as_posix()
            # A name that is not UTF-8 still gives a valid id.
            tags = [as_utf8(tag.name)]
            found.append({"path": name, "clip_id": as_utf8(name), "tags": tags})
    if not found:
        raise TaggerError(
            f"There is no audio in the subfolders of {str(folder)!r}. Name each one"
            f" after a tag and put audio files ({', '.join(AUDIO_EXTENSIONS[:6])} …)"
            " into it."
        )
    return pd.DataFrame(found, dtype=object)  # Arrow's strings must be UTF-8


# --- Labels and splits ----------------------------------------------------------------


def _labels(
    tags_of_rows: "pd.Series", wanted: tuple[str, ...] | None, source: Path
) -> tuple[list[str], np.ndarray]:
    # One spelling of é: composed and decomposed letters look alike.
    tags_of_rows = tags_of_rows.map(lambda tags: [normalize("NFC", t) for t in tags])
    wanted = wanted and tuple(normalize("NFC", tag) for tag in wanted)
    found = {tag for tags in tags_of_rows for tag in tags}
    names = list(wanted) if wanted else sorted(found)
    unknown = sorted(found - set(names))
    if unknown:
        warnings.warn(
            f"{len(unknown)} tags of {source} are not among the {len(names)} requested"
            f" ones and are left out: {', '.join(unknown[:10])}"
            f"{' …' if len(unknown) > 10 else ''}",
            stacklevel=3,
        )
    column = {tag: number for number, tag in enumerate(names)}
    labels = np.zeros((len(tags_of_rows), len(names)), np.uint8)
    for row, tags in enumerate(tags_of_rows):
        labels[row, [column[tag] for tag in tags if tag in column]] = 1
    return names, labels


def _splits(
    rows: "pd.DataFrame", labels: np.ndarray, source: Path, seed: int
) -> tuple[np.ndarray, str]:
    """Returns the split of each row ("" if it is left out) and the rule in words."""
    by_artist, groups = "artist" in rows, _groups(rows, source)
    labelled = labels.any(axis=1)
    split_of = {}
    if labelled.any():
        kind = "artists" if by_artist else "tagged files"
        num_groups = len(np.unique(groups[labelled]))
        if num_groups < len(SHARES):
            raise TaggerError(
                f"{source} has {num_groups} {kind}; three splits need at least 3. Add a"
                " column called split."
            )
        split_of = stratify(groups[labelled], labels[labelled], SHARES, seed)
    splits = np.array([split_of.get(group, "train") for group in groups])
    # Otherwise training would see unlabelled music by test artists.
    leaks = ~labelled & (splits != "train")
    if leaks.any():
        warnings.warn(
            f"{leaks.sum()} unlabelled files of {source} are by artists of val or test"
            " and are left out.",
            stacklevel=3,
        )
    splits = np.where(labelled, splits, np.where(leaks, "", "student"))
    kind = "artists" if by_artist else "files"
    return splits, f"{kind} 8:1:1, stratified by tags, seed {seed}"


def _groups(rows: "pd.DataFrame", source: Path) -> np.ndarray:
    """Returns the artists [num_rows], or the clip ids if there is no such column."""
    groups = rows["artist" if "artist" in rows else "clip_id"].to_numpy(str)
    if (groups == "").any():
        row = int(np.argmax(groups == ""))
        raise TaggerError(
            f"{source}: row {row + 1} names no artist, so the artist may end up in two"
            " splits. Fill in the column artist, or remove it."
        )
    return groups


def _folds(
    rows: "pd.DataFrame",
    labels: np.ndarray,
    splits: np.ndarray,
    source: Path,
    num_folds: int | None,
    seed: int,
) -> np.ndarray | None:
    """Returns the fold of each row, -1 for rows in no fold; None without folds."""
    if num_folds:
        labelled = labels.any(axis=1) & (splits != "student")
        groups = _groups(rows, source)[labelled]
        if len(np.unique(groups)) < num_folds:
            raise TaggerError(
                f"{source} has {len(np.unique(groups))} artists or files with tags,"
                f" too few for {num_folds} folds. Choose a smaller `folds=`."
            )
        folds = np.full(len(rows), -1)
        folds[labelled] = deal_folds(groups, labels[labelled], num_folds, seed)
        return folds
    if "fold" not in rows:
        return None
    cells = rows["fold"].str.strip()
    wrong = ~cells.str.fullmatch(r"[0-9]{0,4}")
    if wrong.any():
        row = int(np.argmax(wrong))
        raise TaggerError(
            f"{source}: row {row + 1} has the fold {cells.iloc[row]!r}. Give whole"
            " numbers from 0, or nothing for a clip in no fold."
        )
    return cells.replace("", "-1").to_numpy(int)


def _warn_of_lacking_tags(
    labels: np.ndarray, splits: np.ndarray, tags: list[str], source: Path
) -> None:
    """Warns about tags without a clip in a split, which cannot be scored there."""
    for split, lacking in tags_lacking(labels, splits, tags).items():
        warnings.warn(
            f"No clip of {split} in {source} has the tags {', '.join(lacking[:10])}"
            f"{' …' if len(lacking) > 10 else ''}, so it says nothing about them. A tag"
            " needs clips by at least three artists to be in every split.",
            stacklevel=3,
        )


def _given_splits(rows: "pd.DataFrame", source: Path) -> np.ndarray:
    names = rows["split"].str.strip().str.lower()
    unknown = sorted(set(names) - set(SPLIT_NAMES))
    if unknown:
        raise TaggerError(
            f"{source} has the unknown split {unknown[0]!r}. Choose from: train, val,"
            " test, student."
        )
    splits = names.map(SPLIT_NAMES).to_numpy(str)
    if "artist" in rows:
        counts = rows.assign(split=splits).groupby("artist")["split"].nunique()
        shared = sorted(counts.index[(counts > 1) & (counts.index != "")])
        if shared:
            warnings.warn(
                f"{len(shared)} artists of {source} are in several splits, which makes"
                f" scores too high: {', '.join(shared[:3])}"
                f"{' …' if len(shared) > 3 else ''}",
                stacklevel=3,
            )
    return splits
