"""Uncertainty of scores: bootstrap intervals and paired comparisons.

A resample draws clips with replacement, so it is a weight per clip: the number of times
it was drawn. `resampled_aucs` computes the AUCs of all resamples at once, where
scikit-learn would sort the scores anew for each of them.
"""

import dataclasses
import warnings

import numpy as np
import pandas as pd
from scipy.stats import norm
from tqdm import tqdm

from tagger.evaluation import metrics
from tagger.evaluation.metrics import Evaluation
from tagger.text import TaggerError

RESAMPLES_AT_ONCE = 100  # bounds the memory
AUCS = ("roc_auc", "pr_auc")
MIN_CLIPS = 10  # with a tag, and without it, for a p-value of the tag


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
    (percentile interval), without the bias of section 10.2. Two models are compared on
    the same draws.

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
    if num_resamples < 1:
        raise TaggerError(f"There must be at least 1 resample, not {num_resamples}.")
    if other is not None:
        _check_pair(scored, other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no tag has an AUC
        drawn = np.nanmean(_drawn(scored, num_resamples, seed), axis=1)
        values = _aucs(scored)
        if other is not None:
            drawn -= np.nanmean(_drawn(other, num_resamples, seed), axis=1)
            values -= _aucs(other)
        drawn = _without_bias(drawn, values)
        low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    if other is None:
        low, high = np.clip([low, high], 0, 1)
    result = {}
    for n, (name, value) in enumerate(zip(AUCS, values, strict=True)):
        p_value = None
        if other is not None:
            # Adding one to both counts keeps p above 0: chance is never excluded.
            tails = [1 + int((drawn[:, n] * sign <= 0).sum()) for sign in (1, -1)]
            p_value = min(1.0, 2 * min(tails) / (num_resamples + 1))
        result[name] = Interval(float(value), float(low[n]), float(high[n]), p_value)
    return result


def _check_pair(scored: Evaluation, other: Evaluation) -> None:
    if (
        scored.tags != other.tags
        or not np.array_equal(scored.clip_ids, other.clip_ids)
        or not np.array_equal(scored.labels, other.labels)
    ):
        raise TaggerError(
            "The two models were not scored on the same clips and tags. Evaluate both"
            " on the same data."
        )


def differences_per_tag(
    scored: Evaluation, other: Evaluation, num_resamples: int, seed: int = 0
) -> pd.DataFrame:
    """Compares the ROC-AUC of each tag of two models on the same draws of clips.

    The p-values are those of a normal distribution with the spread of the resamples:
    counting resamples shows no p-value below 2 / (N + 1), which a correction over 50
    tags would take for chance. Holm, Scandinavian Journal of Statistics 6, 1979.

    Args:
        scored: Evaluation of a model on a split.
        other: Evaluation of another model on the same clips.
        num_resamples: Number of draws.
        seed: Random seed of the draws.

    Returns:
        Columns difference (scored - other), p, and p_holm, corrected for the number of
        tags, by tag; the smallest p first. Tags with fewer than MIN_CLIPS clips with or
        without them are left out: their spread is not seen in resamples.

    Raises:
        ValueError: the two were not scored on the same clips and tags.
    """
    _check_pair(scored, other)
    aucs = [metrics.per_tag(one)["roc_auc"] for one in (scored, other)]
    drawn = [_drawn(one, num_resamples, seed)[:, :, 0] for one in (scored, other)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a tag without an AUC
        spread = np.nanstd(drawn[0] - drawn[1], axis=0)
    difference = aucs[0] - aucs[1]
    p_values = 2 * norm.sf(abs(difference) / np.maximum(spread, 1e-12))
    table = pd.DataFrame({"difference": difference, "p": p_values})
    num_positives = scored.labels.sum(axis=0)
    num_others = len(scored.labels) - num_positives
    table = table[np.minimum(num_positives, num_others) >= MIN_CLIPS]
    table = table.dropna().sort_values("p", kind="stable")
    factors = np.arange(len(table), 0, -1)
    table["p_holm"] = np.minimum(np.maximum.accumulate(table["p"] * factors), 1)
    return table


def describe_tags(differences: pd.DataFrame, level: float = 0.05) -> str:
    """Returns a sentence on the tags that differ, from `differences_per_tag`."""
    found = differences[differences["p_holm"] < level]
    corrected = (
        f"(Holm's correction over the {len(differences)} tags with {MIN_CLIPS} clips)"
    )
    if found.empty:
        return f"No tag's ROC-AUC differs {corrected}."
    named = ", ".join(
        f"{tag} {row.difference:+.4f} (p = {row.p_holm:.2g})"
        for tag, row in found.iterrows()
    )
    return f"Tags whose ROC-AUC differs {corrected}: {named}"


def _aucs(scored: Evaluation) -> np.ndarray:
    macro = metrics.macro(scored)
    return np.array([macro[name] for name in AUCS])


def intervals_per_tag(
    scored: Evaluation, num_resamples: int, seed: int = 0
) -> pd.DataFrame:
    """Computes the 95 % intervals of each tag's scores by drawing clips.

    Args:
        scored: Evaluation of a model on a split.
        num_resamples: Number of draws.
        seed: Random seed of the draws.

    Returns:
        Columns roc_auc_low, roc_auc_high, pr_auc_low and pr_auc_high by tag. Draws
        without a positive or without a negative clip of a tag do not count.
    """
    names = [f"{auc}_{end}" for auc in AUCS for end in ("low", "high")]
    if not scored.tags:
        return pd.DataFrame(columns=names, dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a tag without an AUC
        values = metrics.per_tag(scored)[list(AUCS)].to_numpy()
        drawn = _without_bias(_drawn(scored, num_resamples, seed), values)
        ends = np.clip(np.nanpercentile(drawn, [2.5, 97.5], axis=0), 0, 1)
    columns = ends.transpose(1, 2, 0).reshape(len(scored.tags), -1)
    return pd.DataFrame(columns, index=list(scored.tags), columns=names)


def _drawn(scored: Evaluation, num_resamples: int, seed: int) -> np.ndarray:
    """Returns ROC-AUC and PR-AUC [num_resamples, num_tags, 2] of resampled clips."""
    rng = np.random.default_rng(seed)
    num_clips, done, folds = len(scored.labels), [], metrics.clips_of_folds(scored)
    starts = range(0, num_resamples, RESAMPLES_AT_ONCE)
    for start in tqdm(starts, "Resampling", delay=2, disable=None):
        number = min(RESAMPLES_AT_ONCE, num_resamples - start)
        weights = np.array(
            [
                np.bincount(rng.integers(num_clips, size=num_clips), None, num_clips)
                for _ in range(number)
            ]
        )
        columns = zip(scored.labels.T, scored.scores.T, strict=True)
        done.append(
            np.stack([_mean_over_folds(*one, weights, folds) for one in columns], 1)
        )
    return np.concatenate(done)


def _without_bias(drawn: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Shifts draws so that their mean is the score of all clips.

    A resample holds some clips twice, next to each other in the ranking. That raises
    the PR-AUC of every draw, most of all with few positive clips.
    """
    return drawn - np.nanmean(drawn, axis=0) + values


def _mean_over_folds(
    labels: np.ndarray,
    scores: np.ndarray,
    weights: np.ndarray,
    folds: list[np.ndarray],
) -> np.ndarray:
    """Returns the means of `resampled_aucs` over folds, weighted by positive clips."""
    sums, num_positives = 0, 0
    for clips in folds:
        aucs = resampled_aucs(labels[clips], scores[clips], weights[:, clips])
        positives = (weights[:, clips] @ labels[clips].astype(np.int64))[:, None]
        positives = np.where(np.isnan(aucs[:, :1]), 0, positives)
        sums = sums + np.where(positives > 0, aucs, 0) * positives
        num_positives = num_positives + positives
    with np.errstate(invalid="ignore"):
        return sums / num_positives


def resampled_aucs(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Computes the ROC-AUC and the PR-AUC of one tag for many weightings of the clips.

    They equal scikit-learn's `roc_auc_score` and `average_precision_score`.

    Args:
        labels: 0/1 [num_clips].
        scores: float [num_clips].
        weights: Weight of each clip in each resample [num_resamples, num_clips].

    Returns:
        float64 [num_resamples, 2]; NaN where no positive or no negative clip has a
        weight.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # Clips with equal scores pass a threshold together.
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    weights = weights[:, order].astype(np.float64)
    positives = np.add.reduceat(weights * labels[order], starts, axis=1)
    negatives = np.add.reduceat(weights * (1 - labels[order]), starts, axis=1)
    above, others_above = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    num_positives, num_negatives = above[:, -1], others_above[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        # Negatives at a threshold are below the positives above it; ties count half.
        wins = (negatives * (above - positives / 2)).sum(axis=1)
        precision = np.where(above > 0, above / (above + others_above), 0)
        roc_auc = wins / (num_positives * num_negatives)
        pr_auc = (precision * positives).sum(axis=1) / num_positives
    undefined = (num_positives == 0) | (num_negatives == 0)
    return np.where(undefined[:, None], np.nan, np.stack([roc_auc, pr_auc], axis=1))


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
