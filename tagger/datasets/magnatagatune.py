"""MagnaTagATune (MTT): 25,863 clips of 29 s, 188 tags (Law et al., ISMIR 2009).

    dataset
    ├── annotations_final.csv      tab-separated, quoted: clip_id, 188 tags, mp3_path
    └── mp3
        ├── 0 … b                  train
        ├── c                      validation
        └── d … f                  test

Download: https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset
"""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from tagger.datasets import pickles
from tagger.datasets.annotations import (
    Annotations,
    binary,
    existing,
    read_table,
    top_tags,
    warn_unless_published,
)
from tagger.options import Option
from tagger.text import TaggerError

if TYPE_CHECKING:
    import pandas as pd

ANNOTATIONS_NAME = "annotations_final.csv"
AUDIO_FOLDER = "mp3"
NUM_TAGS = 50  # as in every paper

# Size of the real file, which must give the counts below.
NUM_CLIPS, NUM_ALL_TAGS = 25863, 188
BROKEN_CLIPS = ("35644", "55753", "57881")  # their mp3 files are empty
DEMO_PREFIX = "demo-"  # of the file names of `datasets.demo`, which is not MTT

DIRECTORY_SPLITS = dict.fromkeys("0123456789ab", "train")
DIRECTORY_SPLITS |= {"c": "val", "d": "test", "e": "test", "f": "test"}
# 13:1:3, as Dabral and Deshmukh rounded it for 25,860 clips
RANDOM_SHARES = {"train": 19775, "val": 1520, "test": 4565}
# Lee et al.'s lists of clips of at least 29.1 s; their paths end in .npy, not .mp3
LISTS_SOURCE = "https://github.com/jongpillee/music_dataset_split, folder MTAT_split"
LIST_NAMES = {
    "train": "train_list_pub.cP",
    "val": "valid_list_pub.cP",
    "test": "test_list_pub.cP",
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """How one group of papers reads the same csv.

    Attributes:
        counts: Published clips per split, for the top 50 tags of the real file.
        tag_order: Order of the tags by frequency, "ascending" or "descending".
        split: Key of SPLIT_RULES.
        keep_untagged: Whether clips without any of the tags are kept.
        merge_synonyms: Whether SYNONYMS are merged.
        keep_broken: Whether BROKEN_CLIPS are counted; the build then skips them.
    """

    counts: dict[str, int]
    tag_order: str = "descending"
    split: str = "directory"
    keep_untagged: bool = False
    merge_synonyms: bool = False
    keep_broken: bool = False


VARIANTS = {
    "resemul": Variant(  # Kim 2018
        {"train": 15250, "val": 1529, "test": 4332}, "ascending", keep_broken=True
    ),
    "lee": Variant({"train": 15244, "val": 1529, "test": 4332}, split="lists"),
    "won": Variant({"train": 15247, "val": 1529, "test": 4332}),
    # Untagged clips lower PR-AUC: about .40 with them, .46 without.
    "pons": Variant({"train": 18706, "val": 1825, "test": 5329}, keep_untagged=True),
    "multi_scale": Variant(  # Dabral and Deshmukh
        RANDOM_SHARES, split="random", keep_untagged=True, merge_synonyms=True
    ),
}
SPLIT_RULES = {
    "directory": "directories 0-b, c, d-f",
    "lists": "Lee's lists",
    "random": "random 13:1:3, seed {seed}, artists leak",
}

# Groups merged by maximum (Dabral and Deshmukh). A group takes the place and the name
# of its first column in the csv.
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

# In the order of the models of Won et al. and of Pons and Serra, which is by frequency.
TOP_50_TAGS = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic",
    "rock", "fast", "piano", "ambient", "beat", "violin", "vocal", "synth",
    "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
    "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal",
    "pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice", "new age",
    "dance", "male voice", "female vocal", "beats", "harp", "cello", "no voice",
    "weird", "country", "metal", "female voice", "choral",
)  # fmt: skip
# resemul's order, as the docstring of its `load_annotations` lists it; its shards and
# its published models do not name their tags.
RESEMUL_TAGS = TOP_50_TAGS[::-1]


