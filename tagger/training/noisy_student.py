"""Noisy-student training: a teacher tags unlabelled music, a student learns from both.

Won, Choi and Serra, ISMIR 2021, https://arxiv.org/abs/2111.13457, section 3. A part of
every batch is labelled, the rest is not. The teacher hears unlabelled music as it is,
the student hears it noised (`augmentations`) and learns the teacher's scores. Knowledge
expansion keeps the size of the network, knowledge distillation shrinks it; in later
rounds the student is the teacher.
"""

import dataclasses
import hashlib
import os
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tqdm import tqdm

from tagger import models
from tagger.augmentations import Augmentation
from tagger.data import pipeline
from tagger.data.records import INT16_SCALE, ShardWriter, Window
from tagger.evaluation import scoring
from tagger.training.recipes import TrainingRecipe
from tagger.training import trainer
from tagger.weights import conversion

STUDENTS = ("expansion", "distillation")
LABELLED_LOSSES = ("bce", "skeptical")
# Width a quarter of the teacher's, as the paper's.
DISTILLED = {
    "music_tagging_transformer": {"size": "student"},
    "short_chunk_resnet": {"num_filters": 32},
    "short_chunk_cnn": {"num_filters": 32},
}
EPSILON = 1e-7


def labelled_loss(labels, scores, teacher_scores, kind: str = "bce"):
    """What a student loses on labelled clips.

    "bce" is binary cross-entropy. "skeptical" is ours; the paper's code calls a loss of
    this name that it never defines. A tag that people gave is believed. A tag they did
    not give was perhaps forgotten: its term is weighted with 1 - p, where p is the
    teacher's score, so that the more the teacher hears it the less its absence counts:

        -mean over tags of  y log(s) + (1 - y) (1 - p) log(1 - s)

    Args:
        labels: y, 0 or 1 [batch, num_tags].
        scores: s, the student's [batch, num_tags].
        teacher_scores: p [batch, num_tags].
        kind: One of LABELLED_LOSSES.

    Returns:
        [batch].
    """
    scores = ops.clip(scores, EPSILON, 1 - EPSILON)
    believed = 1 - teacher_scores if kind == "skeptical" else 1.0
    given = labels * ops.log(scores)
    not_given = (1 - labels) * believed * ops.log(1 - scores)
    return -ops.mean(given + not_given, axis=-1)


