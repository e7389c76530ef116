"""Noisy-student training: a teacher tags unlabelled music, a student learns from both.

Won, Choi and Serra, ISMIR 2021, https://arxiv.org/abs/2111.13457, section 3. A part of
every batch is labelled, the rest is not. The teacher scores unlabelled music unchanged;
the student hears it augmented (`augmentations`) and learns the teacher's scores.
Knowledge expansion keeps the size of the network, knowledge distillation shrinks it. In
later rounds, the previous student is the teacher.
"""

import dataclasses
import os
from pathlib import Path

import keras
import numpy as np
from keras import ops

from tagger import storage
from tagger.data.batches import Mixture
from tagger.data.clips import UNLABELLED, Shards
from tagger.segmentation import INT16_SCALE
from tagger.training import teacher_scores, trainer
from tagger.training.recipes import TrainingRecipe
from tagger.weights import conversion

STUDENTS = ("expansion", "distillation")
LABELLED_LOSSES = ("bce", "skeptical")
# A quarter of the teacher's width, as in the paper.
DISTILLED = {
    "music_tagging_transformer": {"size": "student"},
    "short_chunk_resnet": {"num_filters": 32},
    "short_chunk_cnn": {"num_filters": 32},
}
EPSILON = 1e-7


def labelled_loss(labels, scores, teacher_scores, kind: str = "bce"):
    """Returns the loss of a student on labelled clips.

    "bce" is binary cross-entropy. "skeptical" is ours; the paper's code calls a loss of
    this name but never defines it. A tag that annotators gave counts in full. A tag
    that they did not give may have been forgotten: its term is weighted with 1 - p,
    where p is the teacher's score. The higher p is, the less a missing tag counts:

        -mean over tags of  y log(s) + (1 - y) (1 - p) log(1 - s)

    Args:
        labels: Labels y, 0 or 1 [batch, num_tags].
        scores: Student's scores s [batch, num_tags].
        teacher_scores: Teacher's scores p [batch, num_tags].
        kind: One of LABELLED_LOSSES.

    Returns:
        Loss per example [batch].
    """
    scores = ops.clip(scores, EPSILON, 1 - EPSILON)
    believed = 1 - teacher_scores if kind == "skeptical" else 1.0
    given = labels * ops.log(scores)
    not_given = (1 - labels) * believed * ops.log(1 - scores)
    return -ops.mean(given + not_given, axis=-1)


