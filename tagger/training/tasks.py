"""What a model learns: labels, a teacher's scores, or both.

| task | reads | targets | validated by |
|---|---|---|---|
| `Labels` | tagged music | labels | AUCs |
| `Distillation` | music | a teacher's scores | agreement with the teacher |
| `NoisyStudent` | tagged and other music | labels and a teacher's scores | AUCs |

`trainer.train` runs any of them.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Protocol

import keras
import numpy as np
from keras import ops
from msgspec import Meta

from tagger import models
from tagger.augmentations import Augmentation
from tagger.data.batches import Batches, Mixture, ReadOptions
from tagger.data.clips import UNLABELLED, Shards
from tagger.evaluation import agreement, alignment, metrics, scoring
from tagger.models.files import read_info
from tagger.options import Option
from tagger.segmentation import INT16_SCALE, Segmentation
from tagger.text import TaggerError
from tagger.training.losses import loss_of, similarity, softened
from tagger.training.recipes import NotNegative, Positive, TrainingRecipe
from tagger.training.teacher_scores import Stored, StoredScores
from tagger.validation import check_fields
from tagger.weights import pretrained


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The batches that this process trains on.

    Attributes:
        segmentation: How clips are cut into segments.
        batch_size: Number of segments in a batch of this process.
        options: Options for reading the shards.
    """

    segmentation: Segmentation
    batch_size: int
    options: ReadOptions


def _alone(rows):
    return rows


