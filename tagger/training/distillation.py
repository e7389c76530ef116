"""Distillation: a student learns a teacher's scores of music that needs no labels.

Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531. The teacher scores each
segment once, unchanged; the student may hear it augmented. The val split measures
agreement with the teacher.

shards ─▶ teacher_scores ─▶ ScoredShards ─▶ trainer.train
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tagger import models, storage
from tagger.data import pipeline, records
from tagger.evaluation import scoring
from tagger.evaluation.agreement import Agreement
from tagger.training import teacher_scores, trainer
from tagger.training.recipes import TrainingRecipe
from tagger.training.teacher_scores import ABOUT_NAME, ScoredShards, Stored
from tagger.weights import conversion

EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class DistillationOptions:
    """What a student learns from its teacher.

    Attributes:
        temperature: Factor by which the logits of both are divided in the loss. Above
            1, differences between low scores count more.
        embedding_weight: Weight of `similarity_loss` beside the loss of the scores.
        balances_tags: Whether tags count by `tag_weights`; otherwise those whose scores
            vary most teach most.
        scores_dir: Folder for the teacher's scores, which several runs can share; None:
            the folder of the run.

    Raises:
        ValueError: a number is out of range.
    """

    temperature: float = 1.0
    embedding_weight: float = 0.0
    balances_tags: bool = False
    scores_dir: str | os.PathLike | None = None

    def __post_init__(self):
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"--temperature must be above 0, not {self.temperature}.")
        if not 0 <= self.embedding_weight < math.inf:
            raise ValueError(
                f"--embedding-weight must be at least 0, not {self.embedding_weight}."
            )


class DistilledShards(ScoredShards):
    """Shards whose labels are a teacher's scores.

    A clip's labels are the mean scores [num_tags]; those of a segment are its scores,
    followed by the teacher's embedding if it is stored.
    """

    @classmethod
    def of(
        cls, shards: pipeline.Shards, scores_dir: Path, tags: tuple[str, ...]
    ) -> "DistilledShards":
        """Returns the shards, labelled with the scores in a folder.

        Args:
            shards: Shards, with or without labels.
            scores_dir: Folder of the scores.
            tags: The teacher's tags.
        """
        num_outputs = _num_outputs(scores_dir)

        def parse(pair):
            outputs = tf.io.decode_raw(pair[1], tf.float32)
            outputs = tf.reshape(outputs, [-1, num_outputs])
            means = tf.reduce_mean(outputs[:, : len(tags)], axis=0)
            return shards.parse(pair[0]) | {"scores": outputs, "labels": means}

        fields = vars(with_tags(shards, tags)) | {"parse": parse}
        return cls(**fields, scores_dir=scores_dir, unscored=shards)

    def labels_of(self, clip: dict[str, tf.Tensor], num_segments) -> tf.Tensor:
        """Returns the teacher's outputs float32 [num_segments, num_outputs]."""
        return tf.ensure_shape(clip["scores"], [None, None])

    def scores(self, split: str) -> Iterator[np.ndarray]:
        """Yields a clip's scores by the teacher, float32 [num_segments, num_tags]."""
        num_outputs = _num_outputs(self.scores_dir)
        for path in self.paths(split):
            for clip in records.read_shard(self.scores_dir / Path(path).name):
                outputs = np.frombuffer(clip, "<f4").reshape(-1, num_outputs)
                yield outputs[:, : len(self.manifest.tags)]


def _num_outputs(scores_dir: Path) -> int:
    """Returns the number of scores of a segment and channels of its embedding."""
    return json.loads((scores_dir / ABOUT_NAME).read_text())["num_outputs"]