class _Teacher(keras.layers.Layer):
    """A model as it scores, also while the one around it trains: no dropout."""

    def __init__(self, model: keras.Model, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.model = model
        self.model.trainable = False

    def call(self, waveforms, training=None):
        return self.model(waveforms, training=False)


@dataclasses.dataclass(frozen=True)
class NoisyStudent(trainer.Objective):
    """Tags of labelled music and a teacher's scores of unlabelled music.

    Attributes:
        unlabelled: Data whose student split has no labels that count.
        teacher_path: A model file of ours, or resemul's.
        kind: Of the labelled loss, one of LABELLED_LOSSES.
        labelled_share: Part of every batch that is labelled.
        scores_dir: Where `write_scores` has put the teacher's; None: it scores live.

    Raises:
        ValueError: a choice is unknown, or there is no unlabelled clip.
    """

    unlabelled: pipeline.Shards
    teacher_path: str | os.PathLike
    kind: str = "bce"
    labelled_share: float = 0.5
    scores_dir: Path | None = None

    def __post_init__(self):
        if self.kind not in LABELLED_LOSSES:
            raise ValueError(
                f"Unknown labelled loss {self.kind!r}. Choose one of:"
                f" {', '.join(LABELLED_LOSSES)}."
            )
        if not 0 < self.labelled_share < 1:
            raise ValueError(
                "--labelled-share must be between 0 and 1, not"
                f" {self.labelled_share:g}."
            )
        self.unlabelled.paths("student")

    @property
    def sources(self) -> tuple[pipeline.Shards, ...]:
        """All data that is read."""
        return self.shards, self.unlabelled

    def _places(self, batch_size: int) -> list[int]:
        """Labelled and unlabelled segments of a batch."""
        weights = [self.labelled_share, 1 - self.labelled_share]
        return pipeline.shares(weights, batch_size)

    def num_batches(self, window: Window, recipe: TrainingRecipe, num_hosts: int):
        """Batches in which every labelled segment comes once."""
        share, _ = self._places(recipe.batch_size // num_hosts)
        return pipeline.batches_per_epoch(
            self.shards, "train", window, share, recipe.crops_per_clip, num_hosts
        )

    def batches(
        self,
        window: Window,
        batch_size: int,
        num_batches: int,
        epoch: int,
        step: int,
        **order,
    ) -> tf.data.Dataset:
        """Endless batches ((segments, 1 where unlabelled), labels, weights).

        The mean of the weighted losses is the sum of the means of both parts.
        """
        weights = [batch_size / places for places in self._places(batch_size)]
        mixed = pipeline.mixed_segments(
            [
                pipeline.Source(self.shards, "train", self.labelled_share),
                pipeline.Source(self.unlabelled, "student", 1 - self.labelled_share),
            ],
            window,
            batch_size,
            first_batch=epoch * num_batches + step,
            scores_dir=self.scores_dir,
            **order,
        )

        def mark(segments, labels):
            unlabelled = tf.cast(labels[:, 0] == pipeline.UNLABELLED, tf.float32)
            weight = tf.where(unlabelled == 1, weights[1], weights[0])
            return (segments, unlabelled), labels, weight

        return mixed.map(mark, tf.data.AUTOTUNE)

    def trainable(self, model: keras.Model, recipe: TrainingRecipe) -> keras.Model:
        """(segments, unlabelled) -> the student's scores, beside a live teacher's."""
        if self.shards.manifest.features:
            raise ValueError(
                "A noisy student needs waveforms, and these records hold log-mel"
                " spectrograms. Build without --features."
            )
        teacher = conversion.load_model(self.teacher_path)
        length = model.input_shape[1]
        self._check_teacher(teacher, model, length)
        segments = keras.Input((length,), dtype=self.shards.dtype, name="segments")
        unlabelled = keras.Input((), dtype="float32", name="unlabelled")
        scale = 1.0 if self.shards.dtype == "float32" else 1 / INT16_SCALE
        rescaling = keras.layers.Rescaling(scale, dtype="float32", name="to_waveform")
        clean = rescaling(segments)
        noised = Augmentation(self.shards.manifest.sample_rate, name="noise")(clean)
        if recipe.augment:
            heard = noised
        else:
            is_noised = ops.expand_dims(unlabelled, -1)
            heard = is_noised * noised + (1 - is_noised) * clean
        scores = model(heard)
        if not self.scores_dir:
            both = [scores, _Teacher(teacher, name="teacher")(clean)]
            scores = ops.concatenate(both, axis=-1)
        return keras.Model([segments, unlabelled], scores)

    def loss(self, labels, scores):
        """Labelled loss, or the cross-entropy of the teacher's scores, [batch]."""
        if self.scores_dir:
            labels, teacher_scores = ops.split(labels, 2, axis=-1)
        else:
            scores, teacher_scores = ops.split(scores, 2, axis=-1)
            teacher_scores = ops.stop_gradient(teacher_scores)
        unlabelled = ops.cast(labels[:, 0] == pipeline.UNLABELLED, scores.dtype)
        given = ops.maximum(labels, 0.0)
        of_labelled = labelled_loss(given, scores, teacher_scores, self.kind)
        of_others = labelled_loss(teacher_scores, scores, teacher_scores)
        return (1 - unlabelled) * of_labelled + unlabelled * of_others

    def describe(self) -> dict:
        """What run.json says of it; a restart must say the same."""
        return super().describe() | {
            "unlabelled": self.unlabelled.manifest.identity(),
            "teacher": _checksum(self.teacher_path),
            "noisy_student": {
                "labelled_loss": self.kind,
                "labelled_share": self.labelled_share,
            },
        }

    def _check_teacher(self, teacher, model, length: int) -> None:
        info = models.model_info(teacher)
        scoring.check_match(info, self.shards)
        if teacher.input_shape[1] not in (None, length):
            raise ValueError(
                f"The teacher {info.name} takes {teacher.input_shape[1]} samples, the"
                f" student {model.name} {length}. Choose a student of that length, or a"
                " teacher that takes any."
            )


def write_scores(
    teacher_path: str | os.PathLike,
    shards: pipeline.Shards,
    split: str,
    window: Window,
    folder: Path,
) -> None:
    """Stores a teacher's scores of every whole segment, a file of records per shard.

    A record is a clip's: float32 little-endian bytes [num_segments, num_tags]. What is
    there already is kept.

    Args:
        teacher_path: A model file of ours, or resemul's.
        shards: What to score.
        split: "train" or "student".
        window: How the student cuts clips.
        folder: Where the files go, named as the shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = shards.paths(split)
    missing = [path for path in paths if not (folder / Path(path).name).exists()]
    if not missing:
        return
    predict = scoring.predictor(conversion.load_model(teacher_path), shards)
    for path in tqdm(missing, f"Scoring {split}", unit="shard", disable=None):
        with ShardWriter(folder / Path(path).name) as writer:
            for segments in pipeline.shard_segments(shards, path, window):
                writer.write(np.asarray(predict(segments), "<f4").tobytes())


def train(
    name: str,
    options: dict,
    recipe: TrainingRecipe,
    shards: pipeline.Shards,
    unlabelled: pipeline.Shards,
    teacher: str | os.PathLike,
    train_dir: str | os.PathLike,
    student: str = "expansion",
    labelled_loss: str = "bce",
    labelled_share: float = 0.5,
    rounds: int = 1,
    cache_scores: bool = False,
    **run,
) -> Path:
    """Trains a student, then perhaps students of students.

    Args:
        name: Key of `models.MODELS`.
        options: For the student's factory.
        recipe: How each student is trained.
        shards: Labelled data.
        unlabelled: Data with a student split.
        teacher: Model file of the first teacher.
        train_dir: Folder of the run; with several rounds `round1`, `round2` … in it.
        student: "expansion" keeps the options, "distillation" shrinks the network.
        labelled_loss: One of LABELLED_LOSSES, see the function.
        labelled_share: Part of every batch that is labelled.
        rounds: Students, each the next one's teacher.
        cache_scores: Let each teacher score every whole segment once, into the folder
            of the run, instead of every batch. Random crops need a live teacher.
        **run: Others of `trainer.train`.

    Returns:
        Path of the last student.

    Raises:
        ValueError: this model has no smaller size of its own, or as `trainer.train`.
        OSError: as `trainer.train`.
    """
    if student not in STUDENTS:
        raise ValueError(
            f"Unknown student {student!r}. Choose one of: {', '.join(STUDENTS)}."
        )
    if student == "distillation":
        if name not in DISTILLED and not options:
            raise ValueError(
                f"{name} has no smaller size of its own; give it by its options"
                f" (python -m tagger models {name}), or choose among"
                f" {', '.join(DISTILLED)}."
            )
        options = DISTILLED.get(name, {}) | options
    for number in range(1, rounds + 1):
        folder = Path(train_dir) / f"round{number}" if rounds > 1 else train_dir
        objective = NoisyStudent(
            shards, unlabelled, teacher, labelled_loss, labelled_share
        )
        if cache_scores:
            objective = _with_scores(objective, name, options, recipe, Path(folder))
        teacher = trainer.train(name, options, recipe, objective, folder, **run)
    return teacher


def _with_scores(
    objective: NoisyStudent,
    name: str,
    options: dict,
    recipe: TrainingRecipe,
    folder: Path,
) -> NoisyStudent:
    tags = objective.shards.manifest.tags
    student = models.build_model(name, num_tags=len(tags), **options)
    objective.trainable(student, recipe)  # what does not fit shows before the work
    window = models.model_info(student).window
    scores_dir = folder / f"scores-{_checksum(objective.teacher_path)[:16]}"
    objective = dataclasses.replace(objective, scores_dir=scores_dir)
    objective.batches(window, recipe.batch_size, 1, 0, 0,
                      crops_per_clip=recipe.crops_per_clip)  # fmt: skip
    for shards, split in zip(objective.sources, ("train", "student"), strict=True):
        write_scores(objective.teacher_path, shards, split, window, scores_dir)
    return objective


def _checksum(path: str | os.PathLike) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
