"""Heads on embeddings, against scikit-learn and on data with a known answer."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tagger.datasets import splitting
from tagger.fitting import heads


def examples_of(means, labels, num_segments=2, spread=0.0):
    """Clips whose segments lie around a mean embedding."""
    random = np.random.default_rng(1)
    noise = random.standard_normal((len(means), num_segments, means.shape[1]))
    noise -= noise.mean(axis=1, keepdims=True)
    rows = (means[:, None] + spread * noise).reshape(-1, means.shape[1])
    counts = np.full(len(means), num_segments)
    return heads.Examples(rows.astype(np.float32), counts, labels.astype(np.uint8))


@pytest.fixture
def clips():
    random = np.random.default_rng(0)
    means = random.standard_normal((120, 5)) * [1, 10, 0.1, 3, 1] + 4
    direction = np.array([1, 0.1, 10, 0, 0])
    logits = (means - 4) @ direction
    labels = np.stack([logits > 0, logits + random.standard_normal(120) > 1], axis=1)
    return examples_of(means, labels)


@pytest.mark.parametrize("penalty", [None, 0.01, 1.0])
def test_a_linear_head_is_the_logistic_regression_of_scikit_learn(clips, penalty):
    head = heads.fit(clips, penalty)
    for tag in range(2):
        model = LogisticRegression(C=penalty or 0.2 / 5)
        expected = make_pipeline(StandardScaler(), model)
        expected.fit(clips.means(), clips.labels[:, tag])
        np.testing.assert_allclose(
            head.scores(clips.means())[:, tag],
            expected.predict_proba(clips.means())[:, 1],
            atol=1e-4,  # float32
        )


def test_a_clip_scores_the_mean_of_its_segments():
    examples = examples_of(np.zeros((2, 3)), np.eye(2), num_segments=4, spread=2.0)
    head = heads.Head(np.ones((3, 2), np.float32), np.zeros(2, np.float32))
    segments = 1 / (1 + np.exp(-examples.rows.sum(axis=1)))
    expected = segments.reshape(2, 4).mean(axis=1)
    np.testing.assert_allclose(examples.scores(head)[:, 0], expected, rtol=1e-6)


def test_clips_of_different_lengths_keep_their_segments():
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    examples = heads.Examples(rows, np.array([1, 3, 2]), np.eye(3, dtype=np.uint8))
    np.testing.assert_array_equal(examples.means(), [[0, 1], [4, 5], [9, 10]])
    chosen = examples.chosen(np.array([True, False, True]))
    np.testing.assert_array_equal(chosen.rows, rows[[0, 4, 5]])


def test_no_clip_is_scored_by_a_head_that_heard_its_artist():
    """An embedding that only tells artists apart says nothing about other artists."""
    artists = np.repeat(np.arange(24), 5)
    labels = np.random.default_rng(0).integers(2, size=24)[artists][:, None]
    examples = examples_of(np.eye(24)[artists], labels)
    folds = splitting.deal_folds(artists.astype(str), labels, 4, 0)
    for artist in range(24):
        assert len(set(folds[artists == artist])) == 1
    scores = heads.cross_validate(examples, folds)[:, 0]
    own = examples.scores(heads.fit(examples, 1.0))[:, 0]
    assert ((own > 0.5) == labels[:, 0]).all()
    for fold in range(4):  # every artist of a fold looks the same
        np.testing.assert_allclose(np.ptp(scores[folds == fold]), 0, atol=1e-6)


def test_a_tag_of_one_fold_is_not_judged(clips):
    folds = np.arange(120) % 4
    labels = np.c_[clips.labels, (folds == 0) & (np.arange(120) < 40)]
    examples = heads.Examples(clips.rows, clips.num_segments, labels.astype(np.uint8))
    found = heads.cross_validate(examples, folds)
    assert np.isnan(found).all(axis=0).tolist() == [False, False, True]
    assert not np.isnan(found[:, :2]).any()


def test_a_fold_of_minus_one_is_never_held_out(clips):
    folds = np.where(np.arange(120) < 80, -1, 0)  # a train and a validation split
    found = heads.cross_validate(clips, folds)
    assert np.isnan(found[:80]).all() and not np.isnan(found[80:]).any()
    expected = clips.scores(heads.fit(clips.chosen(folds == -1)))
    np.testing.assert_array_equal(found[80:], expected[80:])


@pytest.mark.parametrize("most", [10_000, 10])
def test_clips_of_one_recording_are_one_group(most, monkeypatch):
    """Also by neighbours, which is how many clips are compared."""
    monkeypatch.setattr(heads, "MAX_LINKED", most)
    random = np.random.default_rng(0)
    recordings = np.repeat(np.arange(12), 4)
    means = random.standard_normal((12, 40))[recordings]
    means += 0.05 * random.standard_normal(means.shape)
    labels = np.eye(2, dtype=np.uint8)[recordings % 2]
    groups = heads.groups_of_sound(means.astype(np.float32), labels)
    assert len(set(groups)) == 12
    for number in range(12):
        assert len(set(groups[recordings == number])) == 1


def test_scores_of_unknown_artists_are_not_too_high():
    """Three clips of each recording, and tags that only recordings tell apart."""
    random = np.random.default_rng(0)
    recordings = np.repeat(np.arange(40), 3)
    means = random.standard_normal((40, 30))[recordings]
    means += 0.1 * random.standard_normal(means.shape)
    labels = random.integers(2, size=40)[recordings][:, None]
    examples = examples_of(means, labels)
    printed = {}
    for name, groups in (
        ("clips", np.arange(120).astype(str)),
        ("sound", heads.groups_of_sound(examples.means(), labels)),
    ):
        folds = splitting.deal_folds(groups, labels, 5, 0)
        scores = heads.cross_validate(examples, folds)
        printed[name] = roc_auc_score(labels[:, 0], scores[:, 0])
    assert printed["clips"] > printed["sound"] + 0.1  # though nothing can be learned
    assert printed["sound"] < 0.6


def test_a_tag_that_is_a_sound_is_still_judged():
    """All rain sounds alike, and would be held out together."""
    random = np.random.default_rng(0)
    means = np.repeat(10 * np.eye(2), 8, axis=0) + random.standard_normal((16, 2)) / 9
    labels = np.repeat(np.eye(2, dtype=np.uint8), 8, axis=0)
    groups = heads.groups_of_sound(np.c_[means, means**2], labels)
    assert all(len(set(groups[labels[:, tag] > 0])) > 1 for tag in range(2))