@dataclasses.dataclass(frozen=True)
class DistillationTask(trainer.SupervisedTask):
    """Learns a teacher's scores.

    Attributes:
        shards: A `DistilledShards` with a train and a val split.
        teacher: Path of the teacher.
        options: What the student learns.
        weights: Weight of each tag in the loss; None: all count alike.
    """

    METRICS = Agreement.METRICS

    teacher: str | os.PathLike = ""
    options: DistillationOptions = DistillationOptions()
    weights: tuple[float, ...] | None = None

    @property
    def sources(self) -> tuple[pipeline.Shards, ...]:
        """All data that the task reads."""
        return (self.shards.stored,)

    def training_model(self, model: keras.Model, recipe: TrainingRecipe) -> keras.Model:
        """Returns a model that takes a batch and shares the layers of `model`.

        Its output is the scores, followed by the embedding if that is learned.
        """
        if not self.options.embedding_weight:
            return super().training_model(model, recipe)
        both = models.with_embedding(model)
        joined = ops.concatenate(both.outputs, axis=-1)
        joined = keras.Model(both.input, joined, name=model.name)
        return super().training_model(joined, recipe)

    def loss(self, labels, outputs):
        """Returns the loss of each example, [batch]."""
        num_tags = len(self.shards.manifest.tags)
        scores = labels[:, :num_tags], outputs[:, :num_tags]
        loss = soft_loss(*scores, self.options.temperature, self.weights)
        if self.options.embedding_weight:
            embeddings = labels[:, num_tags:], outputs[:, num_tags:]
            loss = loss + self.options.embedding_weight * similarity_loss(*embeddings)
        return loss

    def evaluate(
        self,
        predict: scoring.Predict,
        shards: pipeline.Shards,
        info: models.ModelInfo,
        split: str,
    ) -> Agreement:
        """Measures the agreement with the teacher on the complete segments."""
        info = dataclasses.replace(info, segmentation=info.segmentation.dropping())
        return Agreement.of(super().evaluate(predict, shards, info, split))

    def describe(self) -> dict:
        """Returns the task's part of run.json, which must be the same to resume."""
        distillation = {
            "temperature": self.options.temperature,
            "embedding_weight": self.options.embedding_weight,
        }
        if self.options.balances_tags:  # runs of earlier versions do not name it
            distillation["balances_tags"] = True
        return {
            "data": self.shards.stored.manifest.identity(),
            "teacher": storage.sha256(Path(self.teacher)),
            "distillation": distillation,
        }


def soft_loss(targets, scores, temperature: float = 1.0, weights=None):
    """Returns the cross-entropy of softened scores, [batch].

    Both logits are divided by the temperature; the loss is multiplied by its square, so
    that the gradient keeps its size (section 2 of the paper).

    Args:
        targets: Teacher's scores [batch, num_tags].
        scores: Student's scores [batch, num_tags].
        temperature: The temperature.
        weights: Weight of each tag [num_tags]; None: all count alike.
    """
    target, score = softened(targets, temperature), softened(scores, temperature)
    entropy = target * ops.log(score) + (1 - target) * ops.log(1 - score)
    if weights is not None:
        entropy = entropy * ops.convert_to_tensor(weights, entropy.dtype)
    return -(temperature**2) * ops.mean(entropy, axis=-1)


def softened(scores, temperature: float):
    """Returns scores whose logits are divided by a temperature, of the same shape."""
    scores = ops.clip(scores, EPSILON, 1 - EPSILON)
    if temperature == 1:
        return scores
    return ops.sigmoid((ops.log(scores) - ops.log(1 - scores)) / temperature)


def tag_weights(scored: DistilledShards, temperature: float) -> tuple[float, ...]:
    """Returns weights with which every tag teaches as much as any other.

    The gradient of `soft_loss` for a tag grows with the spread of the teacher's
    softened scores. With the teacher of docs/student.md, the standard deviation differs
    between tags by a factor of up to 194, and of 9 at a temperature of 3. Weights are
    the inverse of this standard deviation over the segments of the train split, and
    their mean is 1. A deviation below a hundredth of the largest counts as that.

    Args:
        scored: Shards with stored scores.
        temperature: Temperature of the loss.

    Returns:
        One weight per tag.
    """
    num_segments, total, squares = 0, 0.0, 0.0
    for scores in scored.scores("train"):
        soft = ops.convert_to_numpy(softened(scores, temperature)).astype(np.float64)
        num_segments += len(soft)
        total, squares = total + soft.sum(axis=0), squares + (soft**2).sum(axis=0)
    variances = squares / num_segments - (total / num_segments) ** 2
    deviations = np.sqrt(np.maximum(variances, 0))
    weights = 1 / np.maximum(deviations, max(deviations.max() / 100, EPSILON))
    return tuple(map(float, weights / weights.mean()))


