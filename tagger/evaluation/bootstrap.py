"""Uncertainty of macro scores: bootstrap intervals and paired comparisons."""

import dataclasses

import numpy as np
from tqdm import tqdm

from tagger.evaluation.metrics import Evaluation


@dataclasses.dataclass(frozen=True)
class Interval:
    """A macro score, or the difference between two models' scores, with its interval.

    Attributes:
        value: Score or difference over all clips.
        low: 2.5th percentile over the resamples.
        high: 97.5th percentile over the resamples.
        p_value: Two-sided p-value of a difference: how often its sign changes by
            chance. None for a single score.
    """

    value: float
    low: float
    high: float
    p_value: float | None = None


def bootstrap(
    scored: Evaluation,
    num_resamples: int,
    other: Evaluation | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """Computes 95 % intervals of the macro scores by drawing clips with replacement.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3
    (percentile interval). Two models are compared on the same draws.

    Args:
        scored: Evaluation of a model on a split.
        num_resamples: Number of draws; 1,000 determine the interval's ends to the
            second digit.
        other: Evaluation of another model on the same clips; the intervals are then
            those of the difference scored - other.
        seed: Random seed of the draws.

    Returns:
        Intervals under the keys "roc_auc" and "pr_auc".

    Raises:
        ValueError: the two were not scored on the same clips and tags.
    """
    if other is not None and (
        scored.tags != other.tags
        or not np.array_equal(scored.clip_ids, other.clip_ids)
        or not np.array_equal(scored.labels, other.labels)
    ):
        raise ValueError(
            "The two models were not scored on the same clips and tags. Evaluate both"
            " on the same data."
        )

    def macros(clips=None):
        both = [one for one in (scored, other) if one is not None]
        if clips is not None:
            both = [one.resampled(clips) for one in both]
        values = [np.array(list(one.macro().values())) for one in both]
        return values[0] - values[1] if other is not None else values[0]

    rng = np.random.default_rng(seed)
    num_clips = len(scored.labels)
    draws = tqdm(range(num_resamples), "Resampling", unit="draw", disable=None)
    drawn = np.array([macros(rng.integers(num_clips, size=num_clips)) for _ in draws])
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    result = {}
    for n, (name, value) in enumerate(zip(scored.macro(), macros(), strict=True)):
        p_value = None
        if other is not None:
            # Adding one to both counts keeps p above 0: chance is never excluded.
            tails = [1 + int((drawn[:, n] * sign <= 0).sum()) for sign in (1, -1)]
            p_value = min(1.0, 2 * min(tails) / (num_resamples + 1))
        result[name] = Interval(float(value), float(low[n]), float(high[n]), p_value)
    return result


def describe(intervals: dict[str, Interval]) -> list[str]:
    """Returns lines such as `ROC-AUC 0.9077, 95 % interval 0.9012 to 0.9140`."""
    lines = []
    for name, interval in intervals.items():
        is_pair = interval.p_value is not None
        value = f"{interval.value:+.4f}" if is_pair else f"{interval.value:.4f}"
        ends = f"{interval.low:.4f} to {interval.high:.4f}"
        p_value = f", p = {interval.p_value:.3g}" if is_pair else ""
        title = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}[name]
        lines.append(f"{title} {value}, 95 % interval {ends}{p_value}")
    return lines
