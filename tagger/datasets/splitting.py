"""Splits labelled clips so that every split has clips of every tag.

Groups of clips, such as those of an artist, stay together.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from tagger.text import TaggerError


def stratify(
    groups: np.ndarray, labels: np.ndarray, shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Deals groups of clips to splits by iterative stratification.

    The tag with the fewest clips left is dealt first. Each of its groups goes to the
    split that lacks most clips of this tag. As long as there are enough groups, no
    split is left without the tag.

    Args:
        groups: Name of the group of each clip [num_clips].
        labels: 0/1 [num_clips, num_tags].
        shares: Split -> share of the clips; the shares sum to 1.
        seed: Seed that decides between equal choices, by hashes, so the result depends
            on neither the order of the clips nor the platform.

    Returns:
        Group -> split. Each split has at least one group.

    Raises:
        ValueError: there are fewer groups than splits.

    Reference:
        Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011, algorithm 1, with groups in
        the place of examples.
    """
    names, rows = np.unique(groups, return_inverse=True)
    if len(names) < len(shares):
        raise TaggerError(f"{len(names)} groups cannot make {len(shares)} splits.")
    num_clips = np.bincount(rows)
    counts = np.zeros((len(names), labels.shape[1]), np.int64)
    np.add.at(counts, rows, labels.astype(np.int64))
    dealer = _Dealer(shares, counts, num_clips)
    by_hash = np.array(sorted(range(len(names)), key=lambda n: _hash(names[n], seed)))
    left = np.ones(len(names), bool)
    while left.any():
        totals = counts[left].sum(axis=0)
        if totals.any():
            tag = int(np.argmin(np.where(totals > 0, totals, totals.max() + 1)))
            sizes = counts[by_hash, tag] * left[by_hash]
        else:
            tag, sizes = None, num_clips[by_hash] * left[by_hash]
        # The largest groups first: small ones can still even out the shares.
        members = by_hash[np.argsort(-sizes, kind="stable")][: (sizes > 0).sum()]
        for position, group in enumerate(members):
            num_later = len(members) - position
            dealer.deal(group, tag, num_later, num_left=int(left.sum()))
            left[group] = False
    return dict(zip(names.tolist(), dealer.splits, strict=True))


def deal_folds(
    groups: np.ndarray, labels: np.ndarray, num_folds: int, seed: int
) -> np.ndarray:
    """Deals groups of clips to folds so that every fold has clips of every tag.

    Args:
        groups: Name of the group of each clip [num_clips], such as its artist.
        labels: 0/1 [num_clips, num_tags].
        num_folds: Number of folds; fewer if there are fewer groups.
        seed: Seed of the folds.

    Returns:
        int [num_clips], the fold of each clip, from 0.

    Raises:
        ValueError: all clips belong to one group.
    """
    num_folds = min(num_folds, len(np.unique(groups)))
    if num_folds < 2:
        raise TaggerError("One group cannot make two folds.")
    shares = {str(fold): 1 / num_folds for fold in range(num_folds)}
    fold_of = stratify(groups, labels, shares, seed)
    return np.array([int(fold_of[group]) for group in groups.tolist()])


class _Dealer:
    """Deals one group after the other to the split that lacks it most."""

    def __init__(
        self, shares: Mapping[str, float], counts: np.ndarray, num_clips: np.ndarray
    ):
        self._names, self._counts, self._num_clips = list(shares), counts, num_clips
        self._wanted = np.outer(list(shares.values()), counts.sum(axis=0))
        self._wanted_clips = np.array(list(shares.values())) * num_clips.sum()
        self._held = np.zeros_like(self._wanted)
        self._used = set()
        self.splits = [""] * len(counts)

    def deal(self, group: int, tag: int | None, num_later: int, num_left: int) -> None:
        """Deals a group for its clips of a tag.

        Args:
            group: Number of the group.
            tag: Number of the tag, or None if the group has no clip with a tag.
            num_later: Number of groups with this tag that are left, with this one.
            num_left: Number of groups that are left, with this one.
        """
        choices = list(range(len(self._names)))
        empty = [s for s in choices if s not in self._used]
        lacking = [s for s in choices if tag is not None and not self._held[s, tag]]
        if num_left <= len(empty):
            choices = empty
        elif lacking and num_later <= len(lacking):
            choices = lacking
        wanted = self._wanted_clips if tag is None else self._wanted[:, tag]
        split = max(choices, key=lambda s: (wanted[s], self._wanted_clips[s]))
        self.splits[group] = self._names[split]
        self._used.add(split)
        self._wanted[split] -= self._counts[group]
        self._held[split] += self._counts[group]
        self._wanted_clips[split] -= self._num_clips[group]


def tags_lacking(
    labels: np.ndarray, splits: np.ndarray, tags: Sequence[str]
) -> dict[str, list[str]]:
    """Returns the tags that no clip of a split has, for each split that lacks some.

    Args:
        labels: 0/1 [num_clips, num_tags].
        splits: Split of each clip [num_clips]; other splits than train, val and test
            are ignored.
        tags: Tag names in the order of the labels.
    """
    lacking = {}
    for split in ("train", "val", "test"):
        rows = labels[splits == split]
        if len(rows) and not rows.any(axis=0).all():
            lacking[split] = [tags[tag] for tag in np.flatnonzero(~rows.any(axis=0))]
    return lacking


def _hash(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()
