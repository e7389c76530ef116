"""Heads on embeddings, against scikit-learn and on data with a known answer."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
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


def test_a_linear_head_is_the_logistic_regression_of_scikit_learn(clips):
    head = heads.fit(clips, [0.01, 1.0])
    for tag, penalty in enumerate((0.01, 1.0)):
        expected = make_pipeline(StandardScaler(), LogisticRegression(C=penalty))
        expected.fit(clips.means(), clips.labels[:, tag])
        np.testing.assert_allclose(
            head.scores(clips.means())[:, tag],
            expected.predict_proba(clips.means())[:, 1],
            atol=1e-4,  # float32, and lbfgs starts elsewhere
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
    scores = heads.cross_validate(examples, folds).scores[:, 0]
    own = examples.scores(heads.fit(examples, [1.0]))[:, 0]
    assert ((own > 0.5) == labels[:, 0]).all()
    for fold in range(4):  # every artist of a fold looks the same
        np.testing.assert_allclose(np.ptp(scores[folds == fold]), 0, atol=1e-6)


def test_a_tag_of_one_fold_is_not_judged_and_takes_the_penalty_of_the_others(clips):
    folds = np.arange(120) % 4
    labels = np.c_[clips.labels, (folds == 0) & (np.arange(120) < 40)]
    examples = heads.Examples(clips.rows, clips.num_segments, labels.astype(np.uint8))
    found = heads.cross_validate(examples, folds)
    assert found.is_judged.tolist() == [True, True, False]
    assert np.isnan(found.scores[:, 2]).all()
    assert set(found.penalties) <= set(heads.PENALTIES)


def test_a_fold_of_minus_one_is_never_held_out(clips):
    folds = np.where(np.arange(120) < 80, -1, 0)  # a train and a validation split
    found = heads.cross_validate(clips, folds)
    assert np.isnan(found.scores[:80]).all() and not np.isnan(found.scores[80:]).any()
    fitted = clips.chosen(folds == -1)
    expected = clips.scores(heads.fit(fitted, found.penalties))
    # lbfgs stops elsewhere when it starts at the solution of another penalty.
    np.testing.assert_allclose(found.scores[80:], expected[80:], atol=2e-3)


def test_the_strongest_penalty_within_a_standard_error_is_chosen():
    # Losses of three penalties in four folds. The third is the best. The excess of the
    # second is .1 in the mean, with a standard error of .2 / 2; the first's is 1.
    excess = np.array([[1, 1, 1, 1], [0.3, -0.1, 0.3, -0.1], [0, 0, 0, 0]])
    error = excess[1].std(ddof=1) / 2
    assert 0.1 < error < 1
    assert heads._strongest(2 + excess) == 1
    assert heads._strongest(2 + excess * [[1], [2], [0]]) == 1
    assert heads._strongest(2 + excess + [[0], [error], [0]]) == 2
