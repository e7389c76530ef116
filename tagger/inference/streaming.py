"""Audio files -> windows -> what a model makes of each, in bounded memory.

    paths ──thread──▶ windows ──batches of many files──▶ rows of each file, in order

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
from tagger.data.records import Window

BATCH_SIZE = 16  # windows the model takes at once


@dataclasses.dataclass(frozen=True)
class Streamed:
    """What a model made of a file.

    Attributes:
        path: As given.
        rows: One per window [num_windows, ...]; empty where there is an error.
        seconds: Where each window begins [num_windows]; before 0 where a model hears
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
    window: Window,
    sample_rate: int,
    bar: tqdm | None = None,
) -> Iterator[Streamed]:
    """Puts windows of many files through a model, those of several in one batch.

    Args:
        predict: float32 [batch, num_samples] -> [batch, ...].
        paths: Audio of any length and format.
        window: How a file is cut. One shorter than a window is repeated to fill it.
        sample_rate: In Hz.
        bar: From `progress`; moves on with every batch.

    Yields:
        Each file's rows, in order of `paths`; a bad one does not stop the rest.
    """
    files, batch, is_new, num_done = collections.deque(), [], True, 0

    def flush() -> None:
        if batch:
            _predict(predict, batch, window)
            batch.clear()

    def finished(file: "_File") -> Streamed:
        nonlocal num_done
        num_done += 1
        _move(bar, num_done)
        return file.streamed(window, sample_rate)

    with contextlib.closing(_ahead(_decoded(paths, window, sample_rate))) as pieces:
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
                    _move(bar, num_done + files[0].share(window, sample_rate))
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


def with_hop(window: Window, hop_seconds: float | None, sample_rate: int) -> Window:
    """The window, moved on by a hop; None leaves it as the model has it.

    Raises:
        ValueError: the hop is shorter than a sample or longer than a window.
    """
    if hop_seconds is None:
        return window
    longest = window.num_samples / sample_rate
    if not 1 / sample_rate <= hop_seconds <= longest:
        raise ValueError(
            f"A hop of {hop_seconds:g} s is not between a sample and a window. Choose"
            f" one up to {longest:.2f} s."
        )
    hop_samples = round(hop_seconds * sample_rate)
    # Overlapping windows leave no rest worth filling up.
    return dataclasses.replace(window, hop_samples=hop_samples, remainder="drop")


@dataclasses.dataclass(frozen=True)
class _End:
    """A file has no more windows."""

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

    def share(self, window: Window, sample_rate: int) -> float:
        """About how much of it is through, 0 to 1."""
        if self._rough_seconds is None:
            self._rough_seconds = rough_seconds(self.path)
        seconds = len(self.rows) * window.hop_samples / sample_rate
        return min(seconds / self._rough_seconds, 1) if self._rough_seconds else 0.0

    def streamed(self, window: Window, sample_rate: int) -> Streamed:
        if self.end.error:
            self.rows = []
        begins = np.arange(len(self.rows)) * window.hop_samples - window.edge_samples
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


def _predict(predict: Callable, batch: list[tuple], window: Window) -> None:
    # A power of two: few shapes, so the model is compiled few times.
    size = 1 << (len(batch) - 1).bit_length()
    padded = np.zeros((size, window.num_samples), np.float32)
    padded[: len(batch)] = [piece for _, piece in batch]
    for (file, _), row in zip(batch, np.asarray(predict(padded)), strict=False):
        file.rows.append(row)
        file.num_waiting -= 1


def _decoded(paths: Iterable, window: Window, sample_rate: int) -> Iterator[tuple]:
    """Yields each path with every window of it, then with its end."""
    for path in paths:
        num_samples, error = 0, None

        def blocks(path=path) -> Iterator[np.ndarray]:
            nonlocal num_samples
            for block in stream_audio(path, sample_rate):
                num_samples += len(block)
                yield block

        try:
            for piece in windows(blocks(), window):
                yield path, piece
        except AudioDecodeError as caught:
            error = caught
        yield path, _End(num_samples / sample_rate, error)


def windows(blocks: Iterator[np.ndarray], window: Window) -> Iterator[np.ndarray]:
    """Cuts a stream of blocks [any length] into windows [num_samples]."""
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
