"""A teacher's scores of every segment, computed once and stored for all epochs.

shards ─▶ store ─▶ a folder with one file of records per shard ─▶ StoredScores
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tagger import models, storage
from tagger.data.clips import Clips, Shards, outputs_of
from tagger.data.records import CorruptShardError, ShardWriter, read_shard, spans
from tagger.evaluation import scoring
from tagger.inference.selection import open_engine
from tagger.models.files import read_info
from tagger.models.metadata import read_graph
from tagger.segmentation import Segmentation, to_float
from tagger.text import TaggerError
from tagger.weights import pretrained

ABOUT_NAME = "about.json"


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a teacher says about each segment.

    Attributes:
        teacher: Model file, or name of a pretrained model.
        segmentation: How the student cuts clips into segments.
        has_embeddings: Whether the teacher's embedding follows its scores.
    """

    teacher: str | os.PathLike
    segmentation: Segmentation
    has_embeddings: bool = False

    def folder(self, parent: Path, shards: Shards) -> Path:
        """Returns the folder of the scores of some data, whether or not it exists."""
        about = [
            pretrained.digest(self.teacher),
            shards.manifest.identity(),
            dataclasses.asdict(self.segmentation.dropping()),
            self.has_embeddings,
        ]
        text = json.dumps(about, sort_keys=True)
        return parent / f"scores-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def matching_stored(self, parent: Path, shards: Shards) -> "Stored":
        """Returns the variant whose scores are stored; prefers the one as it is.

        Stored scores that include embeddings also serve runs that need none.

        Args:
            parent: Folder of the folders of scores.
            shards: Data that was scored.
        """
        full = dataclasses.replace(self, has_embeddings=True)
        folders = [stored.folder(parent, shards) for stored in (self, full)]
        return full if [f.exists() for f in folders] == [False, True] else self

    def store(self, shards: Shards, split: str, parent: Path) -> Path:
        """Stores the teacher's outputs for every complete segment of a split.

        There is one record per clip: float32 little-endian bytes [num_segments,
        num_tags + embedding size]. Intact files are kept, damaged ones rewritten.

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
            with storage.file_lock(folder / ABOUT_NAME, "`scores_dir=`", waits=True):
                for left in folder.glob(f"{storage.UNFINISHED}*"):  # of a killed run
                    left.unlink()
                self._store_missing(shards, split, folder)
        return folder

    def _store_missing(self, shards: Shards, split: str, folder: Path) -> None:
        clips, rule = shards.clips(split), self.segmentation.dropping()
        of_shard = [
            clips.chosen(clips.rows["shard"] == n) for n in range(len(clips.paths))
        ]
        missing = [
            (path, held)
            for path, held in zip(clips.paths, of_shard, strict=True)
            if not _is_whole(folder / path.name, held.num_segments(rule))
        ]
        if not missing:
            return
        text = json.dumps({"teacher": str(self.teacher)})  # for people
        storage.write_text_atomically(folder / ABOUT_NAME, f"{text}\n")
        of_segments = self._scorer(shards)
        for path, held in tqdm(missing, f"Scoring {split}", unit="shard", disable=None):
            with ShardWriter(folder / path.name) as writer:
                for scored in outputs_of(of_segments, held, rule, scoring.BATCH_SIZE):
                    rows = np.concatenate(scored, axis=1).astype("<f4")
                    if not np.isfinite(rows).all():
                        raise TaggerError(
                            f"The teacher {self.teacher} returns NaN or infinity for a"
                            f" clip of {path}. Choose another teacher."
                        )
                    writer.write(rows.tobytes())

    def _scorer(self, shards: Shards) -> Callable[[np.ndarray], list[np.ndarray]]:
        """Returns a function of segments, as stored, to the teacher's outputs."""
        path, length = pretrained.path_of(self.teacher), self.segmentation.num_samples
        is_fitting = read_info(path).segmentation.num_samples == length
        if read_graph(path) and is_fitting and not shards.manifest.features:
            # ONNX Runtime is faster, but a graph takes waveforms of one length only.
            outputs = ("scores", "embedding")[: 1 + self.has_embeddings]
            run = open_engine(self.teacher).predictor(*outputs)
            return lambda segments: [run(to_float(segments))]
        teacher = pretrained.load(self.teacher)
        if not self.has_embeddings:
            predict = scoring.predictor(teacher, shards)
            return lambda segments: [predict(segments)]
        return scoring.predictor(models.with_embedding(teacher), shards)


def _is_whole(path: Path, num_segments: np.ndarray) -> bool:
    """Returns whether a file holds scores of each clip, which match their CRCs.

    Args:
        path: File of scores.
        num_segments: Number of segments of each clip.
    """
    try:
        num_bytes = np.array([len(scores) for scores in read_shard(path)])
    except (FileNotFoundError, CorruptShardError):
        return False
    if len(num_bytes) != len(num_segments):
        return False
    per_segment = num_bytes / num_segments
    return bool((per_segment == per_segment[0]).all() and per_segment[0])


class StoredScores:
    """The stored scores of some clips, of which only their places are in memory.

    Args:
        folder: Folder with one file of scores per shard, see `Stored`.
        clips: All clips of a split.
        segmentation: How clips are cut.
    """

    def __init__(self, folder: Path, clips: Clips, segmentation: Segmentation):
        self._paths = [folder / path.name for path in clips.paths]
        self._shards, places = clips.rows["shard"], []
        for path in self._paths:
            with path.open("rb") as file:
                places += spans(path, file)
        self._starts = [start for start, _ in places]
        num_bytes = places[0][1] - places[0][0]
        num_segments = int(clips.num_segments(segmentation.dropping())[0])
        self.num_outputs = num_bytes // (4 * num_segments)

    def __call__(self, clips: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """Reads the scores of segments.

        Args:
            clips: Number of each segment's clip.
            segments: Number of each segment in its clip.

        Returns:
            float32 [num_segments, num_outputs]: scores, then embeddings if there are.
        """
        rows = np.empty((len(clips), self.num_outputs), "<f4")
        for row, clip, segment in zip(
            rows, clips.tolist(), segments.tolist(), strict=True
        ):
            with self._paths[self._shards[clip]].open("rb", buffering=0) as file:
                file.seek(self._starts[clip] + segment * row.nbytes)
                file.readinto(row)
        return rows

    def of_clips(self) -> Iterator[np.ndarray]:
        """Yields the outputs of each clip, float32 [num_segments, num_outputs]."""
        for path in self._paths:
            for clip in read_shard(path):
                yield np.frombuffer(clip, "<f4").reshape(-1, self.num_outputs)
