"""Audio files in, scores over tags out, for files of any length and format.

path -> windows as the model wants them -> scores [num_tags], the mean over the windows.
"""

import collections
import contextlib
import dataclasses
import difflib
import json
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from tagger import models, pretrained
from tagger.audio import AudioDecodeError, stream_audio
from tagger.records import Window

BATCH_SIZE = 16  # windows scored at once
AGGREGATES = ("mean", "max")
AUDIO_ENDINGS = (
    ".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".mp4", ".oga", ".ogg", ".opus",
    ".wav", ".wma",
)  # fmt: skip


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

    def aggregated(self, aggregate: str = "mean") -> np.ndarray:
        """Scores of the whole file, float32 [num_tags]: "mean" or "max" over windows.

        Raises:
            ValueError: it is neither.
        """
        if aggregate not in AGGREGATES:
            raise ValueError(
                f"Unknown aggregate {aggregate!r}. Choose one of:"
                f" {', '.join(AGGREGATES)}."
            )
        return getattr(np, aggregate)(self.scores, axis=0).astype(np.float32)


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
        return self.taggram(path).aggregated()

    def tag(self, path: str | os.PathLike) -> dict[str, float]:
        """Scores of a file by tag name, highest first."""
        return self.named(self.scores(path))

    def named(self, scores: np.ndarray) -> dict[str, float]:
        """Scores [num_tags] by tag name, highest first."""
        return {
            self.tags[tag]: float(scores[tag])
            for tag in np.argsort(-scores, kind="stable")
        }

    def thresholds(self, threshold: float | None) -> dict[str, float]:
        """From which score each tag applies.

        Args:
            threshold: One for all; below 0: those that the model holds; None: none, an
                empty table.

        Raises:
            ValueError: the model holds none.
        """
        if threshold is None:
            return {}
        if threshold >= 0:
            return dict.fromkeys(self.tags, threshold)
        if not self.info.thresholds:
            raise ValueError(
                f"Model {self.info.name} holds no thresholds. Give one with"
                " --threshold X, or tune them: eval.py --tune-thresholds."
            )
        return dict(zip(self.tags, self.info.thresholds, strict=True))

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
        name = os.path.basename(path)
        with tqdm(desc=f"Scoring {name}", unit="window", disable=None) as bar:
            ((_, found),) = self.taggrams([path], hop_seconds, bar)
        if isinstance(found, AudioDecodeError):
            raise found
        return found

    def taggrams(
        self,
        paths: Iterable[str | os.PathLike],
        hop_seconds: float | None = None,
        bar: tqdm | None = None,
    ) -> Iterator[tuple[str | os.PathLike, Taggram | AudioDecodeError]]:
        """Scores many files; windows of several share a batch.

        A thread decodes ahead of the model, by a few batches: memory does not hang on
        the number of files or their length.

        Args:
            paths: Audio of any length.
            hop_seconds: As for `taggram`.
            bar: Moves on with every window.

        Yields:
            Each path in order with its taggram, or with why it cannot be decoded.

        Raises:
            ValueError: the hop is shorter than a sample or longer than a window.
        """
        window = self._window(hop_seconds)
        files, batch, is_new = collections.deque(), [], True
        with contextlib.closing(_ahead(self._decoded(paths, window))) as pieces:
            for path, piece in pieces:
                if is_new:
                    files.append(_File(path))
                is_new = not isinstance(piece, np.ndarray)
                if is_new:
                    files[-1].end(piece)
                else:
                    batch.append((files[-1], piece))
                    files[-1].num_waiting += 1
                if len(batch) == BATCH_SIZE:
                    self._score(batch, bar)
                    batch = []
                while files and files[0].is_done:
                    yield self._finished(files.popleft(), window)
        self._score(batch, bar)
        for file in files:
            yield self._finished(file, window)

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

    def _window(self, hop_seconds: float | None) -> Window:
        window = self.info.window
        if hop_seconds is None:
            return window
        hop_samples = round(hop_seconds * self.info.sample_rate)
        if not 1 <= hop_samples <= window.num_samples:
            raise ValueError(
                f"A hop of {hop_seconds:g} s is not between a sample and a window."
                f" Choose one up to {self.window_seconds:.2f} s."
            )
        # Overlapping windows leave no rest worth filling up.
        return dataclasses.replace(window, hop_samples=hop_samples, remainder="drop")

    def _decoded(self, paths, window: Window) -> Iterator[tuple]:
        """Yields each path with every window of it, then with None or an error."""
        for path in paths:
            error = None
            try:
                blocks = stream_audio(path, self.info.sample_rate)
                for piece in _windows(blocks, window):
                    yield path, piece
            except AudioDecodeError as caught:
                error = caught
            yield path, error

    def _score(self, batch: list[tuple["_File", np.ndarray]], bar: tqdm | None) -> None:
        if not batch:
            return
        # A power of two: few shapes, so the model is compiled few times.
        padded = np.zeros(
            (1 << (len(batch) - 1).bit_length(), self.info.window.num_samples),
            np.float32,
        )
        padded[: len(batch)] = [piece for _, piece in batch]
        scores = np.asarray(self.model.predict_on_batch(padded))
        for (file, _), row in zip(batch, scores, strict=False):
            file.scores.append(row)
            file.num_waiting -= 1
        if bar is not None:
            bar.update(len(batch))

    def _finished(self, file: "_File", window: Window) -> tuple:
        if file.error is not None:
            return file.path, file.error
        begins = np.arange(len(file.scores)) * window.hop_samples - window.edge_samples
        seconds = begins / self.info.sample_rate
        return file.path, Taggram(seconds, self.window_seconds, np.stack(file.scores))


