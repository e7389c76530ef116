"""Whether scores can be read as probabilities: of clips with a score of .3, .3 have it.

Brier, Monthly Weather Review 78, 1950 (the score); Guo et al., ICML 2017, section 2
(expected calibration error and reliability diagram); both are means over the tags.
"""

import numpy as np
import pandas as pd

from tagger.evaluation.metrics import Evaluation

NUM_BINS = 10


def per_tag(scored: Evaluation) -> pd.DataFrame:
    """Returns the columns brier and ece (expected calibration error) by tag.

    Both are 0 for scores that are always right; lower is better. They are defined for
    every tag, also without positive clips.
    """
    errors = (scored.scores - scored.labels) ** 2
    gaps = [
        (abs(bins["score"] - bins["share"]) * bins["clips"]).sum() / len(scored.labels)
        for bins in map(_bins, scored.labels.T, scored.scores.T)
    ]
    columns = {"brier": errors.mean(axis=0), "ece": gaps}
    return pd.DataFrame(columns, index=list(scored.tags), dtype=float)


def curve(scored: Evaluation) -> pd.DataFrame:
    """Returns the reliability of all tags together, a row per NUM_BINS-th of [0, 1].

    Returns:
        Columns score (mean), share of positives, and clips (number of scores); bins
        without a score are left out.
    """
    return _bins(scored.labels.ravel(), scored.scores.ravel())


def _bins(labels: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    numbers = np.minimum((scores * NUM_BINS).astype(int), NUM_BINS - 1)
    table = pd.DataFrame({"score": scores, "share": labels, "bin": numbers})
    found = table.groupby("bin").agg(
        score=("score", "mean"), share=("share", "mean"), clips=("score", "size")
    )
    return found.astype({"score": float, "share": float})


def describe(errors: pd.DataFrame) -> str:
    """Returns the means of what `per_tag` returned as a line."""
    means = errors.mean()
    return (
        f"Brier score {means['brier']:.4f}, expected calibration error"
        f" {means['ece']:.4f} (means over the tags)"
    )
