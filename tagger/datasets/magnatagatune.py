"""MagnaTagATune (MTT): 25,863 clips of 29 s, 188 tags (Law et al., ISMIR 2009).

    dataset
    ├── annotations_final.csv      tab-separated, quoted: clip_id, 188 tags, mp3_path
    └── mp3
        ├── 0 … b                  train
        ├── c                      validation
        └── d … f                  test

Download: https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset
"""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from tagger.datasets.annotations import Annotations, top_tags

ANNOTATIONS_NAME = "annotations_final.csv"
AUDIO_FOLDER = "mp3"
NUM_TAGS = 50  # what every paper uses

# The real file; where it is read, the counts below must come out.
NUM_CLIPS, NUM_ALL_TAGS = 25863, 188
BROKEN_CLIPS = ("35644", "55753", "57881")  # their mp3 files hold nothing
# Clips per split, top 50 tags, directory split: keep_untagged -> counts. The first is
# counted before any mp3 is opened (Kim 2018), the second without the broken clips.
PUBLISHED_COUNTS = {
    False: {"train": 15250, "val": 1529, "test": 4332},
    True: {"train": 18706, "val": 1825, "test": 5329},
}

DIRECTORY_SPLITS = dict.fromkeys("0123456789ab", "train")
DIRECTORY_SPLITS |= {"c": "val", "d": "test", "e": "test", "f": "test"}
RANDOM_SHARES = {"train": 13, "val": 1, "test": 3}  # Dabral and Deshmukh

# Groups merged by maximum (Dabral and Deshmukh). A group keeps the place of the first
# of its columns and takes the name that stands there.
SYNONYMS = tuple(
    tuple(group.split(", "))
    for group in (
        "beat, beats",
        "chant, chanting",
        "choir, choral",
        "classical, clasical, classic",
        "drum, drums",
        "electro, electronic, electronica, electric",
        "fast, fast beat, quick",
        "female, female singer, female singing, female vocals, female voice, woman,"
        " woman singing, women",
        "flute, flutes",
        "guitar, guitars",
        "hard, hard rock",
        "harpsichord, harpsicord",
        "heavy, heavy metal, metal",
        "horn, horns",
        "india, indian",
        "jazz, jazzy",
        "male, male singer, male vocal, male vocals, male voice, man, man singing, men",
        "no beat, no drums",
        "no singer, no singing, no vocal, no vocals, no voice, no voices, instrumental",
        "opera, operatic",
        "orchestra, orchestral",
        "quiet, silence",
        "singer, singing",
        "space, spacey",
        "string, strings",
        "synth, synthesizer",
        "violin, violins",
        "vocal, vocals, voice, voices",
        "strange, weird",
    )
)


def load_annotations(
    data_dir: str | os.PathLike,
    num_tags: int = NUM_TAGS,
    split: str = "directory",
    merge_synonyms: bool = False,
    keep_untagged: bool = False,
    tag_order: str = "ascending",
    seed: int = 0,
) -> Annotations:
    """Reads `annotations_final.csv`.

    Args:
        data_dir: Folder that holds `annotations_final.csv` and `mp3/`.
        num_tags: The most frequent tags are taken; all, if the file has fewer.
        split: "directory" (0-b, c, d-f: every published table but one) or "random"
            (13:1:3, the multi-scale tagger's; artists leak from train into test).
        merge_synonyms: Merges SYNONYMS before the tags are counted.
        keep_untagged: Keeps clips that none of the taken tags applies to.
        tag_order: "ascending" (resemul) or "descending" frequency (Won, multi-scale).
        seed: Of the random split.

    Returns:
        Annotations whose paths are relative to `data_dir/mp3`. A tag may lack
        positives.

    Raises:
        FileNotFoundError: the folder or the csv is missing.
        ValueError: the csv has other columns, values or directories.
    """
    path = Path(data_dir) / ANNOTATIONS_NAME
    table = _read_csv(path)
    tags = [column for column in table.columns if column not in ("clip_id", "mp3_path")]
    labels, num_all_tags = _read_labels(path, table[tags]), len(tags)
    if merge_synonyms:
        tags, labels = _merge(tags, labels)

    columns = top_tags(labels, num_tags, tag_order)
    tags, labels = [tags[column] for column in columns], labels[:, columns]
    kept = np.full(len(table), True) if keep_untagged else labels.any(axis=1)
    if not kept.any():
        raise ValueError(f"No clip of {path} carries any of the top {len(tags)} tags.")
    table, labels = table[kept], labels[kept]

    paths = table["mp3_path"].to_numpy(str)
    if split == "directory":
        splits = _split_by_directory(path, paths)
    elif split == "random":
        splits = _split_at_random(len(table), seed)
    else:
        raise ValueError(f"Unknown split {split!r}. Choose one of: directory, random.")
    annotations = Annotations(
        dataset="magnatagatune",
        split_rule=_describe(split, merge_synonyms, keep_untagged, len(tags), seed),
        tags=tuple(tags),
        clip_ids=table["clip_id"].to_numpy(str),
        paths=paths,
        labels=labels,
        splits=splits,
    )
    plain = num_tags == NUM_TAGS and not merge_synonyms
    is_real = (len(kept), num_all_tags) == (NUM_CLIPS, NUM_ALL_TAGS)
    if plain and split == "directory" and is_real:
        _check_published_counts(path, annotations, keep_untagged)
    return annotations


