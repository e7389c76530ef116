"""Clip scores and the numbers of the field: macro ROC-AUC and PR-AUC.

A clip's score is the mean of its segments' (every published table does so); the metrics
are scikit-learn's, because binned ones are off in the third digit.
"""

import dataclasses
import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)
from tqdm import tqdm

from tagger import datasets, models
from tagger.data import pipeline, records

BATCH_SIZE = 32
EPSILON = 1e-7  # Keras' bound for the logarithm of a score

Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of the clips of a split, and what they are worth.

    Attributes:
        dataset: Key of `datasets.DATASETS`.
        split: "train", "val" or "test".
        split_rule: How the split was made; no score means anything without it.
        tags: Tag names.
        clip_ids: str [num_clips].
        labels: uint8 0/1 [num_clips, num_tags].
        scores: float32 [num_clips, num_tags], mean over the segments of a clip.
        loss: Binary cross-entropy, mean over tags, segments and clips.
    """

    dataset: str
    split: str
    split_rule: str
    tags: tuple[str, ...]
    clip_ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    loss: float

    def per_tag(self) -> pd.DataFrame:
        """Per tag: positives, negatives, roc_auc and pr_auc.

        A tag without a positive or without a negative clip has no AUC: NaN, and it is
        left out of the macro means.
        """
        rows = []
        for tag, labels, scores in zip(
            self.tags, self.labels.T, self.scores.T, strict=True
        ):
            positives = int(labels.sum())
            negatives = len(labels) - positives
            defined = positives > 0 and negatives > 0
            rows.append(
                {
                    "tag": tag,
                    "positives": positives,
                    "negatives": negatives,
                    "roc_auc": roc_auc_score(labels, scores) if defined else np.nan,
                    "pr_auc": average_precision_score(labels, scores)
                    if defined
                    else np.nan,
                }
            )
        return pd.DataFrame(rows).set_index("tag")

    def macro(self) -> dict[str, float]:
        """Means over tags with a positive and a negative clip; NaN if none has."""
        means = self.per_tag()[["roc_auc", "pr_auc"]].mean()
        return {"roc_auc": float(means["roc_auc"]), "pr_auc": float(means["pr_auc"])}

    def macro_line(self) -> str:
        """`test macro: ROC-AUC 0.9077, PR-AUC 0.4293`."""
        macro = self.macro()
        return (
            f"{self.split} macro: ROC-AUC {macro['roc_auc']:.4f},"
            f" PR-AUC {macro['pr_auc']:.4f}"
        )

    def at_thresholds(self, thresholds: Sequence[float]) -> float:
        """Macro F1 over tags with a positive clip, calling scores from these on."""
        called = self.scores >= np.asarray(thresholds, np.float32)
        given = self.labels.any(axis=0)
        return float(
            f1_score(
                self.labels[:, given],
                called[:, given],
                average="macro",
                zero_division=0.0,
            )  # fmt: skip
        )

    def resampled(self, clips: np.ndarray) -> "Evaluation":
        """The same of other clips: indices, perhaps with repetitions."""
        return dataclasses.replace(
            self,
            clip_ids=self.clip_ids[clips],
            labels=self.labels[clips],
            scores=self.scores[clips],
        )

    def as_json(self) -> str:
        """All but the clips' scores, as one line of JSON (undefined AUCs are null)."""
        per_tag = self.per_tag()
        content = {
            "dataset": self.dataset,
            "split": self.split,
            "split_rule": self.split_rule,
            "num_clips": len(self.labels),
            "loss": self.loss,
            **self.macro(),
            "left_out": list(per_tag.index[per_tag["roc_auc"].isna()]),
            "tags": per_tag.to_dict("index"),
        }
        return json.dumps(_null_for_nan(content), allow_nan=False)

    def report(self) -> str:
        """The table per tag, headed; below it the tags left out of the means."""
        per_tag = self.per_tag()
        table = per_tag[["positives", "roc_auc", "pr_auc"]].to_string(
            header=["clips", "ROC-AUC", "PR-AUC"],
            float_format="{:.4f}".format,
            na_rep="–",
            index_names=False,
        )
        lines = [
            f"{self.dataset}, {self.split} split ({self.split_rule}):"
            f" {len(self.labels)} clips",
            table,
        ]
        left_out = list(per_tag.index[per_tag["roc_auc"].isna()])
        if left_out:
            lines.append(
                f"Left out of the means, having no positive or no negative clip:"
                f" {', '.join(left_out)}"
            )
        return "\n".join(lines)


