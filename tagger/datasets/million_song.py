"""Million Song Dataset (MSD): 30 s previews of songs (Bertin-Mahieux et al. 2011).

    dataset
    ├── filtered_list_train.cP, filtered_list_test.cP, msd_id_to_tag_vector.cP,
    │   50tagList.txt               split "classic" (clips of at least 29.1 s)
    ├── {train,valid,test,student}_ids.npy      split "cals": one list per split
    ├── {train,valid,test}_binaries.npy         labels of "cals", one row per id
    ├── msd_splits.tsv              "cals" as a table: clip_ids, splits, length
    └── audio
        └── A/B/C/TRABC….mp3        or .wav, .flac; A/B/C: characters 3-5 of the id

classic: https://github.com/jongpillee/music_dataset_split, folder MSD_split.
CALS, cleaned and artist-level stratified (Won, Choi and Serra, ISMIR 2021):
https://github.com/minzwon/semi-supervised-music-tagging-transformer, data/splits.
The audio is not distributed; most people have only a part of it.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np

from tagger import validation
from tagger.datasets import pickles
from tagger.datasets.annotations import (
    Annotations,
    binary,
    existing,
    read_table,
    warn_unless_published,
)
from tagger.options import Option
from tagger.text import TaggerError

if TYPE_CHECKING:
    import pandas as pd

AUDIO_FOLDER = "audio"
TRACK_ID = re.compile(r"TR[A-Z]{5}[0-9A-F]{11}")

# The first clips of filtered_list_train.cP are for training, the rest for validation.
NUM_CLASSIC_TRAIN = 201680
PUBLISHED_COUNTS = {
    "classic": {"train": 201680, "val": 11774, "test": 28435},
    "cals": {"train": 163504, "val": 34730, "test": 34913, "student": 516415},
}
SPLIT_RULES = {
    "classic": "classic: by track, artists leak",
    "cals": "CALS: no artist in two splits",
}
# CALS' names -> ours. CALS also has "none": unlabelled songs by artists of train.
CALS_SPLITS = {"train": "train", "valid": "val", "test": "test", "student": "student"}
CALS_TSV = "msd_splits.tsv"
# Tags of the classic split, as in published models. A build reads 50tagList.txt.
CLASSIC_TAGS = (
    "rock", "pop", "alternative", "indie", "electronic", "female vocalists",
    "dance", "00s", "alternative rock", "jazz", "beautiful", "metal", "chillout",
    "male vocalists", "classic rock", "soul", "indie rock", "Mellow", "electronica",
    "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues",
    "hard rock", "ambient", "acoustic", "experimental", "female vocalist", "guitar",
    "Hip-Hop", "70s", "party", "country", "easy listening", "sexy", "catchy",
    "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb", "indie pop",
    "sad", "House", "happy",
)  # fmt: skip

# Tags of CALS, the columns of *_binaries.npy. They differ from those of 50tagList.txt.
CALS_TAGS = (
    "rock", "pop", "indie", "alternative", "electronic", "hip-hop", "metal", "jazz",
    "punk", "folk", "alternative rock", "indie rock", "dance", "hard rock", "00s",
    "soul", "hardcore", "80s", "country", "classic rock", "punk rock", "blues",
    "chillout", "experimental", "heavy metal", "death metal", "90s", "reggae",
    "progressive rock", "ambient", "acoustic", "beautiful", "british", "rnb", "funk",
    "metalcore", "mellow", "world", "guitar", "trance", "indie pop", "christian",
    "house", "spanish", "latin", "psychedelic", "electro", "piano", "70s",
    "progressive metal",
)  # fmt: skip


def load_annotations(
    data_dir: str | os.PathLike,
    split: Annotated[
        Literal["classic", "cals"], Option(flag="--split-rule")
    ] = "classic",
    labelled_only: bool = False,
) -> Annotations:
    """Reads the lists of a split.

    Args:
        data_dir: Folder that holds the lists and audio/.
        split: classic (241,889 tracks) or cals (749,562, two thirds unlabelled).
        labelled_only: Leave out the unlabelled tracks of cals.

    Returns:
        Annotations whose paths have no extension; a build tries `building.ENDINGS`.

    Raises:
        FileNotFoundError: the folder or one of the lists is missing.
        ValueError: the split is unknown, a list has unexpected content, or lists
            disagree.
    """
    folder = Path(data_dir)
    if split not in SPLIT_RULES:
        raise TaggerError(
            f"Unknown split {split!r}. Choose one of: {', '.join(SPLIT_RULES)}."
        )
    if split == "classic":
        tags, track_ids, splits, labels = _read_classic(folder)
    else:
        tags, track_ids, splits, labels = _read_cals(folder)
    published = dict(PUBLISHED_COUNTS[split])
    if labelled_only:
        kept = splits != "student"
        track_ids, splits, labels = track_ids[kept], splits[kept], labels[kept]
        published.pop("student", None)
    wrong = [track_id for track_id in track_ids if not TRACK_ID.fullmatch(track_id)]
    if wrong:
        raise TaggerError(
            f"The lists in {folder} hold {str(wrong[0])!r}, which is not an MSD track"
            " id (TR, five letters and eleven hexadecimal digits)."
        )
    annotations = Annotations(
        dataset="million_song",
        split_rule=f"{SPLIT_RULES[split]}; {len(tags)} tags",
        tags=tags,
        clip_ids=track_ids,
        audio_dir=folder / AUDIO_FOLDER,
        paths=np.array(["/".join((*track[2:5], track)) for track in track_ids]),
        labels=labels,
        splits=splits,
        published=published,
    )
    warn_unless_published(annotations, folder)
    return annotations


Lists = tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]


def _read_classic(folder: Path) -> Lists:
    tags = tuple(_existing(folder / "50tagList.txt").read_text().split("\n"))
    tags = tuple(tag.strip() for tag in tags if tag.strip())
    train = pickles.load(_existing(folder / "filtered_list_train.cP"), list)
    test = pickles.load(_existing(folder / "filtered_list_test.cP"), list)
    path = _existing(folder / "msd_id_to_tag_vector.cP")
    vectors = pickles.load(path, dict)
    num_train = min(NUM_CLASSIC_TRAIN, len(train))
    splits = ["train"] * num_train + ["val"] * (len(train) - num_train)
    splits += ["test"] * len(test)
    labels = np.zeros((len(splits), len(tags)), np.uint8)
    for row, track_id in enumerate([*train, *test]):
        try:
            vector = np.reshape(vectors[track_id], (1, len(tags)))
            labels[row] = binary(vector, tags, path)[0]
        except KeyError:
            raise TaggerError(f"{path} holds no tags for {track_id!r}.") from None
        except (ValueError, TypeError) as error:
            raise TaggerError(
                f"{path}: {track_id!r} does not have {len(tags)} labels of 0 or 1."
            ) from error
    return tags, np.array([*train, *test], str), np.array(splits), labels


def _read_cals(folder: Path) -> Lists:
    """Reads ids and splits from the table or the arrays, and labels from the arrays."""
    table_path = folder / CALS_TSV
    has_table, has_arrays = table_path.is_file(), (folder / "train_ids.npy").is_file()
    if not has_table and not has_arrays:
        raise FileNotFoundError(
            f"There is neither {CALS_TSV} nor train_ids.npy in {str(folder)!r}. The"
            f" split cals needs one of them; see the docstring of {__name__}."
        )
    table = read_table(table_path, "\t") if has_table else None
    ids = _ids_of(table, table_path) if has_table else _read_ids(folder, CALS_SPLITS)
    track_ids = np.concatenate([ids[name] for name in CALS_SPLITS])
    sizes = [len(ids[name]) for name in CALS_SPLITS]
    labels = np.zeros((len(track_ids), len(CALS_TAGS)), np.uint8)
    num_labelled = len(track_ids) - len(ids["student"])  # the student split comes last
    labels[:num_labelled] = _labels_of(track_ids[:num_labelled], folder)
    return CALS_TAGS, track_ids, np.repeat(list(CALS_SPLITS.values()), sizes), labels


def _read_ids(folder: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    return {name: _read_array(folder / f"{name}_ids.npy").astype(str) for name in names}


def _labels_of(track_ids: np.ndarray, folder: Path) -> np.ndarray:
    """Returns the labels of tracks, read from *_binaries.npy and *_ids.npy."""
    rows = {}
    for name in CALS_SPLITS:
        if name == "student":
            continue
        ids = _read_ids(folder, [name])[name]
        path = folder / f"{name}_binaries.npy"
        labels, shape = _read_array(path), (len(ids), len(CALS_TAGS))
        if labels.shape != shape:
            raise TaggerError(
                f"{path} has the shape {labels.shape}, but {len(ids)} ids and"
                f" {len(CALS_TAGS)} tags need {shape}."
            )
        labels = binary(labels, CALS_TAGS, path)
        rows.update(zip(ids.tolist(), labels, strict=True))
    lacking = [track_id for track_id in track_ids.tolist() if track_id not in rows]
    if lacking:
        raise TaggerError(
            f"{len(lacking)} labelled tracks of {CALS_TSV} have no labels, because none"
            f" of the *_ids.npy in {folder} lists them; the first is {lacking[0]!r}."
        )
    return np.stack([rows[track_id] for track_id in track_ids.tolist()])


def _ids_of(table: "pd.DataFrame", path: Path) -> dict[str, np.ndarray]:
    """Returns CALS' name of each split -> its ids, without "none"."""
    first = table.iloc[0] if len(table) else dict.fromkeys(table, "")
    known = {*CALS_SPLITS, "none", ""}
    id_columns = [c for c in table if TRACK_ID.fullmatch(first[c])]
    split_columns = [c for c in table if set(table[c].str.lower().unique()) <= known]
    if not id_columns or not split_columns:
        raise TaggerError(
            f"{path} must have a column of track ids and one of splits"
            f" ({', '.join(CALS_SPLITS)}, none); its columns are"
            f" {', '.join(map(repr, table))}."
        )
    splits = table[split_columns[0]].str.lower()
    table = table.set_index(id_columns[0])
    return {
        name: table.index[(splits == name).to_numpy()].to_numpy(str)
        for name in CALS_SPLITS
    }


def _read_array(path: Path) -> np.ndarray:
    try:
        return validation.load_array(_existing(path))
    except ValueError as error:
        raise TaggerError(f"{path} is not a NumPy array: {error}.") from error


def _existing(path: Path) -> Path:
    return existing(path, f"The docstring of {__name__} says where to get it.")
