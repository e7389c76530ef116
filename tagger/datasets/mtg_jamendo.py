"""MTG-Jamendo: 55,609 whole tracks under Creative Commons (Bogdanov et al. 2019).

    dataset
    ├── data/splits/split-0        as in the dataset's repository, or at the top
    │   └── autotagging_top50tags-{train,validation,test}.tsv …
    └── audio
        └── 14/214.mp3             or 14/214.low.mp3, the smaller mono version

TSV: TRACK_ID, ARTIST_ID, ALBUM_ID, PATH, DURATION, TAGS; one tag per column from TAGS
on. Lists and download: https://github.com/MTG/mtg-jamendo-dataset. No artist is in two
splits.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from tagger.datasets.annotations import Annotations, warn_unless_published
from tagger.options import Option
from tagger.text import TaggerError

AUDIO_FOLDER = "audio"
COLUMNS = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
SPLIT_FILES = {"train": "train", "val": "validation", "test": "test"}

# Clips of split 0. The subsets have 50, 87, 40 and 56 tags.
PUBLISHED_COUNTS = {
    "top50tags": {"train": 32136, "val": 10888, "test": 11356},
    "genre": {"train": 32572, "val": 11043, "test": 11479},
    "instrument": {"train": 14395, "val": 5466, "test": 5115},
    "moodtheme": {"train": 9949, "val": 3802, "test": 4231},
}

# In the order of published models, which is alphabetical.
TOP_50_TAGS = (
    "genre---alternative", "genre---ambient", "genre---atmospheric",
    "genre---chillout", "genre---classical", "genre---dance", "genre---downtempo",
    "genre---easylistening", "genre---electronic", "genre---experimental",
    "genre---folk", "genre---funk", "genre---hiphop", "genre---house",
    "genre---indie", "genre---instrumentalpop", "genre---jazz", "genre---lounge",
    "genre---metal", "genre---newage", "genre---orchestral", "genre---pop",
    "genre---popfolk", "genre---poprock", "genre---reggae", "genre---rock",
    "genre---soundtrack", "genre---techno", "genre---trance", "genre---triphop",
    "genre---world", "instrument---acousticguitar", "instrument---bass",
    "instrument---computer", "instrument---drummachine", "instrument---drums",
    "instrument---electricguitar", "instrument---electricpiano",
    "instrument---guitar", "instrument---keyboard", "instrument---piano",
    "instrument---strings", "instrument---synthesizer", "instrument---violin",
    "instrument---voice", "mood/theme---emotional", "mood/theme---energetic",
    "mood/theme---film", "mood/theme---happy", "mood/theme---relaxing",
)  # fmt: skip


def load_annotations(
    data_dir: str | os.PathLike,
    subset: Literal["top50tags", "genre", "instrument", "moodtheme"] = "top50tags",
    split: Annotated[int, Option(ge=0, le=4, flag="--split-number")] = 0,
    low: bool = False,
) -> Annotations:
    """Reads the three TSV files of a subset and split.

    Args:
        data_dir: Folder that holds the TSV files and audio/.
        subset: Published subset, which determines the tags.
        split: Number of the published random split, 0 to 4.
        low: Read the mono version with a lower bit rate (.low.mp3).

    Returns:
        Annotations; the tags keep their category ("genre---rock") and are in
        alphabetical order, like those of published models.

    Raises:
        FileNotFoundError: the folder or one of the files is missing.
        ValueError: the subset is unknown, a file has other columns, or a row is too
            short.
    """
    folder = Path(data_dir)
    if subset not in PUBLISHED_COUNTS:
        raise TaggerError(
            f"Unknown subset {subset!r}. Choose one of: {', '.join(PUBLISHED_COUNTS)}."
        )
    rows, splits = [], []
    for name, ending in SPLIT_FILES.items():
        path = _find(folder, f"autotagging_{subset}-{ending}.tsv", split)
        found = _read_rows(path)
        rows += found
        splits += [name] * len(found)
    tags = tuple(sorted({tag for row in rows for tag in row[len(COLUMNS) - 1 :]}))
    column = {tag: number for number, tag in enumerate(tags)}
    labels = np.zeros((len(rows), len(tags)), np.uint8)
    for row, cells in enumerate(rows):
        labels[row, [column[tag] for tag in cells[len(COLUMNS) - 1 :]]] = 1
    paths = [row[COLUMNS.index("PATH")] for row in rows]
    if low:
        paths = [f"{path.removesuffix('.mp3')}.low.mp3" for path in paths]
    annotations = Annotations(
        dataset="mtg_jamendo",
        split_rule=f"{subset}: split {split} by artist; {len(tags)} tags",
        tags=tags,
        clip_ids=np.array([row[0] for row in rows]),
        audio_dir=folder / AUDIO_FOLDER,
        paths=np.array(paths),
        labels=labels,
        splits=np.array(splits),
        published=PUBLISHED_COUNTS[subset] if split == 0 else {},
    )
    warn_unless_published(annotations, folder)
    return annotations


def _find(folder: Path, name: str, split: int) -> Path:
    places = [folder / "data/splits" / f"split-{split}", folder / f"split-{split}"]
    places += [folder] * (split == 0)
    for place in places:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(
        f"There is no {name} in {' or '.join(repr(str(place)) for place in places)}."
        " Give the folder of the dataset with `data_dir=`; the lists are in"
        " https://github.com/MTG/mtg-jamendo-dataset, folder data/splits."
    )


def _read_rows(path: Path) -> list[list[str]]:
    """Reads a TSV file without pandas, because its rows differ in length."""
    try:
        head, *lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    except UnicodeDecodeError as error:
        raise TaggerError(f"{path} is not a text file.") from error
    if tuple(head.split("\t")) != COLUMNS:
        raise TaggerError(
            f"{path} must begin with the columns {' '.join(COLUMNS)}, separated by"
            f" tabs; found {head[:60]!r}."
        )
    rows = [line.rstrip("\t").split("\t") for line in lines if line.strip()]
    for number, row in enumerate(rows):
        if len(row) < len(COLUMNS):
            raise TaggerError(
                f"{path}, line {number + 2} has {len(row)} columns, but a track has at"
                f" least {len(COLUMNS)}."
            )
    return rows