def load_annotations(
    data_dir: str | os.PathLike,
    variant: Literal["resemul", "lee", "won", "pons", "multi_scale"] = "resemul",
    num_tags: Annotated[int, Option(ge=1)] = NUM_TAGS,
    seed: Annotated[int, Option(ge=0)] = 0,
) -> Annotations:
    """Reads `annotations_final.csv` as one of VARIANTS.

    Args:
        data_dir: Folder that holds annotations_final.csv and mp3/.
        variant: Paper or project whose rules for the annotations are used: lee splits
            by Lee's *_list_pub.cP in the folder, multi_scale at random (13:1:3; artists
            leak from train into test), the others by directory.
        num_tags: Number of tags to take, the most frequent ones; all if there are
            fewer.
        seed: Seed of the random split.

    Returns:
        Annotations of the clips. A tag may have no positive clips.

    Raises:
        FileNotFoundError: the folder, the csv or a list is missing.
        ValueError: the variant is unknown, or the csv has unexpected columns, values or
            directories.
    """
    if variant not in VARIANTS:
        raise TaggerError(
            f"Unknown variant {variant!r}. Choose one of: {', '.join(VARIANTS)}."
        )
    rules = VARIANTS[variant]
    path = Path(data_dir) / ANNOTATIONS_NAME
    table = _read_csv(path)
    tags = [column for column in table.columns if column not in ("clip_id", "mp3_path")]
    labels, num_all_tags = binary(table[tags].to_numpy(), tags, path), len(tags)
    if rules.merge_synonyms:
        tags, labels = _merge(tags, labels)

    columns = top_tags(labels, num_tags, rules.tag_order)
    tags, labels = [tags[column] for column in columns], labels[:, columns]
    kept = np.full(len(table), True) if rules.keep_untagged else labels.any(axis=1)
    if not rules.keep_broken:
        kept &= ~table["clip_id"].isin(BROKEN_CLIPS).to_numpy()
    if not kept.any():
        raise TaggerError(f"No clip of {path} has any of the top {len(tags)} tags.")
    is_real = (len(table), num_all_tags) == (NUM_CLIPS, NUM_ALL_TAGS)
    table, labels = table[kept], labels[kept]

    paths = table["mp3_path"].to_numpy(str)
    if rules.split == "directory":
        splits = _split_by_directory(path, paths)
    elif rules.split == "random":
        splits = _split_at_random(len(table), seed)
    else:
        splits = _split_by_lists(Path(data_dir), paths)
    listed = splits != ""
    names = [clip.rpartition("/")[2] for clip in paths]
    is_demo = all(name.startswith(DEMO_PREFIX) for name in names)
    is_published = num_tags == NUM_TAGS and not is_demo
    description = _describe(rules, len(tags), seed)
    annotations = Annotations(
        dataset="demo" if is_demo else "magnatagatune",
        split_rule=f"{variant}: {description}" if is_published else description,
        tags=tuple(tags),
        clip_ids=table["clip_id"].to_numpy(str)[listed],
        audio_dir=Path(data_dir) / AUDIO_FOLDER,
        paths=paths[listed],
        labels=labels[listed],
        splits=splits[listed],
        published=rules.counts if is_published and is_real else {},
    )
    warn_unless_published(annotations, path)
    return annotations


def _read_csv(path: Path) -> "pd.DataFrame":
    existing(path, "Put it there, or give the folder that holds it with `data_dir=`.")
    table = read_table(path, "\t")
    missing = {"clip_id", "mp3_path"} - set(table.columns)
    if missing or len(table.columns) < 3:
        raise TaggerError(
            f"{path} must be tab-separated with the columns clip_id, one per tag, and"
            f" mp3_path; found {', '.join(map(repr, table.columns[:4]))}"
            f"{' …' if len(table.columns) > 4 else ''}."
        )
    if (table[["clip_id", "mp3_path"]] == "").any(axis=None) or not len(table):
        raise TaggerError(f"{path} has no rows, or a row without clip_id or mp3_path.")
    return table


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
        raise TaggerError(
            f"{path}: {clip!r} is in none of the directories 0-9 and a-f, so the"
            " directory split does not cover it. Use `variant=multi_scale`, which"
            " splits at random."
        )
    return np.array(splits)


def _split_at_random(num_clips: int, seed: int) -> np.ndarray:
    # RandomState's stream is frozen; Generator's may change with NumPy.
    order = np.random.RandomState(seed).permutation(num_clips)
    shares = np.cumsum(list(RANDOM_SHARES.values()))
    ends = np.rint(shares * (num_clips / shares[-1])).astype(int)
    splits = np.empty(num_clips, dtype="<U7")
    for name, part in zip(RANDOM_SHARES, np.split(order, ends[:-1]), strict=True):
        splits[part] = name
    return splits


def _split_by_lists(data_dir: Path, paths: np.ndarray) -> np.ndarray:
    """Returns the split of each clip in Lee's lists, and "" for other clips."""
    splits = {}
    for split, name in LIST_NAMES.items():
        needed = f"{', '.join(LIST_NAMES.values())} from {LISTS_SOURCE}"
        path = existing(data_dir / name, f"The split by lists needs {needed}.")
        for clip in pickles.load(path, list):
            splits[str(clip).rpartition(".")[0]] = split
    found = np.array([splits.get(clip.rpartition(".")[0], "") for clip in paths])
    if not (found != "").any():
        raise TaggerError(
            f"{', '.join(LIST_NAMES.values())} in {data_dir} name none of the clips of"
            f" {ANNOTATIONS_NAME}. Get the lists from {LISTS_SOURCE}."
        )
    return found


def _describe(rules: Variant, num_tags: int, seed: int) -> str:
    rule = SPLIT_RULES[rules.split].format(seed=seed)
    clips = "all clips" if rules.keep_untagged else "tagged clips"
    merged = " merged" if rules.merge_synonyms else ""
    return f"{rule}; {clips}; top {num_tags}{merged} tags"