class _Teacher(keras.layers.Layer):
    """Scores without dropout, even while the surrounding model trains."""

    def __init__(self, model: keras.Model, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.model = model
        self.model.trainable = False

    def call(self, waveforms, training=None):
        return self.model(waveforms, training=False)


@dataclasses.dataclass(frozen=True)
class StudentData:
    """The data and the teacher that a student learns from.

    Attributes:
        labelled: Data with a train and a val split.
        unlabelled: Data with a student split, whose labels are ignored.
        teacher: Path of the teacher, a `.keras` file or resemul's `.hdf5`.
    """

    labelled: Shards
    unlabelled: Shards
    teacher: str | os.PathLike


@dataclasses.dataclass(frozen=True)
class StudentOptions:
    """How students learn from their teachers.

    Attributes:
        student: "expansion" keeps the size of the network, "distillation" shrinks it.
        labelled_loss: One of LABELLED_LOSSES, see the function `labelled_loss`.
        labelled_share: Share of every batch that is labelled.
        rounds: Number of students; each is the teacher of the next.

    Raises:
        ValueError: a choice is unknown, or the share is not between 0 and 1.
    """

    student: str = "expansion"
    labelled_loss: str = "bce"
    labelled_share: float = 0.5
    rounds: int = 1

    def __post_init__(self):
        for kind, value, choices in (
            ("student", self.student, STUDENTS),
            ("labelled loss", self.labelled_loss, LABELLED_LOSSES),
        ):
            if value not in choices:
                raise ValueError(
                    f"Unknown {kind} {value!r}. Choose one of: {', '.join(choices)}."
                )
        if not 0 < self.labelled_share < 1:
            raise ValueError(
                "--labelled-share must be between 0 and 1, not"
                f" {self.labelled_share:g}."
            )


class _Marked(Mixture):
    """Batches whose first share is labelled, see `NoisyStudentTask.batches`."""

    def batch(self, number: int) -> tuple:
        segments, labels = super().batch(number)
        unlabelled = np.repeat(np.float32([0, 1]), self.shares)
        weights = np.repeat(np.float32(len(labels)) / self.shares, self.shares)
        return (segments, unlabelled), labels, weights.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class NoisyStudentTask(trainer.SupervisedTask):
    """Learns tags of labelled music and a teacher's scores of unlabelled music.

    Attributes:
        unlabelled: Data with a student split.
        teacher_path: Path of the teacher.
        options: Options of the student.

    Raises:
        ValueError: there are no unlabelled clips.
    """

    unlabelled: Shards
    teacher_path: str | os.PathLike
    options: StudentOptions = StudentOptions()

    def __post_init__(self):
        self.unlabelled.paths("student")

    def batches(self, plan: trainer.BatchPlan) -> "_Marked":
        """Returns the batches ((segments, unlabelled), labels, weights).

        `unlabelled` is 1 for unlabelled segments and 0 for labelled ones. The weights
        make the mean loss of a batch the sum of the mean losses of both parts. In an
        epoch, each labelled segment occurs once.
        """
        labelled, unlabelled = (
            self.shards.clips("train"), self.unlabelled.clips("student")
        )  # fmt: skip
        # The tags of unlabelled music may be others.
        shape = len(unlabelled), labelled.labels.shape[1]
        unknown = np.full(shape, UNLABELLED, np.int8)
        share = self.options.labelled_share
        return _Marked(
            [labelled, unlabelled.labelled(unknown)],
            [share, 1 - share],
            plan.segmentation,
            plan.batch_size,
            plan.options,
        )

    def training_model(self, model: keras.Model, recipe: TrainingRecipe) -> keras.Model:
        """Returns a model that takes (segments, unlabelled) and returns scores.

        The output is the student's scores, followed by the teacher's.

        Raises:
            ValueError: the data holds spectrograms, or the teacher does not match the
                data or the student.
        """
        if self.shards.manifest.features:
            raise ValueError(
                "A noisy student needs waveforms, but these records hold log-mel"
                " spectrograms. Build without --features."
            )
        teacher = conversion.load_model(self.teacher_path)
        length = model.input_shape[1]
        teacher_scores.check_teacher(teacher, model, self.shards)
        segments = keras.Input((length,), dtype=self.shards.dtype, name="segments")
        unlabelled = keras.Input((), dtype="float32", name="unlabelled")
        scale = 1.0 if self.shards.dtype == "float32" else 1 / INT16_SCALE
        rescaling = keras.layers.Rescaling(scale, dtype="float32", name="to_waveform")
        clean = rescaling(segments)
        rate = self.shards.manifest.sample_rate
        noised = trainer.augmentation_of(recipe, rate, "noise")(clean)
        if recipe.augment:
            heard = noised
        else:
            is_noised = ops.expand_dims(unlabelled, -1)
            heard = is_noised * noised + (1 - is_noised) * clean
        scores = model(heard)
        both = [scores, _Teacher(teacher, name="teacher")(clean)]
        return keras.Model([segments, unlabelled], ops.concatenate(both, axis=-1))

    def loss(self, labels, scores):
        """Returns the loss of each example, [batch].

        It is `labelled_loss` for labelled examples, and the cross-entropy with the
        teacher's scores for unlabelled ones.
        """
        scores, teacher_scores = ops.split(scores, 2, axis=-1)
        teacher_scores = ops.stop_gradient(teacher_scores)
        unlabelled = ops.cast(labels[:, 0] == UNLABELLED, scores.dtype)
        given = ops.maximum(labels, 0.0)
        kind = self.options.labelled_loss
        of_labelled = labelled_loss(given, scores, teacher_scores, kind)
        of_unlabelled = labelled_loss(teacher_scores, scores, teacher_scores)
        return (1 - unlabelled) * of_labelled + unlabelled * of_unlabelled

    def describe(self) -> dict:
        """Returns the task's part of run.json, which must be the same to resume."""
        return super().describe() | {
            "unlabelled": self.unlabelled.manifest.identity(),
            "teacher": storage.sha256(Path(self.teacher_path)),
            "noisy_student": {
                "labelled_loss": self.options.labelled_loss,
                "labelled_share": self.options.labelled_share,
            },
        }


def train(
    name: str,
    options: dict,
    recipe: TrainingRecipe,
    data: StudentData,
    train_dir: str | os.PathLike,
    student: StudentOptions = StudentOptions(),
    run: trainer.RunOptions = trainer.RunOptions(),
) -> Path:
    """Trains a student, and in further rounds students of the previous student.

    Args:
        name: Key of `models.MODELS`.
        options: Options of the student's factory.
        recipe: Recipe of every student.
        data: Data and first teacher.
        train_dir: Folder of the run; with several rounds it holds `round1`, `round2` …
        student: Options of the students.
        run: Options of the run, see `trainer.train`.

    Returns:
        Path of the last student.

    Raises:
        ValueError: the model has no predefined smaller size, or see `trainer.train`.
        OSError: see `trainer.train`.
    """
    if student.student == "distillation":
        if name not in DISTILLED and not options:
            raise ValueError(
                f"{name} has no predefined smaller size. Set its options (python -m"
                f" tagger models {name}), or choose one of: {', '.join(DISTILLED)}."
            )
        options = DISTILLED.get(name, {}) | options
    teacher = data.teacher
    for number in range(1, student.rounds + 1):
        rounds = Path(train_dir)
        folder = rounds / f"round{number}" if student.rounds > 1 else rounds
        task = NoisyStudentTask(data.labelled, data.unlabelled, teacher, student)
        teacher = trainer.train(name, options, recipe, task, folder, run)
    return teacher