def evaluate(
    predict: Predict,
    shards: pipeline.Shards,
    info: models.ModelInfo,
    split: str = "test",
    batch_size: int = BATCH_SIZE,
    modify: pipeline.Modify | None = None,
) -> Evaluation:
    """Scores every clip of a split.

    Args:
        predict: Segments as the shards hold them [batch, num_samples] -> scores [batch,
            num_tags]; `predictor` makes one of a model.
        shards: The data.
        info: Window and tags of the model behind `predict`.
        split: "train", "val" or "test".
        batch_size: Segments per call of `predict`.
        modify: Changes every clip's waveform before it is cut.

    Raises:
        ValueError: model and data disagree (see `check_match`), or the split has no
        clip. records.CorruptShardError: naming the shard and the record.
    """
    check_match(info, shards)

    def scores_and_logs(segments):
        scores = np.asarray(predict(segments))
        bounded = np.clip(scores, EPSILON, 1 - EPSILON)
        return [scores, np.log(bounded), np.log1p(-bounded)]

    clips = list(
        clip_means(
            scores_and_logs,
            shards,
            split,
            info.window,
            batch_size,
            f"Scoring {split}",
            modify,
        )
    )
    clip_ids, labels, means = zip(*clips, strict=True)
    labels = np.stack(labels)
    scores, log_scores, log_others = map(np.stack, zip(*means, strict=True))
    return Evaluation(
        dataset=shards.manifest.dataset,
        split=split,
        split_rule=shards.manifest.split_rule,
        tags=tag_names(info, shards),
        clip_ids=np.array(clip_ids),
        labels=labels,
        scores=scores.astype(np.float32),
        loss=float(-np.where(labels == 1, log_scores, log_others).mean()),
    )


def clip_means(
    function: Callable[[np.ndarray], list[np.ndarray]],
    shards: pipeline.Shards,
    split: str,
    window: records.Window,
    batch_size: int,
    description: str,
    modify: pipeline.Modify | None = None,
) -> Iterator[tuple[str, np.ndarray, list[np.ndarray]]]:
    """Applies a function to every segment of a split and averages over each clip.

    Args:
        function: Segments as the shards hold them [batch, num_samples] -> arrays whose
            first axis is the batch.
        shards: The data.
        split: "train", "val" or "test".
        window: How clips are cut.
        batch_size: Segments per call.
        description: Of the progress bar.
        modify: Changes every clip's waveform before it is cut.

    Yields:
        Clip id, labels uint8 [num_tags], and the mean of each array, float64.

    Raises:
        records.CorruptShardError: naming the shard and the record.
    """
    segments = pipeline.evaluation_segments(shards, split, window, batch_size, modify)
    rows = (
        (int(index), clip_id.decode(), labels, outputs)
        for batch in _batches(segments, shards)
        for index, clip_id, labels, *outputs in zip(
            batch["clip_index"],
            batch["clip_id"],
            batch["labels"],
            *map(np.asarray, function(batch["segments"])),
            strict=True,
        )
    )
    # The segments of a clip follow one another.
    for index, clip in tqdm(
        itertools.groupby(rows, key=lambda row: row[0]),
        description,
        total=shards.manifest.num_clips(split),
        unit="clip",
        disable=None,
    ):
        _, clip_ids, labels, outputs = zip(*clip, strict=True)
        means = [
            np.mean(values, axis=0, dtype=np.float64)
            for values in zip(*outputs, strict=True)
        ]
        yield clip_ids[0] or str(index), labels[0], means


def _batches(segments, shards: pipeline.Shards) -> Iterator[dict]:
    with pipeline.naming_corrupt_records(shards):
        yield from segments.as_numpy_iterator()


