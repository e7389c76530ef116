"""Scores the clips of a split: shards + predict function -> `metrics.Evaluation`.

A clip's score is the mean over its segments, as in every published table.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from tqdm import tqdm

from tagger import models
from tagger.data.clips import Clips, Modify, Shards, outputs_of
from tagger.evaluation import alignment
from tagger.evaluation.metrics import Evaluation
from tagger.segmentation import Segmentation, to_float
from tagger.text import TaggerError

BATCH_SIZE = 32
EPSILON = 1e-7  # Keras clips scores to this distance from 0 and 1

Predict = Callable[[np.ndarray], np.ndarray]


def evaluate(
    predict: Predict,
    shards: Shards,
    info: models.ModelInfo,
    split: str = "test",
    batch_size: int = BATCH_SIZE,
    modify: Modify | None = None,
    tag_map: Mapping[str, str] | None = None,
    clips: Clips | None = None,
) -> Evaluation:
    """Scores every clip of a split.

    Args:
        predict: Function from segments as the shards store them [batch, num_samples] to
            scores [batch, num_tags]; `predictor` makes one from a model.
        shards: Shards that contain the split.
        info: Metadata of the model behind `predict`.
        split: "train", "val" or "test".
        batch_size: Segments per call of `predict`.
        modify: Function that changes each clip's waveform before it is cut.
        tag_map: Name of a tag in the data -> its name in the model.
        clips: Clips to score instead of those of the split.

    Raises:
        ValueError: the sample rates differ, the model and data have no tag in common,
            or the split has no clips.
        records.CorruptShardError: a record is damaged; the message names it.
    """
    alignment.check_rate(info, shards)
    tags = alignment.common_tags(info, shards, tag_map)

    def scores_and_logs(segments):
        scores = np.asarray(predict(segments))[:, tags.model_columns]
        bounded = np.clip(scores, EPSILON, 1 - EPSILON)
        return [scores, np.log(bounded), np.log1p(-bounded)]

    if clips is None:
        clips = shards.clips(split)
    labels = clips.labels[:, tags.data_columns]
    means = clip_means(
        scores_and_logs,
        clips,
        info.segmentation,
        batch_size,
        f"Scoring {split}",
        modify,
    )
    scores, log_scores, log_others = map(np.stack, zip(*means, strict=True))
    return Evaluation(
        dataset=shards.manifest.dataset,
        split=split,
        split_rule=shards.manifest.split_rule,
        tags=tags.names,
        clip_ids=clips.ids,
        labels=labels,
        scores=scores.astype(np.float32),
        loss=float(-(labels * log_scores + (1.0 - labels) * log_others).mean()),
        columns=tuple(tags.model_columns),
        note=tags.note,
    )


def evaluate_fold(
    predict: Predict,
    shards: Shards,
    info: models.ModelInfo,
    fold: int,
    batch_size: int = BATCH_SIZE,
    tag_map: Mapping[str, str] | None = None,
) -> Evaluation:
    """Scores the clips of one fold, which may be in any split.

    Args:
        predict: See `evaluate`.
        shards: Shards built with folds.
        info: Metadata of the model behind `predict`.
        fold: Number of the fold.
        batch_size: Segments per call of `predict`.
        tag_map: See `evaluate`.

    Raises:
        ValueError: there is no such fold, or see `evaluate`.
    """
    return evaluate(
        predict, shards, info, f"fold {fold}", batch_size, None, tag_map,
        shards.fold(fold),
    )  # fmt: skip


def clip_means(
    function: Callable[[np.ndarray], list[np.ndarray]],
    clips: Clips,
    segmentation: Segmentation,
    batch_size: int,
    description: str,
    modify: Modify | None = None,
) -> Iterator[list[np.ndarray]]:
    """Applies a function to every segment of every clip and averages over each clip.

    Args:
        function: See `clips.outputs_of`.
        clips: Clips to read.
        segmentation: How clips are cut.
        batch_size: Segments per call of `function`.
        description: Label of the progress bar.
        modify: Function that changes each clip's waveform before it is cut.

    Yields:
        The mean of each array (float64), clip after clip.

    Raises:
        records.CorruptShardError: a record is damaged; the message names it.
    """
    outputs = outputs_of(function, clips, segmentation, batch_size, modify)
    bar = tqdm(outputs, description, len(clips), unit="clip", disable=None, leave=False)
    for arrays in bar:
        yield [np.mean(values, axis=0, dtype=np.float64) for values in arrays]


def predictor(model, shards: Shards) -> Predict:
    """Returns a predict function that takes segments as the shards store them.

    Args:
        model: Keras model, or engine of a graph (`inference.engines`).
        shards: Shards that hold the segments.

    Raises:
        ValueError: the records hold log-mel spectrograms of another kind, or the model
            is a graph.
    """
    if hasattr(model, "predictor"):
        if shards.manifest.features:
            raise TaggerError(
                f"{shards.directory} holds log-mel spectrograms, but a graph takes"
                " waveforms. Give a .keras file, or build without `features=`."
            )
        run = model.predictor("scores")
        return lambda segments: run(to_float(segments))
    scored = models.with_record_inputs(model, shards.dtype, shards.manifest.features)
    return scored.predict_on_batch
