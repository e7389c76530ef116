"""Metrics of music tagging: macro ROC-AUC, PR-AUC and F1, and decision thresholds.

We use scikit-learn's metrics, because binned ones are wrong in the third digit.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)

from tagger.evaluation import agreement

METRICS = ("roc_auc", "pr_auc")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of a split's clips.

    Attributes:
        dataset: Key of `datasets.DATASETS`.
        split: "train", "val" or "test".
        split_rule: How the split was made; scores are meaningless without it.
        tags: Tag names.
        clip_ids: str [num_clips].
        labels: 0/1 [num_clips, num_tags].
        scores: float32 [num_clips, num_tags], mean over the segments of a clip.
        loss: Binary cross-entropy, mean over tags, segments and clips.
        columns: Column of each tag in the model's scores; None means the same order.
        note: Which tags were left out or reordered; empty if none were.
        folds: int [num_clips]; scores of different folds are not compared, because they
            come from different models. An AUC is then the mean over the folds, weighted
            by their positive clips (Forman and Scholz, SIGKDD Explorations 12, 2010,
            section 2: pooling scores makes AUCs too low). None compares all clips.
        teacher_scores: Scores of a teacher [num_clips, num_tags] if the labels are its
            highest scores, see `agreement`; None: the labels are those of the data.
    """

    dataset: str
    split: str
    split_rule: str
    tags: tuple[str, ...]
    clip_ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    loss: float
    columns: tuple[int, ...] | None = None
    note: str = ""
    folds: np.ndarray | None = None
    teacher_scores: np.ndarray | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Columns of `per_tag` that have a macro mean."""
        return METRICS if self.teacher_scores is None else agreement.METRICS

    @property
    def reason_undefined(self) -> str:
        """Why no tag has a metric, if none has."""
        if self.teacher_scores is not None:
            return f"the teacher scores all clips of the {self.split} split alike"
        return (
            "no tag has both clips with it and clips without it in the"
            f" {self.split} split"
        )


def per_tag(scored: Evaluation) -> pd.DataFrame:
    """Returns positives, negatives, roc_auc and pr_auc of each tag, and rho.

    A tag without a positive or without a negative clip has no AUC: it gets NaN, and
    the macro means exclude it. Rho, the rank correlation with a teacher, is NaN if
    the teacher gives all clips the same score.
    """
    rows = []
    for tag, labels, scores in zip(
        scored.tags, scored.labels.T, scored.scores.T, strict=True
    ):
        positives = int(labels.sum())
        roc_auc, pr_auc = _aucs(scored, labels, scores)
        rows.append(
            {
                "tag": tag,
                "positives": positives,
                "negatives": len(labels) - positives,
                "roc_auc": roc_auc,
                "pr_auc": pr_auc,
            }
        )
    names = ["tag", "positives", "negatives", "roc_auc", "pr_auc"]
    table = pd.DataFrame(rows, columns=names).set_index("tag")
    if scored.teacher_scores is None:
        return table
    rho = agreement.rank_correlations(scored.teacher_scores, scored.scores)
    return table.assign(rho=rho)


def _aucs(scored: Evaluation, labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns ROC-AUC and PR-AUC of one tag [2], the mean over the folds."""
    aucs, weights = [], []
    for clips in clips_of_folds(scored):
        given = labels[clips]
        if given.any() and not given.all():
            pair = (roc_auc_score, average_precision_score)
            aucs.append([metric(given, scores[clips]) for metric in pair])
            weights.append(given.sum())
    return np.average(aucs, 0, weights) if aucs else np.full(2, np.nan)


def clips_of_folds(scored: Evaluation) -> list[np.ndarray]:
    """Returns the numbers of the clips of each fold; all clips without folds."""
    if scored.folds is None:
        return [np.arange(len(scored.labels))]
    return [np.flatnonzero(scored.folds == fold) for fold in np.unique(scored.folds)]


