"""Agreement of two rankings."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from tagger.evaluation import agreement, bootstrap, metrics
from tagger.evaluation.metrics import Evaluation


def evaluation(teacher, student):
    num_clips, num_tags = teacher.shape
    return Evaluation(
        dataset="csv",
        split="val",
        split_rule="",
        tags=tuple(f"tag {n}" for n in range(num_tags)),
        clip_ids=np.arange(num_clips).astype(str),
        labels=teacher,
        scores=student,
        loss=0.5,
    )


def test_a_student_on_another_scale_agrees_and_a_reversed_one_does_not():
    teacher = np.random.default_rng(0).random((40, 2)).astype(np.float32)
    student = np.stack([teacher[:, 0] ** 3 / 10, 1 - teacher[:, 1]], axis=1)
    found = metrics.with_teacher(evaluation(teacher, student))
    table = metrics.per_tag(found)
    np.testing.assert_allclose(table["rho"], [1, -1])
    np.testing.assert_allclose(table["roc_auc"], [1, 0])
    assert found.labels.sum(axis=0).tolist() == [4, 4]
    assert metrics.macro(found)["rho"] == pytest.approx(0)
    assert "rho 0.0000, ROC-AUC 0.5000" in metrics.macro_line(found)
    assert '"rho": ' in metrics.as_json(found)


def test_rho_by_hand_and_of_constant_scores():
    first = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0]])
    second = np.array([[1.0, 1.0], [3.0, 2.0], [2.0, 3.0], [4.0, 4.0]])
    rho = agreement.rank_correlations(first, second)
    assert rho[0] == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 Σd² / n(n² - 1)
    assert np.isnan(rho[1])  # the teacher ranks nothing
    assert agreement.rank_correlations(second, first)[1] == 0  # the student does not
    assert rho[0] > kendalltau(first[:, 0], second[:, 0]).statistic


def test_the_highest_share_holds_at_least_one_clip():
    scores = np.array([[0.1], [0.3], [0.3]])
    assert agreement.top_clips(scores, 0.1).ravel().tolist() == [False, True, False]
    assert agreement.top_clips(scores, 0.67).sum() == 2


def test_the_aucs_of_an_agreement_have_intervals():
    teacher = np.random.default_rng(0).random((40, 2)).astype(np.float32)
    student = teacher + np.random.default_rng(1).random((40, 2)).astype(np.float32) / 2
    found = metrics.with_teacher(evaluation(teacher, student))
    intervals = bootstrap.bootstrap(found, 50)
    assert set(intervals) == {"roc_auc", "pr_auc"}
    assert intervals["roc_auc"].low <= metrics.macro(found)["roc_auc"]