class Task(Protocol):
    """What `trainer.train` asks of a task.

    Attributes:
        shards: Data with a train and a val split, whose tags the model learns; a test
            split is scored after each stage.
        METRICS: Macro metrics of validation, beside the loss.
    """

    shards: Shards
    METRICS: tuple[str, ...]

    def check(self, model: keras.Model, recipe: TrainingRecipe) -> None:
        """Checks that model, recipe and data fit.

        Raises:
            ValueError: they do not.
        """

    def prepare(self, segmentation: Segmentation, train_dir: Path) -> "Task":
        """Computes what takes long, after all checks; returns the task to train."""

    def batches(self, plan: BatchPlan) -> Batches | Mixture:
        """Returns the batches of this process: inputs, targets, and maybe weights."""

    def training_model(self, model: keras.Model, recipe: TrainingRecipe) -> keras.Model:
        """Returns a model that takes a batch and shares the layers of `model`."""

    def loss(self, recipe: TrainingRecipe, gather: Callable = _alone):
        """Returns a function of targets and outputs to the loss of each example.

        Args:
            recipe: Recipe, which names the loss of a score.
            gather: Function from rows of this device [batch, …] to those of all
                devices, see `devices.Devices.gather`.
        """

    def evaluate(
        self, predict: scoring.Predict, info: models.ModelInfo, split: str
    ) -> metrics.Evaluation:
        """Scores the clips of a split."""

    def describe(self) -> dict:
        """Returns the task's part of run.json, which must be the same to resume."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Learns the labels of clips.

    Attributes:
        shards: See `Task`.
    """

    METRICS = metrics.METRICS

    shards: Shards

    def check(self, model, recipe):
        alignment.check_match(models.model_info(model), self.shards)

    def prepare(self, segmentation, train_dir):
        return self

    def batches(self, plan):
        """Returns batches (segments, labels)."""
        clips = self.shards.clips("train")
        return Batches(clips, plan.segmentation, plan.batch_size, plan.options)

    def training_model(self, model, recipe):
        """Returns a model from segments to logits."""
        return _of_records(models.with_logits(model), self.shards, recipe)

    def loss(self, recipe, gather=_alone):
        """Returns the mean loss over the tags."""
        of_score = loss_of(recipe.loss)
        return lambda labels, logits: ops.mean(of_score(labels, logits), axis=-1)

    def evaluate(self, predict, info, split):
        return scoring.evaluate(predict, self.shards, info, split)

    def describe(self):
        return {"data": self.shards.manifest.identity()}


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Learns a teacher's scores of music that needs no labels.

    The teacher scores each segment once, unchanged; the student may hear it augmented.

    Attributes:
        music: Data with a train and a val split, whose labels are ignored.
        teacher: Model file, or name of a pretrained model.
        temperature: Factor by which the logits of both are divided in the loss, which
            is multiplied by its square, so that the gradient keeps its size. Above 1,
            differences between low scores count more.
        embedding_weight: Weight of `losses.similarity` beside the loss of the scores.
        scores_dir: Folder for the teacher's scores, which several runs can share; None:
            the folder of the run.
        scores: Folder of the stored scores, from `prepare`.

    Raises:
        ValueError: a number is out of range.

    Reference:
        Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531.
    """

    METRICS = agreement.METRICS

    music: Shards
    teacher: str | os.PathLike
    temperature: Positive = 1.0
    embedding_weight: NotNegative = 0.0
    scores_dir: Annotated[str | os.PathLike | None, Option(metavar="DIR")] = None
    scores: Path | None = None

    def __post_init__(self):
        check_fields(self)

    @functools.cached_property
    def shards(self) -> Shards:
        """The music, with the tags of the teacher."""
        # Without Keras, whose loading draws random numbers.
        tags = read_info(pretrained.path_of(self.teacher)).tags
        if tags is None:
            raise TaggerError(
                f"The teacher {self.teacher} names no tags. Convert it with `tags=`."
            )
        return self.music.with_tags(tags)

    def check(self, model, recipe):
        if recipe.crops_per_clip:
            raise TaggerError(
                "A teacher's scores are stored for whole segments, not for random"
                " crops. Add `crops_per_clip=0`."
            )
        _check_teacher(pretrained.load(self.teacher), model, self.shards)

    def prepare(self, segmentation, train_dir):
        """Stores the teacher's scores of all splits."""
        stored = Stored(self.teacher, segmentation, bool(self.embedding_weight))
        parent = Path(self.scores_dir or train_dir)
        stored = stored.matching_stored(parent, self.music)
        splits = ["train", "val"]
        if self.music.manifest.num_clips("test"):
            splits.append("test")
        for split in splits:
            stored.store(self.music, split, parent)
        return dataclasses.replace(self, scores=stored.folder(parent, self.music))

    def batches(self, plan):
        """Returns batches (segments, the teacher's scores and embeddings)."""
        clips, scores = self.music.clips("train"), None
        if self.scores:
            scores = StoredScores(self.scores, clips, plan.segmentation)
            clips = clips.labelled(np.zeros((len(clips), 0)))
        return Batches(clips, plan.segmentation, plan.batch_size, plan.options, scores)

    def training_model(self, model, recipe):
        """Returns a model from segments to logits, and embeddings if they count."""
        outputs = models.with_logits(model)
        if self.embedding_weight:
            embedding = models.embedding_network(model).output
            both = ops.concatenate([outputs.output, embedding], axis=-1)
            outputs = keras.Model(model.input, both, name=model.name)
        return _of_records(outputs, self.shards, recipe)

    def loss(self, recipe, gather=_alone):
        """Returns the softened loss of the scores, and that of the embeddings."""
        of_score, num_tags = loss_of(recipe.loss), len(self.shards.manifest.tags)
        heat, weight = self.temperature, self.embedding_weight

        def loss(targets, outputs):
            scores = softened(targets[:, :num_tags], heat)
            of_scores = of_score(scores, outputs[:, :num_tags] / heat)
            found = heat**2 * ops.mean(of_scores, axis=-1)
            if weight:
                embeddings = (
                    gather(targets[:, num_tags:]),
                    gather(outputs[:, num_tags:]),
                )
                found = found + weight * ops.mean(similarity(*embeddings))
            return found

        return loss

    def evaluate(self, predict, info, split):
        """Measures the agreement with the teacher on the complete segments."""
        info = dataclasses.replace(info, segmentation=info.segmentation.dropping())
        clips, num_tags = self.music.clips(split), len(self.shards.manifest.tags)
        scores = StoredScores(self.scores, clips, info.segmentation).of_clips()
        means = np.stack([rows[:, :num_tags].mean(axis=0) for rows in scores])
        clips = clips.labelled(means)
        scored = scoring.evaluate(predict, self.shards, info, split, clips=clips)
        return metrics.with_teacher(scored)

    def describe(self):
        return {
            "data": self.music.manifest.identity(),
            "teacher": pretrained.described(self.teacher),
            "distillation": {
                "temperature": self.temperature,
                "embedding_weight": self.embedding_weight,
            },
        }