def similarity_loss(targets, embeddings):
    """Returns how differently two networks compare the examples of a batch, [batch].

    Each network gives a cosine for every pair of examples; the loss of an example is
    the mean squared difference of its cosines. The channels are standardised over the
    batch first, so that neither their scale nor their number matters.

    Reference:
        Tung and Mori, ICCV 2019, https://arxiv.org/abs/1907.09682 (there without the
        standardisation).

    Args:
        targets: Teacher's embeddings [batch, channels].
        embeddings: Student's embeddings [batch, channels].
    """
    difference = _cosines(targets) - _cosines(embeddings)
    return ops.mean(ops.square(difference), axis=-1)


def _cosines(embeddings):
    """Returns the cosines of all pairs, [batch, batch]."""
    mean = ops.mean(embeddings, axis=0, keepdims=True)
    variance = ops.var(embeddings, axis=0, keepdims=True)
    scaled = (embeddings - mean) / ops.sqrt(variance + EPSILON)
    length = ops.sqrt(ops.sum(ops.square(scaled), axis=1, keepdims=True) + EPSILON)
    unit = scaled / length
    return ops.matmul(unit, ops.transpose(unit))


def train(
    name: str,
    options: dict,
    recipe: TrainingRecipe,
    shards: pipeline.Shards,
    teacher: str | os.PathLike,
    train_dir: str | os.PathLike,
    distillation: DistillationOptions = DistillationOptions(),
    run: trainer.RunOptions = trainer.RunOptions(),
) -> Path:
    """Lets the teacher score the music once, then trains a student on the scores.

    Args:
        name: Key of `models.MODELS`.
        options: Options of the student's factory.
        recipe: Recipe of the training; its segments are whole ones, not random crops.
        shards: Music with a train and a val split; a test split is scored after each
            stage. Labels are ignored.
        teacher: Path of the teacher.
        train_dir: Folder of the run.
        distillation: What the student learns.
        run: Options of the run, see `trainer.train`.

    Returns:
        Path of the best student.

    Raises:
        ValueError: the teacher does not match the data or the student, the recipe takes
            random crops, or see `trainer.train`.
        OSError: see `trainer.train`.
    """
    teacher_scores.check_whole_segments(recipe, "")
    if shards.manifest.features:
        raise ValueError(
            "The teacher needs waveforms, but these records hold log-mel spectrograms."
            " Build without --features."
        )
    loaded = conversion.load_model(teacher)
    tags = models.model_info(loaded).tags
    if tags is None:
        raise ValueError(
            f"The teacher {teacher} names no tags. Convert it with --tags."
        )
    student = models.build_model(name, num_tags=len(tags), tags=tags, **options)
    scored = with_tags(shards, tags)
    teacher_scores.check_teacher(loaded, student, scored)
    task = DistillationTask(scored, teacher, distillation)
    # Before hours of scoring:
    task.training_model(student, recipe)
    trainer.check(name, options, recipe, task, run)
    stored = Stored(
        teacher,
        models.model_info(student).segmentation,
        has_embeddings=bool(distillation.embedding_weight),
    )
    parent = Path(distillation.scores_dir or train_dir)
    stored = stored.with_what_is_there(parent, shards)
    splits = ["train", "val"]
    if shards.manifest.num_clips("test"):
        splits.append("test")
    for split in splits:
        stored.store(shards, split, parent)
    scored = DistilledShards.of(shards, stored.folder(parent, shards), tags)
    weights = None
    if distillation.balances_tags:
        weights = tag_weights(scored, distillation.temperature)
    task = dataclasses.replace(task, shards=scored, weights=weights)
    return trainer.train(name, options, recipe, task, train_dir, run)


def with_tags(shards: pipeline.Shards, tags: tuple[str, ...]) -> pipeline.Shards:
    """Returns shards whose labels are those of a teacher, without its scores."""
    manifest = dataclasses.replace(shards.manifest, tags=tags)
    return dataclasses.replace(shards, manifest=manifest, names_tags=True)
