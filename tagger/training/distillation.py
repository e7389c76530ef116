"""Distillation: a student learns a teacher's scores of music that needs no labels.

Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531. The teacher scores each
segment once, unchanged; the student may hear it augmented. The val split measures
agreement with the teacher.

shards ─▶ teacher_scores ─▶ StoredScores ─▶ trainer.train
"""

import dataclasses
import math
import os
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tagger import models, storage
from tagger.data.batches import Batches
from tagger.data.clips import Shards
from tagger.evaluation import agreement, metrics, scoring
from tagger.training import teacher_scores, trainer
from tagger.training.recipes import TrainingRecipe
from tagger.training.teacher_scores import Stored, StoredScores
from tagger.weights import conversion

EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class DistillationOptions:
    """What a student learns from its teacher.

    Attributes:
        temperature: Factor by which the logits of both are divided in the loss. Above
            1, differences between low scores count more.
        embedding_weight: Weight of `similarity_loss` beside the loss of the scores.
        scores_dir: Folder for the teacher's scores, which several runs can share; None:
            the folder of the run.

    Raises:
        ValueError: a number is out of range.
    """

    temperature: float = 1.0
    embedding_weight: float = 0.0
    scores_dir: str | os.PathLike | None = None

    def __post_init__(self):
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"--temperature must be above 0, not {self.temperature}.")
        if not 0 <= self.embedding_weight < math.inf:
            raise ValueError(
                f"--embedding-weight must be at least 0, not {self.embedding_weight}."
            )


@dataclasses.dataclass(frozen=True)
class DistillationTask(trainer.SupervisedTask):
    """Learns a teacher's scores.

    Attributes:
        shards: Shards from `with_tags`, with a train and a val split.
        music: The same shards with their own tags, whose labels are ignored.
        teacher: Path of the teacher.
        scores_dir: Folder of the teacher's stored scores; None: not stored yet.
        options: What the student learns.
    """

    METRICS = agreement.METRICS

    music: Shards
    teacher: str | os.PathLike
    scores_dir: Path | None = None
    options: DistillationOptions = DistillationOptions()

    def batches(self, plan: trainer.BatchPlan) -> Batches:
        """Returns the batches, (segments, the teacher's outputs)."""
        clips, scores = self.music.clips("train"), None
        if self.scores_dir:
            scores = StoredScores(self.scores_dir, clips, plan.segmentation)
            clips = clips.labelled(np.zeros((len(clips), 0)))
        return Batches(clips, plan.segmentation, plan.batch_size, plan.options, scores)

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
        loss = soft_loss(*scores, self.options.temperature)
        if self.options.embedding_weight:
            embeddings = labels[:, num_tags:], outputs[:, num_tags:]
            loss = loss + self.options.embedding_weight * similarity_loss(*embeddings)
        return loss

    def evaluate(
        self,
        predict: scoring.Predict,
        shards: Shards,
        info: models.ModelInfo,
        split: str,
    ) -> metrics.Evaluation:
        """Measures the agreement with the teacher on the complete segments."""
        info = dataclasses.replace(info, segmentation=info.segmentation.dropping())
        clips, num_tags = self.music.clips(split), len(shards.manifest.tags)
        scores = StoredScores(self.scores_dir, clips, info.segmentation).of_clips()
        means = np.stack([rows[:, :num_tags].mean(axis=0) for rows in scores])
        clips = clips.labelled(means)
        scored = scoring.evaluate(predict, shards, info, split, clips=clips)
        return metrics.with_teacher(scored)

    def describe(self) -> dict:
        """Returns the task's part of run.json, which must be the same to resume."""
        distillation = {
            "temperature": self.options.temperature,
            "embedding_weight": self.options.embedding_weight,
        }
        return {
            "data": self.music.manifest.identity(),
            "teacher": storage.sha256(Path(self.teacher)),
            "distillation": distillation,
        }


def soft_loss(targets, scores, temperature: float = 1.0):
    """Returns the cross-entropy of softened scores, [batch].

    Both logits are divided by the temperature; the loss is multiplied by its square, so
    that the gradient keeps its size (section 2 of the paper).

    Args:
        targets: Teacher's scores [batch, num_tags].
        scores: Student's scores [batch, num_tags].
        temperature: The temperature.
    """
    target, score = softened(targets, temperature), softened(scores, temperature)
    entropy = target * ops.log(score) + (1 - target) * ops.log(1 - score)
    return -(temperature**2) * ops.mean(entropy, axis=-1)


def softened(scores, temperature: float):
    """Returns scores whose logits are divided by a temperature, of the same shape."""
    scores = ops.clip(scores, EPSILON, 1 - EPSILON)
    if temperature == 1:
        return scores
    return ops.sigmoid((ops.log(scores) - ops.log(1 - scores)) / temperature)


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
    shards: Shards,
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
    task = DistillationTask(scored, shards, teacher, options=distillation)
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
    task = dataclasses.replace(task, scores_dir=stored.folder(parent, shards))
    return trainer.train(name, options, recipe, task, train_dir, run)


def with_tags(shards: Shards, tags: tuple[str, ...]) -> Shards:
    """Returns shards whose labels are those of a teacher, without its scores."""
    manifest = dataclasses.replace(shards.manifest, tags=tags)
    return dataclasses.replace(shards, manifest=manifest, names_tags=True)