@dataclasses.dataclass(frozen=True)
class Interval:
    """A macro score, or the difference of two models', with its uncertainty.

    Attributes:
        value: Of all clips.
        low: 2.5th percentile over the resamples.
        high: 97.5th percentile.
        p_value: Of a difference: how often chance alone would turn its sign, two-sided.
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
    """95 % intervals of the macro scores over clips drawn with replacement.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3
    (percentile interval). Of a pair the same clips are drawn for both models.

    Args:
        scored: A model on a split.
        num_resamples: 1,000 settle the second digit of an interval's ends.
        other: Another model on the same clips: the differences scored - other.
        seed: Of the drawing.

    Returns:
        "roc_auc" and "pr_auc" -> interval.

    Raises:
        ValueError: the two were not scored on the same clips and tags.
    """
    if other is not None and (
        scored.tags != other.tags
        or not np.array_equal(scored.clip_ids, other.clip_ids)
        or not np.array_equal(scored.labels, other.labels)
    ):
        raise ValueError("The two models were not scored on the same clips and tags.")

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
            # One is added to both: never 0, as chance could always do it.
            tails = [1 + int((drawn[:, n] * sign <= 0).sum()) for sign in (1, -1)]
            p_value = min(1.0, 2 * min(tails) / (num_resamples + 1))
        result[name] = Interval(float(value), float(low[n]), float(high[n]), p_value)
    return result


def describe(intervals: dict[str, Interval]) -> list[str]:
    """`ROC-AUC 0.9077, 95 % interval 0.9012 to 0.9140` and so on, a line each."""
    lines = []
    for name, interval in intervals.items():
        is_pair = interval.p_value is not None
        value = f"{interval.value:+.4f}" if is_pair else f"{interval.value:.4f}"
        ends = f"{interval.low:.4f} to {interval.high:.4f}"
        p_value = f", p = {interval.p_value:.3g}" if is_pair else ""
        title = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}[name]
        lines.append(f"{title} {value}, 95 % interval {ends}{p_value}")
    return lines


def published_on(dataset: str) -> list[tuple]:
    """Model, options, ROC-AUC, PR-AUC and source of what was published on a dataset.

    Raises:
        ValueError: nothing was.
    """
    rows = [
        (model, str(row.options or ""), row.roc_auc, row.pr_auc, row.source)
        for model, entry in models.MODELS.items()
        for row in entry.published
        if row.dataset == dataset
    ]
    if not rows:
        known = {row.dataset for e in models.MODELS.values() for row in e.published}
        raise ValueError(
            f"Nothing was published on {dataset}, only on {', '.join(sorted(known))}."
        )
    return rows


def compare_published(scored: Evaluation, name: str) -> str:
    """Published scores on this dataset, best first, and this model's among them."""
    rows = published_on(scored.dataset)
    macro = scored.macro()
    ours = f"this model, {scored.split} split"
    rows.append((name, "", macro["roc_auc"], macro["pr_auc"], ours))
    rows.sort(key=lambda row: -row[2])
    table = pd.DataFrame(rows, columns=["model", "options", "ROC-AUC", "PR-AUC", "of"])
    lines = table.to_string(index=False, float_format="{:.4f}".format, na_rep="–")
    return (
        f"{lines}\nThis model's split: {scored.dataset}, {scored.split_rule}. The"
        " published ones differ in clips, above all in whether untagged clips count:"
        " compare PR-AUC with care."
    )


def best_thresholds(scored: Evaluation) -> list[float]:
    """The score per tag from which calling it has the highest F1 on these clips.

    A tag without a positive clip gets 1: it is never called.
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


def predictor(model, shards: pipeline.Shards) -> Predict:
    """Makes a predict function of a model for segments as the shards hold them."""
    fed = models.fed_with(model, shards.dtype, shards.manifest.features)
    return fed.predict_on_batch


def tag_names(info: models.ModelInfo, shards: pipeline.Shards) -> tuple[str, ...]:
    """Names of a model's scores: the shards', or the model's where shards hold none."""
    if info.tags is None and shards.names_tags:
        warnings.warn(
            f"Model {info.name} holds no tag names; names and order are those of"
            f" {shards.directory / records.MANIFEST_NAME}.",
            stacklevel=2,
        )
    return shards.manifest.tags if shards.names_tags or not info.tags else info.tags


def check_match(info: models.ModelInfo, shards: pipeline.Shards) -> None:
    """Refuses shards whose rate or tags are not the model's.

    Raises:
        ValueError: naming what differs and what to do.
    """
    manifest = shards.manifest
    if info.sample_rate != manifest.sample_rate:
        raise ValueError(
            f"Model {info.name} expects {info.sample_rate} Hz but {shards.directory}"
            f" holds {manifest.sample_rate} Hz records. Build once more, into a folder"
            f" of its own: {datasets.DATASETS[manifest.dataset].command} --sample-rate"
            f" {info.sample_rate} --output-dir DIR; then give --data-dir DIR."
        )
    if info.num_tags != len(manifest.tags):
        raise ValueError(
            f"Model {info.name} scores {info.num_tags} tags but {shards.directory}"
            f" holds {len(manifest.tags)}. Rebuild with --num-tags {info.num_tags}."
        )
    named = info.tags is not None and shards.names_tags
    if named and info.tags != manifest.tags:
        first = next(
            i for i in range(info.num_tags) if info.tags[i] != manifest.tags[i]
        )
        same = set(info.tags) == set(manifest.tags)
        raise ValueError(
            f"Model and {shards.directory} disagree on the tags: number {first + 1} is"
            f" {info.tags[first]!r} in the model and {manifest.tags[first]!r} in the"
            f" shards ({'the same tags in another order' if same else 'other tags'})."
            " Rebuild the shards the model was trained on."
        )


def _null_for_nan(content):
    if isinstance(content, dict):
        return {key: _null_for_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and np.isnan(content) else content
