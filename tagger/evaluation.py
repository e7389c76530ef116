"""Clip scores and the numbers of the field: macro ROC-AUC and PR-AUC.

A clip's score is the mean of its segments' (every published table does so); the metrics
are scikit-learn's, because binned ones are off in the third digit.
"""

import dataclasses
import itertools
import json
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
)
from tqdm import tqdm

from tagger import datasets, inputs, models, records

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
    shards: inputs.Shards,
    info: models.ModelInfo,
    split: str = "test",
    batch_size: int = BATCH_SIZE,
) -> Evaluation:
    """Scores every clip of a split.

    Args:
        predict: Segments as the shards hold them [batch, num_samples] -> scores [batch,
            num_tags]; `predictor` makes one of a model.
        shards: The data.
        info: Window and tags of the model behind `predict`.
        split: "train", "val" or "test".
        batch_size: Segments per call of `predict`.

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
    shards: inputs.Shards,
    split: str,
    window: records.Window,
    batch_size: int,
    description: str,
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

    Yields:
        Clip id, labels uint8 [num_tags], and the mean of each array, float64.

    Raises:
        records.CorruptShardError: naming the shard and the record.
    """
    segments = inputs.evaluation_segments(shards, split, window, batch_size)
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


def _batches(segments, shards: inputs.Shards) -> Iterator[dict]:
    with inputs.naming_corrupt_records(shards):
        yield from segments.as_numpy_iterator()


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


def predictor(model, shards: inputs.Shards) -> Predict:
    """Makes a predict function of a model for segments as the shards hold them."""
    fed = models.fed_with(model, shards.dtype, shards.manifest.features)
    return fed.predict_on_batch


def tag_names(info: models.ModelInfo, shards: inputs.Shards) -> tuple[str, ...]:
    """Names of a model's scores: the shards', or the model's where shards hold none."""
    if info.tags is None and shards.names_tags:
        warnings.warn(
            f"Model {info.name} holds no tag names; names and order are those of"
            f" {shards.directory / records.MANIFEST_NAME}.",
            stacklevel=2,
        )
    return shards.manifest.tags if shards.names_tags or not info.tags else info.tags


def check_match(info: models.ModelInfo, shards: inputs.Shards) -> None:
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
