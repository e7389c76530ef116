"""Thresholds that a given number of clips reach, which takes no labels.

scores [num_clips, num_tags], number of clips per tag -> threshold per tag
"""

import numpy as np


def thresholds_reached_by(scores: np.ndarray, counts: np.ndarray) -> list[float]:
    """Returns thresholds such that a given number of clips reach each of them.

    It lies in the middle of two scores, so that rounding does not move a clip across.

    Args:
        scores: float [num_clips, num_tags].
        counts: int [num_tags], from 1 to num_clips.
    """
    ranked = -np.sort(-scores, axis=0).astype(np.float64)
    ranked = np.concatenate([ranked, 0 * ranked[:1]])
    middles = (ranked[:-1] + ranked[1:]) / 2
    return [float(middles[count - 1, tag]) for tag, count in enumerate(counts)]
