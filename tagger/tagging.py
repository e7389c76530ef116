"""Audio files in, scores over tags out, for files of any length and format.

path -> windows as the model wants them -> scores [num_tags], the mean over the windows.
"""

import os
from collections.abc import Iterable, Iterator

import keras
import numpy as np
import pandas as pd

from tagger import models
from tagger.audio import AudioDecodeError, stream_audio
from tagger.records import Window

BATCH_SIZE = 16  # windows scored at once; memory is bounded by one batch


class Tagger:
    """A model with the names of its tags, ready for files.

    Args:
        model: From `models.load_model` or `conversion.load_model`.
        tags: Names of the scores, for a model that holds none.

    Raises:
        ValueError: nobody knows the names, or their number is not the model's.
    """

    def __init__(self, model: keras.Model, tags: tuple[str, ...] | None = None):
        self.info = models.model_info(model)
        self.tags = self.info.tags or tags
        if not self.tags:
            raise ValueError(
                f"Model {self.info.name} holds no tag names. Give the shards it was"
                " trained on with --data-dir; names and order are read from their"
                " manifest."
            )
        if len(self.tags) != self.info.num_tags:
            raise ValueError(
                f"Model {self.info.name} scores {self.info.num_tags} tags, but there"
                f" are {len(self.tags)} names."
            )
        self._model = model

    def scores(self, path: str | os.PathLike) -> np.ndarray:
        """Scores of a file: float32 [num_tags], the mean over its windows.

        The file is resampled to the model's rate. One shorter than a window is repeated
        to fill it; a longer one's incomplete last window goes as the model says.

        Raises:
            AudioDecodeError: the file cannot be decoded.
        """
        total, num_windows = np.zeros(self.info.num_tags), 0
        for batch in self._batches(path):
            # A power of two: few shapes, so the model is compiled few times.
            padded = np.zeros(
                (1 << (len(batch) - 1).bit_length(), batch.shape[1]), np.float32
            )
            padded[: len(batch)] = batch
            total += np.asarray(self._model.predict_on_batch(padded))[: len(batch)].sum(
                axis=0
            )
            num_windows += len(batch)
        return (total / num_windows).astype(np.float32)

    def tag(self, path: str | os.PathLike) -> dict[str, float]:
        """Scores of a file by tag name, highest first."""
        scores = self.scores(path)
        return {
            self.tags[tag]: float(scores[tag])
            for tag in np.argsort(-scores, kind="stable")
        }

    def _batches(self, path: str | os.PathLike) -> Iterator[np.ndarray]:
        windows = []
        for window in _windows(
            stream_audio(path, self.info.sample_rate), self.info.window
        ):
            windows.append(window)
            if len(windows) == BATCH_SIZE:
                yield np.stack(windows)
                windows = []
        if windows:
            yield np.stack(windows)


def tag_files(tagger: Tagger, paths: Iterable[str]) -> Iterator[dict]:
    """Tags files one after the other; a bad one does not stop the rest.

    Yields:
        `{"path": …, "tags": {name: score}}`, highest first, or `{"path", "error"}`.
    """
    for path in paths:
        try:
            yield {"path": path, "tags": tagger.tag(path)}
        except AudioDecodeError as error:
            yield {"path": path, "error": str(error)}


def scores_table(rows: list[dict], tags: tuple[str, ...]) -> pd.DataFrame:
    """A row per file: path, a column per tag, and error where a file had one."""
    columns = [
        "path",
        *tags,
        *(["error"] if any("error" in row for row in rows) else []),
    ]
    flat = [{**row, **row.get("tags", {})} for row in rows]
    return pd.DataFrame(flat).reindex(columns=columns)


def _windows(blocks: Iterator[np.ndarray], window: Window) -> Iterator[np.ndarray]:
    """Cuts a stream of blocks into windows [num_samples]."""
    blocks = _filled(blocks, window.num_samples - 2 * window.edge_samples)
    rest = np.zeros(0, np.float32)
    for block in _mirrored(blocks, window.edge_samples):
        rest = np.concatenate([rest, block])
        while len(rest) >= window.num_samples:
            yield rest[: window.num_samples]
            rest = rest[window.hop_samples :]
    if len(rest) and window.remainder == "pad":
        yield np.pad(rest, (0, window.num_samples - len(rest)))


def _filled(blocks: Iterator[np.ndarray], num_samples: int) -> Iterator[np.ndarray]:
    """Repeats a stream that is shorter than so many samples to fill them."""
    start = np.zeros(0, np.float32)
    for block in blocks:
        start = np.concatenate([start, block])
        if len(start) >= num_samples:
            yield start
            yield from blocks
            return
    if len(start):
        yield np.resize(start, num_samples)  # np.resize repeats


def _mirrored(blocks: Iterator[np.ndarray], num_samples: int) -> Iterator[np.ndarray]:
    """Puts a stream's first and last samples, mirrored, before and behind it."""
    if not num_samples:
        yield from blocks
        return
    end = None
    for block in blocks:
        if end is None:
            yield block[num_samples:0:-1]
            end = block[:0]
        yield block
        end = np.concatenate([end, block])[-num_samples - 1 :]
    if end is not None:
        yield end[-2::-1]
