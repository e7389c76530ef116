"""Iterative stratification over groups."""

import numpy as np
import pytest

from tagger.datasets.splitting import stratify, tags_lacking

SHARES = {"train": 0.8, "test": 0.1, "val": 0.1}


def dealt(groups, labels, seed=0):
    split_of = stratify(groups, labels, SHARES, seed)
    return np.array([split_of[group] for group in groups])


@pytest.mark.parametrize("seed", range(5))
def test_shares_of_clips_and_of_every_tag_are_kept(seed):
    draw = np.random.RandomState(seed)
    groups = draw.randint(0, 150, 600).astype(str)
    labels = (draw.random_sample((600, 12)) < np.geomspace(0.02, 0.5, 12)).astype("u1")
    splits = dealt(groups, labels, seed)
    for split, share in SHARES.items():
        assert abs((splits == split).mean() - share) < 0.06
        found = labels[splits == split].sum(axis=0) / labels.sum(axis=0)
        np.testing.assert_allclose(found, share, atol=0.16)
    assert not tags_lacking(labels, splits, list("abcdefghijkl"))
    for group in set(groups):
        assert len(set(splits[groups == group])) == 1


def test_the_order_of_the_clips_does_not_matter_and_the_seed_does():
    draw = np.random.RandomState(0)
    groups = draw.randint(0, 40, 200).astype(str)
    labels = draw.randint(0, 2, (200, 3)).astype("u1")
    order = draw.permutation(200)
    splits = dealt(groups, labels)
    np.testing.assert_array_equal(splits[order], dealt(groups[order], labels[order]))
    assert (splits != dealt(groups, labels, seed=1)).any()


def test_three_groups_make_three_splits_and_two_do_not():
    groups, labels = np.array(["a", "a", "b", "c"]), np.ones((4, 1), "u1")
    assert sorted(set(dealt(groups, labels))) == ["test", "train", "val"]
    assert dealt(groups, np.zeros((4, 2), "u1")).tolist()[:2] == ["train", "train"]
    with pytest.raises(ValueError, match="2 groups cannot make 3 splits"):
        dealt(groups[:3], labels[:3])


def test_lacking_tags_are_listed_by_split():
    labels = np.array([[1, 0], [1, 1], [0, 0]])
    lacking = tags_lacking(labels, np.array(["train", "val", "student"]), ["a", "b"])
    assert lacking == {"train": ["b"]}