def _read_csv(path: Path) -> pd.DataFrame:
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r}. Give the folder that holds"
            f" {ANNOTATIONS_NAME} and {AUDIO_FOLDER}/ with --data-dir."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {ANNOTATIONS_NAME} in {str(path.parent)!r}. Put it there or"
            " give the folder that holds it with --data-dir."
        )
    try:
        # utf-8-sig also reads plain UTF-8; spreadsheets add the byte order mark.
        table = pd.read_csv(path, sep="\t", dtype=str, encoding="utf-8-sig")
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
    ) as error:
        raise ValueError(f"{path} is no tab-separated text: {error}.") from error
    missing = {"clip_id", "mp3_path"} - set(table.columns)
    if missing or len(table.columns) < 3:
        raise ValueError(
            f"{path} must be tab-separated with the columns clip_id, one per tag and"
            f" mp3_path; found {', '.join(map(repr, table.columns[:4]))}"
            f"{' …' if len(table.columns) > 4 else ''}."
        )
    if table[["clip_id", "mp3_path"]].isna().any(axis=None) or not len(table):
        raise ValueError(f"{path} has no rows, or a row without clip_id or mp3_path.")
    return table


def _read_labels(path: Path, columns: pd.DataFrame) -> np.ndarray:
    labels = columns.to_numpy()
    wrong = np.argwhere((labels != "0") & (labels != "1"))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"{path}, line {row + 2}: column {columns.columns[column]!r} holds"
            f" {labels[row, column]!r}; labels are 0 or 1."
        )
    return (labels == "1").astype(np.uint8)


def _merge(tags: list[str], labels: np.ndarray) -> tuple[list[str], np.ndarray]:
    labels, absorbed = labels.copy(), set()
    for group in SYNONYMS:
        columns = [column for column, tag in enumerate(tags) if tag in group]
        if columns:
            labels[:, columns[0]] = labels[:, columns].max(axis=1)
            absorbed.update(columns[1:])
    kept = [column for column in range(len(tags)) if column not in absorbed]
    return [tags[column] for column in kept], labels[:, kept]


def _split_by_directory(path: Path, paths: np.ndarray) -> np.ndarray:
    splits = [DIRECTORY_SPLITS.get(clip.split("/")[0]) for clip in paths]
    if None in splits:
        clip = str(paths[splits.index(None)])
        raise ValueError(
            f"{path}: {clip!r} stands in none of the directories 0-9 and a-f, so the"
            " directory split does not know it. Use --split random."
        )
    return np.array(splits)


def _split_at_random(num_clips: int, seed: int) -> np.ndarray:
    # RandomState's stream is frozen; Generator's may change with NumPy.
    order = np.random.RandomState(seed).permutation(num_clips)
    ends = (
        np.cumsum(list(RANDOM_SHARES.values()))
        * num_clips
        // sum(RANDOM_SHARES.values())
    )
    splits = np.empty(num_clips, dtype="<U7")
    for name, part in zip(RANDOM_SHARES, np.split(order, ends[:-1]), strict=True):
        splits[part] = name
    return splits


def _describe(
    split: str, merge_synonyms: bool, keep_untagged: bool, num_tags: int, seed: int
) -> str:
    rule = {
        "directory": "directories 0-b, c, d-f",
        "random": f"random 13:1:3, seed {seed}, artists leak",
    }[split]
    clips = "all clips" if keep_untagged else "tagged clips"
    return f"{rule}; {clips}; top {num_tags}{' merged' if merge_synonyms else ''} tags"


def _check_published_counts(
    path: Path, annotations: Annotations, keep_untagged: bool
) -> None:
    published, counts = PUBLISHED_COUNTS[keep_untagged], annotations.counts()
    if keep_untagged:
        broken = np.isin(annotations.clip_ids, BROKEN_CLIPS)
        for split in annotations.splits[broken]:
            counts[split] -= 1
    if counts != published:
        warnings.warn(
            f"{path} gives {counts} clips, but {published} are published: the file was"
            " changed, and scores on it compare with no paper.",
            stacklevel=3,
        )
