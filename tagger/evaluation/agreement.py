"""Agreement of a student with its teacher: do they rank the same clips high?

For each tag: Spearman's rank correlation of the two scores, and the student's AUCs on
the clips among the teacher's highest tenth. Both depend only on the order of the clips,
so that scores on another scale agree if the order does.
"""

import numpy as np
from scipy.stats import spearmanr

TOP_SHARE = 0.1  # of the clips, by the teacher's score, count as having a tag


METRICS = ("rho", "roc_auc", "pr_auc")


def top_clips(scores: np.ndarray, share: float = TOP_SHARE) -> np.ndarray:
    """Returns whether each clip is among the highest share of a tag.

    Args:
        scores: Scores [num_clips, num_tags].
        share: Share of the clips; at least one clip is.

    Returns:
        bool [num_clips, num_tags]; of equal scores, the earlier clip counts as higher.
    """
    num_top = max(1, round(share * len(scores)))
    order = np.argsort(-scores, axis=0, kind="stable")
    top = np.zeros(scores.shape, bool)
    np.put_along_axis(top, order[:num_top], True, axis=0)
    return top


def rank_correlations(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Returns Spearman's rho of each column of two arrays [num_clips, num_tags].

    It is 0 if the student gives all clips the same score, and NaN if the teacher does.
    """
    return np.array(
        [_rank_correlation(*pair) for pair in zip(teacher.T, student.T, strict=True)]
    )


def _rank_correlation(teacher: np.ndarray, student: np.ndarray) -> float:
    if np.ptp(teacher) == 0:
        return np.nan
    return 0.0 if np.ptp(student) == 0 else spearmanr(teacher, student).statistic