class _File:
    """A file whose windows are being scored."""

    def __init__(self, path: str | os.PathLike):
        self.path = path
        self.scores, self.num_waiting = [], 0
        self.error, self._has_ended = None, False

    def end(self, error: AudioDecodeError | None) -> None:
        self.error, self._has_ended = error, True

    @property
    def is_done(self) -> bool:
        return self._has_ended and not self.num_waiting


def _ahead(items: Iterator) -> Iterator:
    """The same items, made by a thread that is at most some batches ahead."""
    made = queue.Queue(4 * BATCH_SIZE)
    is_closed = threading.Event()

    def put(kind: str, item) -> None:
        while not is_closed.is_set():
            try:
                return made.put((kind, item), timeout=0.1)
            except queue.Full:
                pass

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if is_closed.is_set():
                    return
            put("end", None)
        except BaseException as error:  # the consumer's to handle
            put("error", error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            kind, item = made.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
    finally:
        is_closed.set()
        thread.join()


def tag_files(
    tagger: Tagger,
    paths: Iterable[str],
    hop_seconds: float | None = None,
    aggregate: str = "mean",
) -> Iterator[dict]:
    """Tags files; a bad one does not stop the rest.

    Args:
        tagger: The model.
        paths: Audio of any length.
        hop_seconds: See `Tagger.taggram`.
        aggregate: "mean" or "max" of a file's windows.

    Yields:
        `{"path": …, "tags": {name: score}}`, highest first, or `{"path", "error"}`.
    """
    for path, found in tagger.taggrams(paths, hop_seconds):
        if isinstance(found, AudioDecodeError):
            yield {"path": path, "error": str(found)}
        else:
            yield {"path": path, "tags": tagger.named(found.aggregated(aggregate))}


def taggram_table(taggram: Taggram, tags: list[str], tagger: Tagger) -> pd.DataFrame:
    """Scores of some tags over time: [tags, num_windows], index tag."""
    return pd.DataFrame(taggram.scores.T[tagger.tag_numbers(tags)], tags)


def audio_files(names: Iterable[str]) -> Iterator[str]:
    """Files named, and those in folders named, by their endings, in order of name.

    Raises:
        ValueError: a folder holds no audio.
    """
    for name in names:
        if not os.path.isdir(name):
            yield name
            continue
        found = sorted(
            os.path.join(folder, file)
            for folder, _, files in os.walk(name)
            for file in files
            if file.lower().endswith(AUDIO_ENDINGS)
        )
        if not found:
            raise ValueError(
                f"Folder {name!r} holds no audio: no file ends in one of"
                f" {', '.join(AUDIO_ENDINGS)}."
            )
        yield from found


def read_lines(path: str | os.PathLike) -> set[str]:
    """Paths of the files that were tagged, from lines of JSON; cuts off a half one.

    Files with an error are not among them: they are tried again.

    Raises:
        ValueError: the file holds something else.
    """
    *lines, half = Path(path).read_bytes().split(b"\n")
    try:
        rows = [json.loads(line) for line in lines]
        tagged = {row["path"] for row in rows if row["path"] and "tags" in row}
        if half and not half.startswith(b'{"path": '[: len(half)]):
            raise ValueError(half)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} holds no lines of JSON of `tag`. Choose another --output."
        ) from error
    os.truncate(path, os.path.getsize(path) - len(half))
    return tagged


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
