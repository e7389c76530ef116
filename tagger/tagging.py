"""Audio files in, scores over tags out, for files of any length and format.

path -> windows as the model wants them -> scores [num_tags], the mean over the windows.
"""

import dataclasses
import difflib
import itertools
import os
from collections.abc import Iterable, Iterator

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from tagger import models, pretrained
from tagger.audio import AudioDecodeError, stream_audio
from tagger.records import Window

BATCH_SIZE = 16  # windows scored at once; memory is bounded by one batch


@dataclasses.dataclass(frozen=True)
class Taggram:
    """Scores over time.

    Attributes:
        seconds: Where each window begins [num_windows]; before 0 where a model hears
            mirrored music before the file's own.
        window_seconds: Length of a window.
        scores: float32 [num_windows, num_tags].
    """

    seconds: np.ndarray
    window_seconds: float
    scores: np.ndarray


class Tagger:
    """A model with the names of its tags, ready for files.

    Args:
        model: From `models.load_model` or `conversion.load_model`.
        tags: Names of the scores, for a model that holds none.

    Attributes:
        model: The model.
        info: What it says of itself.
        tags: Names of the scores.

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
        self.model = model

    @classmethod
    def from_pretrained(cls, name: str = pretrained.DEFAULT) -> "Tagger":
        """A trained model of others, fetched once and kept: `pretrained.PRETRAINED`.

        Raises:
            ValueError, OSError, ImportError: see `pretrained.prepare`.
        """
        return cls(pretrained.load(name))

    def scores(self, path: str | os.PathLike) -> np.ndarray:
        """Scores of a file: float32 [num_tags], the mean over its windows.

        The file is resampled to the model's rate. One shorter than a window is repeated
        to fill it; a longer one's incomplete last window goes as the model says.

        Raises:
            AudioDecodeError: the file cannot be decoded.
        """
        total, num_windows = np.zeros(self.info.num_tags), 0
        for _, scores in self._scored_windows(path):
            total += scores.sum(axis=0)
            num_windows += len(scores)
        return (total / num_windows).astype(np.float32)

    def tag(self, path: str | os.PathLike) -> dict[str, float]:
        """Scores of a file by tag name, highest first."""
        scores = self.scores(path)
        return {
            self.tags[tag]: float(scores[tag])
            for tag in np.argsort(-scores, kind="stable")
        }

    def tag_numbers(self, names: Iterable[str]) -> list[int]:
        """Places of tags among the scores.

        Raises:
            ValueError: one is unknown; the message holds the most similar.
        """
        numbers = []
        for name in names:
            if name not in self.tags:
                alike = difflib.get_close_matches(name, self.tags, 5, 0.5)
                raise ValueError(
                    f"Model {self.info.name} knows no tag {name!r}."
                    + (" The nearest: " if alike else " It knows: ")
                    + ", ".join(alike or self.tags)
                    + "."
                )
            numbers.append(self.tags.index(name))
        return numbers

    def taggram(
        self, path: str | os.PathLike, hop_seconds: float | None = None
    ) -> Taggram:
        """Scores over time.

        Args:
            path: Audio of any length; memory is bounded by a batch of windows.
            hop_seconds: From one window to the next; None: as the model scores files.

        Raises:
            AudioDecodeError: the file cannot be decoded.
            ValueError: the hop is shorter than a sample or longer than a window.
        """
        seconds, scores = [], []
        name = os.path.basename(path)
        with tqdm(desc=f"Scoring {name}", unit="window", disable=None) as bar:
            for begins, scored in self._scored_windows(path, hop_seconds):
                seconds.append(begins)
                scores.append(scored)
                bar.update(len(scored))
        return Taggram(
            np.concatenate(seconds), self.window_seconds, np.concatenate(scores)
        )

    @property
    def window_seconds(self) -> float:
        """Length of what the model scores at once."""
        return self.info.window.num_samples / self.info.sample_rate

    def window(
        self, path: str | os.PathLike, start_seconds: float = 0.0
    ) -> tuple[np.ndarray, float]:
        """Reads one window of a file, and no more into memory.

        Args:
            path: Audio of any length.
            start_seconds: Where the window begins.

        Returns:
            float32 [num_samples], and how many seconds of it are the file's own: a file
            shorter than the window is repeated; behind a file's end are zeros.

        Raises:
            AudioDecodeError: the file cannot be decoded.
            ValueError: the window begins behind the file's end, or before 0.
        """
        start = round(start_seconds * self.info.sample_rate)
        num_samples, num_seen, pieces = self.info.window.num_samples, 0, []
        for block in stream_audio(path, self.info.sample_rate):
            first = max(start - num_seen, 0)
            last = start + num_samples - num_seen
            num_seen += len(block)
            if last > first:
                pieces.append(block[first:last])
            elif pieces:
                break
        piece = np.concatenate(pieces or [np.zeros(0, np.float32)])
        if start < 0 or not len(piece):
            length = num_seen / self.info.sample_rate
            raise ValueError(
                f"No window begins at {start_seconds:g} s of {str(path)!r}, which is"
                f" {length:.1f} s long."
            )
        own_seconds = len(piece) / self.info.sample_rate
        if start == 0:
            return np.resize(piece, num_samples), own_seconds
        return np.pad(piece, (0, num_samples - len(piece))), own_seconds

    def _scored_windows(
        self, path: str | os.PathLike, hop_seconds: float | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields where a batch of windows begins, in seconds, and their scores."""
        window, num_done = self.info.window, 0
        if hop_seconds is not None:
            hop_samples = round(hop_seconds * self.info.sample_rate)
            if not 1 <= hop_samples <= window.num_samples:
                raise ValueError(
                    f"A hop of {hop_seconds:g} s is not between a sample and a window."
                    f" Choose one up to {self.window_seconds:.2f} s."
                )
            # Overlapping windows leave no rest worth filling up.
            window = dataclasses.replace(
                window, hop_samples=hop_samples, remainder="drop"
            )
        windows = _windows(stream_audio(path, self.info.sample_rate), window)
        while batch := list(itertools.islice(windows, BATCH_SIZE)):
            # A power of two: few shapes, so the model is compiled few times.
            padded = np.zeros(
                (1 << (len(batch) - 1).bit_length(), window.num_samples), np.float32
            )
            padded[: len(batch)] = batch
            scores = np.asarray(self.model.predict_on_batch(padded))[: len(batch)]
            begins = np.arange(num_done, num_done + len(batch)) * window.hop_samples
            yield (begins - window.edge_samples) / self.info.sample_rate, scores
            num_done += len(batch)


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
