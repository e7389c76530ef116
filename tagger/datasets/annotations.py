"""Who is tagged with what, and in which split: the same table for every dataset.

csv, tsv or pickle of a dataset -> Annotations (clip ids, paths, tags, labels, splits).
"""

import dataclasses
import hashlib

import numpy as np

from tagger.records import SPLITS


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Clips with their labels.

    Attributes:
        dataset: Key of `datasets.DATASETS`.
        split_rule: How clips were given to the splits; stands beside every score.
        tags: Tag names in the order of the labels.
        clip_ids: str [num_clips], unique.
        paths: str [num_clips], relative to the dataset's audio folder.
        labels: uint8 0/1 [num_clips, num_tags].
        splits: str [num_clips], each one of SPLITS.

    Raises:
        ValueError: two clips share an id, a split is unknown or the lengths differ.
    """

    dataset: str
    split_rule: str
    tags: tuple[str, ...]
    clip_ids: np.ndarray
    paths: np.ndarray
    labels: np.ndarray
    splits: np.ndarray

    def __post_init__(self):
        num_clips = len(self.clip_ids)
        if self.labels.shape != (num_clips, len(self.tags)) or not (
            len(self.paths) == len(self.splits) == num_clips
        ):
            raise ValueError(
                f"{num_clips} clip ids and {len(self.tags)} tags need labels of that"
                f" shape, not {self.labels.shape}, {len(self.paths)} paths and"
                f" {len(self.splits)} splits."
            )
        ids, counts = np.unique(self.clip_ids, return_counts=True)
        if len(ids) < num_clips:
            raise ValueError(
                f"Clip id {str(ids[counts > 1][0])!r} stands twice in the annotations"
                f" of {self.dataset}. Every clip needs an id of its own."
            )
        unknown = set(self.splits) - set(SPLITS)
        if unknown:
            raise ValueError(
                f"Unknown split {str(min(unknown))!r}. Choose from:"
                f" {', '.join(SPLITS)}."
            )

    def __len__(self) -> int:
        return len(self.clip_ids)

    def counts(self) -> dict[str, int]:
        """Clips per split, in the order of SPLITS, splits without a clip left out."""
        held = {split: int(np.sum(self.splits == split)) for split in SPLITS}
        return {split: count for split, count in held.items() if count}

    def sha256(self) -> str:
        """Names the content: ids, paths, splits, tags and labels, in their order."""
        digest = hashlib.sha256("\n".join(self.tags).encode())
        for row in zip(
            self.clip_ids, self.paths, self.splits, self.labels, strict=True
        ):
            clip_id, path, split, labels = row
            digest.update(f"\n{clip_id}\t{path}\t{split}\t".encode() + labels.tobytes())
        return digest.hexdigest()


def top_tags(labels: np.ndarray, num_tags: int, order: str) -> np.ndarray:
    """Chooses the most frequent tags.

    Args:
        labels: 0/1 [num_clips, num_all_tags], as the columns stand in the file.
        num_tags: How many to take at most.
        order: "ascending" or "descending" frequency; equal counts keep the columns'
            order.

    Returns:
        int [min(num_tags, num_all_tags)], columns of `labels`.

    Raises:
        ValueError: `num_tags` is not positive, or `order` is unknown.
    """
    if num_tags < 1:
        raise ValueError(f"Asked for the top {num_tags} tags; it takes at least 1.")
    counts = labels.sum(axis=0, dtype=np.int64)
    columns = np.argsort(counts, kind="stable")[-num_tags:]
    if order == "ascending":
        return columns
    if order == "descending":
        columns = np.sort(columns)
        return columns[np.argsort(-counts[columns], kind="stable")]
    raise ValueError(
        f"Unknown tag order {order!r}. Choose one of: ascending, descending."
    )