def macro(scored: Evaluation) -> dict[str, float]:
    """Returns the mean of each metric over the tags that have it, or else NaN."""
    means = per_tag(scored)[list(scored.metrics)].mean()
    return {name: float(means[name]) for name in scored.metrics}


def macro_line(scored: Evaluation) -> str:
    """Returns a line such as `test macro: ROC-AUC 0.9077, PR-AUC 0.4293`."""
    means = macro(scored)
    if scored.teacher_scores is not None:
        return (
            f"{scored.split}, agreement with the teacher: rho {means['rho']:.4f},"
            f" ROC-AUC {means['roc_auc']:.4f}"
        )
    return (
        f"{scored.split} macro: ROC-AUC {means['roc_auc']:.4f},"
        f" PR-AUC {means['pr_auc']:.4f}"
    )


def macro_f1(scored: Evaluation, thresholds: Sequence[float]) -> float:
    """Returns the macro F1 over tags with a positive clip.

    Args:
        scored: Scores and labels.
        thresholds: Decision threshold of each score of the model.
    """
    columns = slice(None) if scored.columns is None else list(scored.columns)
    called = scored.scores >= np.asarray(thresholds, np.float32)[columns]
    given = scored.labels.any(axis=0)
    return float(
        f1_score(
            scored.labels[:, given],
            called[:, given],
            average="macro",
            zero_division=0.0,
        )  # fmt: skip
    )


def as_json(scored: Evaluation, more: pd.DataFrame | None = None) -> str:
    """Returns everything except the clips' scores as one line of JSON.

    Undefined AUCs are null.

    Args:
        scored: Scores and labels.
        more: Further columns by tag, such as those of `reliability.per_tag`; the means
            over the tags are added, too.
    """
    table = per_tag(scored)
    more = table[[]] if more is None else more
    content = {
        "dataset": scored.dataset,
        "split": scored.split,
        "split_rule": scored.split_rule,
        "num_clips": len(scored.labels),
        "loss": scored.loss,
        **macro(scored),
        **{name: float(value) for name, value in more.mean().items()},
        "left_out": list(table.index[table["roc_auc"].isna()]),
        "tags": table.join(more).to_dict("index"),
    }
    return json.dumps(_null_for_nan(content), allow_nan=False)


def report(scored: Evaluation) -> str:
    """Returns the table of tags, best first, and those left out of the means."""
    table = per_tag(scored).sort_values("roc_auc", ascending=False)
    text = table[["positives", "roc_auc", "pr_auc"]].to_string(
        header=["clips", "ROC-AUC", "PR-AUC"],
        float_format="{:.4f}".format,
        na_rep="–",
        index_names=False,
    )
    lines = [
        f"{scored.dataset}, {scored.split} split ({scored.split_rule}):"
        f" {len(scored.labels)} clips",
        *([scored.note] if scored.note else []),
        text,
    ]
    left_out = list(table.index[table["roc_auc"].isna()])
    if left_out:
        lines.append(
            "Left out of the means because they have no positive or no negative"
            f" clip: {', '.join(left_out)}"
        )
    return "\n".join(lines)


def with_teacher(scored: Evaluation) -> Evaluation:
    """Returns the agreement from an evaluation on a teacher's scores as labels."""
    teacher_scores = np.asarray(scored.labels)
    labels = agreement.top_clips(teacher_scores).astype(np.uint8)
    return dataclasses.replace(scored, labels=labels, teacher_scores=teacher_scores)


def best_thresholds(scored: Evaluation) -> list[float]:
    """Returns the decision threshold of each tag that maximises its F1.

    A tag without a positive clip gets 1, so that it is never predicted.
    """
    thresholds = []
    for labels, scores in zip(scored.labels.T, scored.scores.T, strict=True):
        if not labels.any():
            thresholds.append(1.0)
            continue
        precision, recall, candidates = precision_recall_curve(labels, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        thresholds.append(float(candidates[np.argmax(f1[:-1])]))
    return thresholds


def _null_for_nan(content):
    if isinstance(content, dict):
        return {key: _null_for_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and np.isnan(content) else content
