"""Audio files -> segments -> what a model makes of each, in bounded memory.

    paths ──thread──▶ segments ──batches of many files──▶ rows of each file, in order

A thread decodes at most a few batches ahead of the model; only a file's rows are kept.
"""

import collections
import contextlib
import dataclasses
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from tqdm import tqdm

from tagger.audio import AudioDecodeError, rough_seconds, stream_audio
from tagger.segmentation import Segmentation, stream

BATCH_SIZE = 16  # segments the model takes at once


@dataclasses.dataclass(frozen=True)
class Streamed:
    """What a model made of a file.

    Attributes:
        path: As given.
        rows: One per segment [num_segments, ...]; empty where there is an error.
        seconds: Where each segment begins [num_segments]; before 0 where a model hears
            mirrored music before the file's own.
        length_seconds: Of the file.
        error: Why it cannot be decoded, or None.
    """

    path: str | os.PathLike
    rows: np.ndarray
    seconds: np.ndarray
    length_seconds: float
    error: AudioDecodeError | None = None


def stream_files(
    predict: Callable[[np.ndarray], np.ndarray],
    paths: Iterable[str | os.PathLike],
    segmentation: Segmentation,
    sample_rate: int,
    bar: tqdm | None = None,
) -> Iterator[Streamed]:
    """Puts segments of many files through a model, those of several in one batch.

    Args:
        predict: float32 [batch, num_samples] -> [batch, ...].
        paths: Audio of any length and format.
        segmentation: How files are cut.
        sample_rate: In Hz.
        bar: From `progress`; moves on with every batch.

    Yields:
        Each file's rows, in order of `paths`; a bad one does not stop the rest.
    """
    files, batch, is_new, num_done = collections.deque(), [], True, 0

    def flush() -> None:
        if batch:
            _predict(predict, batch, segmentation)
            batch.clear()

    def finished(file: "_File") -> Streamed:
        nonlocal num_done
        num_done += 1
        _move(bar, num_done)
        return file.streamed(segmentation, sample_rate)

    with contextlib.closing(
        _prefetched(_decoded(paths, segmentation, sample_rate))
    ) as pieces:
        for path, piece in pieces:
            if is_new:
                files.append(_File(path))
            is_new = isinstance(piece, _End)
            if is_new:
                files[-1].end = piece
            else:
                batch.append((files[-1], piece))
                files[-1].num_waiting += 1
            if len(batch) == BATCH_SIZE:
                flush()
                if bar is not None and not bar.disable:
                    _move(bar, num_done + files[0].share(segmentation, sample_rate))
            while files and files[0].is_done:
                yield finished(files.popleft())
    flush()
    for file in files:
        yield finished(file)


def progress(num_files: int, what: str) -> tqdm:
    """A bar over files that moves on within them too, with the time left."""
    return tqdm(
        desc=what,
        total=num_files,
        unit="file",
        disable=None,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} files"
        " [{elapsed}<{remaining}]",
    )


@dataclasses.dataclass(frozen=True)
class _End:
    """A file has no more segments."""

    length_seconds: float
    error: AudioDecodeError | None


class _File:
    """A file on its way through the model."""

    def __init__(self, path: str | os.PathLike):
        self.path = path
        self.rows, self.num_waiting = [], 0
        self.end = None
        self._rough_seconds = None

    @property
    def is_done(self) -> bool:
        return self.end is not None and not self.num_waiting

    def share(self, segmentation: Segmentation, sample_rate: int) -> float:
        """About how much of it is through, 0 to 1."""
        if self._rough_seconds is None:
            self._rough_seconds = rough_seconds(self.path)
        seconds = len(self.rows) * segmentation.hop_samples / sample_rate
        return min(seconds / self._rough_seconds, 1) if self._rough_seconds else 0.0

    def streamed(self, segmentation: Segmentation, sample_rate: int) -> Streamed:
        if self.end.error:
            self.rows = []
        begins = (
            np.arange(len(self.rows)) * segmentation.hop_samples
            - segmentation.edge_samples
        )
        return Streamed(
            self.path,
            np.stack(self.rows) if self.rows else np.zeros((0, 0), np.float32),
            begins / sample_rate,
            self.end.length_seconds,
            self.end.error,
        )


def _move(bar: tqdm | None, place: float) -> None:
    if bar is not None:
        bar.update(max(place - bar.n, 0))


def _predict(predict: Callable, batch: list[tuple], segmentation: Segmentation) -> None:
    # A power of two: few shapes, so the model is compiled few times.
    size = 1 << (len(batch) - 1).bit_length()
    padded = np.zeros((size, segmentation.num_samples), np.float32)
    padded[: len(batch)] = [piece for _, piece in batch]
    for (file, _), row in zip(batch, np.asarray(predict(padded)), strict=False):
        file.rows.append(row)
        file.num_waiting -= 1


def _decoded(
    paths: Iterable, segmentation: Segmentation, sample_rate: int
) -> Iterator[tuple]:
    """Yields each path with every segment of it, then with its end."""
    for path in paths:
        num_samples, error = 0, None

        def blocks(path=path) -> Iterator[np.ndarray]:
            nonlocal num_samples
            for block in stream_audio(path, sample_rate):
                num_samples += len(block)
                yield block

        try:
            for piece in stream(blocks(), segmentation):
                yield path, piece
        except AudioDecodeError as caught:
            error = caught
        yield path, _End(num_samples / sample_rate, error)


def _prefetched(items: Iterator) -> Iterator:
    """Yields the same items, which a thread makes a few batches ahead."""
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