@dataclasses.dataclass(frozen=True)
class NoisyStudent:
    """Learns labels, and a teacher's scores for unlabelled music.

    A part of every batch is labelled, the rest is not. The teacher scores unlabelled
    music unchanged; the student hears it augmented and learns the teacher's scores.

    Attributes:
        shards: See `Task`.
        unlabelled: Data with a student split.
        teacher: Model file, or name of a pretrained model.
        labelled_loss: "bce", or "skeptical", which is ours; the paper's code calls a
            loss of this name but never defines it. A tag that annotators gave counts in
            full. A tag that they did not give may have been forgotten: its loss is
            weighted with 1 - p, where p is the teacher's score.
        labelled_share: Share of every batch that is labelled.

    Raises:
        ValueError: there are no unlabelled clips, a choice is unknown, or the share is
            out of range.

    Reference:
        Won, Choi and Serra, ISMIR 2021, https://arxiv.org/abs/2111.13457, section 3.
    """

    METRICS = metrics.METRICS

    shards: Shards
    unlabelled: Shards
    teacher: str | os.PathLike
    labelled_loss: Literal["bce", "skeptical"] = "bce"
    labelled_share: Annotated[float, Meta(gt=0, lt=1)] = 0.5

    def __post_init__(self):
        check_fields(self)
        self.unlabelled.paths("student")

    def check(self, model, recipe):
        if self.shards.manifest.features:
            raise TaggerError(
                "A noisy student needs waveforms, but these records hold log-mel"
                " spectrograms. Build without `features=`."
            )
        alignment.check_match(models.model_info(model), self.shards)
        _check_teacher(pretrained.load(self.teacher), model, self.shards)

    def prepare(self, segmentation, train_dir):
        return self

    def batches(self, plan):
        """Returns batches ((segments, unlabelled), labels, weights).

        `unlabelled` is 1 for unlabelled segments and 0 for labelled ones. The weights
        make the mean loss of a batch the sum of the mean losses of both parts. In an
        epoch, each labelled segment occurs once.
        """
        labelled = self.shards.clips("train")
        unlabelled = self.unlabelled.clips("student")
        # The tags of unlabelled music may be others.
        shape = len(unlabelled), labelled.labels.shape[1]
        unknown = np.full(shape, UNLABELLED, np.int8)
        return _Marked(
            [labelled, unlabelled.labelled(unknown)],
            [self.labelled_share, 1 - self.labelled_share],
            plan.segmentation,
            plan.batch_size,
            plan.options,
        )

    def training_model(self, model, recipe):
        """Returns a model from (segments, unlabelled) to logits and the teacher's."""
        teacher = pretrained.load(self.teacher)
        segments = keras.Input(model.input_shape[1:], dtype=self.shards.dtype)
        unlabelled = keras.Input((), dtype="float32", name="unlabelled")
        scale = 1.0 if self.shards.dtype == "float32" else 1 / INT16_SCALE
        clean = keras.layers.Rescaling(scale, dtype="float32")(segments)
        rate = self.shards.manifest.sample_rate
        heard = augmentation_of(recipe, rate, "noise")(clean)
        if not recipe.augment:
            is_noised = ops.expand_dims(unlabelled, -1)
            heard = is_noised * heard + (1 - is_noised) * clean
        outputs = [models.with_logits(model)(heard), _Teacher(teacher)(clean)]
        return keras.Model([segments, unlabelled], ops.concatenate(outputs, axis=-1))

    def loss(self, recipe, gather=_alone):
        """Returns the loss of labels, or of a teacher's scores where there are none."""
        of_score, is_skeptical = loss_of(recipe.loss), self.labelled_loss == "skeptical"

        def loss(labels, outputs):
            logits, teacher = ops.split(outputs, 2, axis=-1)
            teacher = ops.stop_gradient(teacher)
            is_labelled = labels != UNLABELLED
            targets = ops.where(is_labelled, labels, teacher)
            found = of_score(targets, logits)
            if is_skeptical:
                believed = ops.where(labels == 0, 1 - teacher, 1.0)
                found = found * believed
            return ops.mean(found, axis=-1)

        return loss

    def evaluate(self, predict, info, split):
        return scoring.evaluate(predict, self.shards, info, split)

    def describe(self):
        return {
            "data": self.shards.manifest.identity(),
            "unlabelled": self.unlabelled.manifest.identity(),
            "teacher": pretrained.described(self.teacher),
            "noisy_student": {
                "labelled_loss": self.labelled_loss,
                "labelled_share": self.labelled_share,
            },
        }


