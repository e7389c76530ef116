"""Runs a model on the segments of many audio files, in bounded memory.

    paths ──thread──▶ segments ──batches of many files──▶ rows of each file, in order

A thread decodes at most a few batches ahead of the model. Only the rows, the model's
output per segment, stay in memory until a file is done.
"""

import collections
import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from tqdm import tqdm

from tagger.audio import (
    AudioDecodeError,
    Source,
    name_of,
    rough_seconds,
    stream_source,
)
from tagger.segmentation import Segmentation, stream
from tagger.validation import printable

BATCH_SIZE = 16  # segments per call of the model


class ScoringError(ValueError):
    """A model gives NaN for a file; the message holds the file's path."""

    def __init__(self, path: Source):
        super().__init__(
            f"Cannot score {name_of(path)!r}: the model's output holds NaN or infinite"
            " numbers. Use another model if this happens with every file."
        )


@dataclasses.dataclass(frozen=True)
class Streamed:
    """The output of a model for one file.

    Attributes:
        path: Path of the file, or waveform with its sample rate, as given.
        rows: Output per segment [num_segments, ...]; empty if there is an error.
        seconds: Start of each segment [num_segments]; negative if the model mirrors the
            music at the start of the file.
        length_seconds: Length of the file.
        error: Why the file cannot be decoded or scored, or None.
    """

    path: Source
    rows: np.ndarray
    seconds: np.ndarray
    length_seconds: float
    error: AudioDecodeError | ScoringError | None = None


def stream_files(
    predict: Callable[[np.ndarray], np.ndarray],
    paths: Iterable[Source],
    segmentation: Segmentation,
    sample_rate: int,
    bar: tqdm | None = None,
) -> Iterator[Streamed]:
    """Runs a model on the segments of many files; a batch may hold several files.

    Args:
        predict: Function of float32 [batch, num_samples] that returns [batch, ...].
        paths: Audio files of any length and format, or waveforms with their rates.
        segmentation: How files are cut into segments.
        sample_rate: Sample rate of the model in Hz.
        bar: Progress bar from `progress`, updated with every batch, or None.

    Yields:
        The output for each file, in the order of `paths`. A file that cannot be decoded
        does not stop the others.
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
    """Returns a progress bar over files that also advances within each file."""
    return tqdm(
        desc=printable(what),
        total=num_files,
        unit="file",
        disable=None,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} files"
        " [{elapsed}<{remaining}]",
    )


@dataclasses.dataclass(frozen=True)
class _End:
    """Marks the end of a file."""

    length_seconds: float
    error: AudioDecodeError | None


class _File:
    """A file that is being processed."""

    def __init__(self, path: Source):
        self.path = path
        self.rows, self.num_waiting = [], 0
        self.end = None
        self._rough_seconds = None

    @property
    def is_done(self) -> bool:
        """Whether all segments of the file have been predicted."""
        return self.end is not None and not self.num_waiting

    def share(self, segmentation: Segmentation, sample_rate: int) -> float:
        """Returns the approximate share of the file that is done, 0 to 1."""
        if self._rough_seconds is None:
            is_file = not isinstance(self.path, tuple)
            self._rough_seconds = rough_seconds(self.path) if is_file else 0
        seconds = len(self.rows) * segmentation.hop_samples / sample_rate
        return min(seconds / self._rough_seconds, 1) if self._rough_seconds else 0.0

    def streamed(self, segmentation: Segmentation, sample_rate: int) -> Streamed:
        """Returns the output for the file."""
        error = self.end.error
        if not all(np.isfinite(row).all() for row in self.rows):
            error = error or ScoringError(self.path)
        if error:
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
            error,
        )


def _move(bar: tqdm | None, place: float) -> None:
    if bar is not None:
        bar.update(max(place - bar.n, 0))


def _predict(predict: Callable, batch: list[tuple], segmentation: Segmentation) -> None:
    # Padded to a power of two: few shapes, so the model is compiled few times.
    size = 1 << (len(batch) - 1).bit_length()
    padded = np.zeros((size, segmentation.num_samples), np.float32)
    padded[: len(batch)] = [piece for _, piece in batch]
    for (file, _), row in zip(batch, np.asarray(predict(padded)), strict=False):
        file.rows.append(row)
        file.num_waiting -= 1


def _decoded(
    paths: Iterable, segmentation: Segmentation, sample_rate: int
) -> Iterator[tuple]:
    """Yields (path, segment) for each segment of each file, then (path, _End)."""
    for path in paths:
        num_samples, error = 0, None

        def blocks(path=path) -> Iterator[np.ndarray]:
            nonlocal num_samples
            for block in stream_source(path, sample_rate):
                num_samples += len(block)
                yield block

        try:
            for piece in stream(blocks(), segmentation):
                yield path, piece
        except AudioDecodeError as caught:
            error = caught
        yield path, _End(num_samples / sample_rate, error)


def _prefetched(items: Iterator) -> Iterator:
    """Yields the same items, which a thread computes a few batches ahead."""
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
        except BaseException as error:  # raised in the consumer
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
