"""A teacher's scores of every segment, computed once and stored for all epochs.

shards ─▶ store ─▶ a folder with one file of records per shard ─▶ ScoredShards
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tagger import models, storage
from tagger.data import pipeline
from tagger.data.records import CorruptShardError, ShardWriter, read_shard
from tagger.evaluation import scoring
from tagger.segmentation import Segmentation
from tagger.training.recipes import TrainingRecipe
from tagger.weights import conversion

ABOUT_NAME = "about.json"


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a teacher says about each segment.

    Attributes:
        teacher: Path of the teacher, a `.keras` file or resemul's `.hdf5`.
        segmentation: How the student cuts clips into segments.
        has_embeddings: Whether the teacher's embedding follows its scores.
    """

    teacher: str | os.PathLike
    segmentation: Segmentation
    has_embeddings: bool = False

    def folder(self, parent: Path, shards: pipeline.Shards) -> Path:
        """Returns the folder of the scores of some data, whether or not it exists."""
        about = [
            storage.sha256(Path(self.teacher)),
            shards.manifest.identity(),
            dataclasses.asdict(self.segmentation.dropping()),
            self.has_embeddings,
        ]
        text = json.dumps(about, sort_keys=True)
        return parent / f"scores-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def with_what_is_there(self, parent: Path, shards: pipeline.Shards) -> "Stored":
        """Returns this one, or the one with embeddings too if only that is stored.

        Args:
            parent: Folder of the folders of scores.
            shards: Data that was scored.
        """
        full = dataclasses.replace(self, has_embeddings=True)
        folders = [stored.folder(parent, shards) for stored in (self, full)]
        return full if [f.exists() for f in folders] == [False, True] else self

    def store(self, shards: pipeline.Shards, split: str, parent: Path) -> Path:
        """Stores the teacher's outputs for every complete segment of a split.

        There is one record per clip: float32 little-endian bytes [num_segments,
        num_tags + embedding size]. Existing files are kept, but for damaged ones.

        Args:
            shards: Data to score.
            split: Split to score.
            parent: Folder in which to make the folder of these scores, see `folder`.

        Returns:
            Folder of the scores; the files have the names of the shards.
        """
        folder = self.folder(parent, shards)
        with storage.explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with storage.file_lock(folder / ABOUT_NAME, "--scores-dir", waits=True):
            self._store_missing(shards, split, folder)
        return folder

    def _store_missing(self, shards: pipeline.Shards, split: str, folder: Path) -> None:
        paths = shards.paths(split)
        missing = [path for path in paths if not _is_whole(folder / Path(path).name)]
        if not missing and (folder / ABOUT_NAME).exists():
            return
        teacher = conversion.load_model(self.teacher)
        if self.has_embeddings:
            teacher = models.with_embedding(teacher)
        sizes = [output.shape[-1] for output in teacher.outputs]
        text = json.dumps({"teacher": str(self.teacher), "num_outputs": sum(sizes)})
        storage.write_text_atomically(folder / ABOUT_NAME, f"{text}\n")
        predict = scoring.predictor(teacher, shards)
        for path in tqdm(missing, f"Scoring {split}", unit="shard", disable=None):
            with ShardWriter(folder / Path(path).name) as writer:
                for segments in pipeline.shard_segments(
                    shards, path, self.segmentation
                ):
                    writer.write(_outputs(predict, segments).tobytes())


def _is_whole(path: Path) -> bool:
    """Returns whether a file of scores exists, and every record matches its CRC."""
    try:
        for _ in read_shard(path):
            pass
    except (FileNotFoundError, CorruptShardError):
        return False
    return True


def _outputs(predict: scoring.Predict, segments: np.ndarray) -> np.ndarray:
    """Returns scores, and embeddings if there are any: float32 [num_segments, …]."""
    parts = []
    for start in range(0, len(segments), scoring.BATCH_SIZE):
        outputs = predict(segments[start : start + scoring.BATCH_SIZE])
        if not isinstance(outputs, (list, tuple)):
            outputs = [outputs]
        parts.append(np.concatenate([np.asarray(part) for part in outputs], axis=1))
    return np.concatenate(parts).astype("<f4") if parts else np.zeros(0, "<f4")


def check_teacher(
    teacher: keras.Model, student: keras.Model, shards: pipeline.Shards
) -> None:
    """Checks that a teacher can score the student's segments of the data.

    Raises:
        ValueError: it takes another sample rate or length, or has other tags.
    """
    info = models.model_info(teacher)
    scoring.check_match(info, shards)
    length = models.model_info(student).segmentation.num_samples
    if teacher.input_shape[1] not in (None, length):
        raise ValueError(
            f"The teacher {info.name} takes {teacher.input_shape[1]} samples, but the"
            f" student {student.name} takes {length}. Choose a student of the same"
            " length, or a teacher that takes any length."
        )


def check_whole_segments(recipe: TrainingRecipe, option: str) -> None:
    """Checks that a recipe takes the segments whose scores are stored.

    Raises:
        ValueError: it takes random crops.
    """
    if recipe.crops_per_clip:
        raise ValueError(
            "A teacher's scores are stored for whole segments, not for random crops."
            f" Add --crops-per-clip 0{option}."
        )


@dataclasses.dataclass(frozen=True)
class ScoredShards(pipeline.Shards):
    """Shards whose labels are followed by a teacher's stored scores.

    Attributes:
        scores_dir: Folder with one file of scores per shard, see `Stored`.
        unscored: The shards without scores.
    """

    scores_dir: Path = Path()
    unscored: pipeline.Shards | None = None

    @classmethod
    def of(cls, shards: pipeline.Shards, scores_dir: Path) -> "ScoredShards":
        """Returns the shards combined with the scores in a folder."""

        def parse(pair):
            return shards.parse(pair[0]) | {"scores": pair[1]}

        fields = vars(shards) | {"parse": parse, "scores_dir": scores_dir}
        return cls(**fields, unscored=shards)

    @property
    def stored(self) -> pipeline.Shards:
        """The shards without scores."""
        return self.unscored

    def read(self, path: tf.Tensor) -> tf.data.Dataset:
        """Returns pairs [2] of a serialized clip and its serialized scores."""
        name = tf.strings.regex_replace(path, r".*[/\\]", "")
        scores = tf.strings.join([str(self.scores_dir), name], os.sep)
        parts = super().read(path), tf.data.TFRecordDataset(scores)
        return tf.data.Dataset.zip(parts).map(lambda *pair: tf.stack(pair))

    def labels_of(self, clip: dict[str, tf.Tensor], num_segments) -> tf.Tensor:
        """Returns labels and scores: float32 [num_segments, num_tags + num_scores]."""
        scores = tf.io.decode_raw(clip["scores"], tf.float32)
        scores = tf.reshape(scores, [num_segments, -1])
        return tf.concat([super().labels_of(clip, num_segments), scores], axis=1)