class _Marked(Mixture):
    """Batches whose first share is labelled, see `NoisyStudent.batches`."""

    def batch(self, number: int) -> tuple:
        segments, labels = super().batch(number)
        unlabelled = np.repeat(np.float32([0, 1]), self.shares)
        weights = np.repeat(np.float32(len(labels)) / self.shares, self.shares)
        return (segments, unlabelled), labels, weights.astype(np.float32)


class _Teacher(keras.layers.Layer):
    """Scores without dropout, even while the surrounding model trains."""

    def __init__(self, model: keras.Model):
        super().__init__(trainable=False, name="teacher")
        self.model = model
        self.model.trainable = False

    def call(self, waveforms, training=None):
        return self.model(waveforms, training=False)


def augmentation_of(
    recipe: TrainingRecipe, sample_rate: int, name: str
) -> Augmentation:
    """Returns the layer that augments segments as the recipe says.

    Raises:
        ValueError: the recipe names an unknown transform.
    """
    names = {} if recipe.transforms is None else {"names": recipe.transforms}
    return Augmentation(sample_rate, **names, name=name)


def _of_records(
    network: keras.Model, shards: Shards, recipe: TrainingRecipe
) -> keras.Model:
    """Returns a network that takes the segments of shards, and augments them.

    Raises:
        ValueError: see `models.with_record_inputs`, or transforms are chosen for
            nothing.
    """
    if recipe.transforms and not recipe.augment:
        raise TaggerError("`transforms=` chooses what `augment=` does. Add `augment=`.")
    augmentation = None
    if recipe.augment:
        augmentation = augmentation_of(
            recipe, shards.manifest.sample_rate, "augmentation"
        )
    return models.with_record_inputs(
        network, shards.dtype, shards.manifest.features, augmentation
    )


def _check_teacher(teacher: keras.Model, student: keras.Model, shards: Shards) -> None:
    """Checks that a teacher can score the student's segments of the data.

    Raises:
        ValueError: it takes spectrograms, another sample rate or length, or has other
            tags.
    """
    if shards.manifest.features:
        raise TaggerError(
            "The teacher needs waveforms, but these records hold log-mel spectrograms."
            " Build without `features=`."
        )
    info = models.model_info(teacher)
    alignment.check_match(info, shards)
    length = models.model_info(student).segmentation.num_samples
    if teacher.input_shape[1] not in (None, length):
        raise TaggerError(
            f"The teacher {info.name} takes {teacher.input_shape[1]} samples, but the"
            f" student {student.name} takes {length}. Choose a student of the same"
            " length, or a teacher that takes any length."
        )
