"""Runs a model on the segments of many audio files, in bounded memory.

    paths ──thread──▶ segments ──batches of many files──▶ rows of each file, in order
    paths ──worker processes, a model in each──▶ rows of each file, in order

A thread decodes at most a few batches ahead of the model. Only the rows, the model's
output per segment, stay in memory until a file is done.
"""

import collections
import contextlib
import dataclasses
import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated

import numpy as np
from tqdm import tqdm

from tagger.audio import (
    AudioDecodeError,
    Source,
    name_of,
    rough_seconds,
    stream_source,
)
from tagger.data import workers
from tagger.inference.engines import Engine, EngineSpec
from tagger.inference.excerpts import load_excerpts
from tagger.inference.results import Result, ScoringError
from tagger.options import Option
from tagger.segmentation import Segmentation, stream
from tagger.text import printable

BATCH_SIZE = 16  # segments per call of the model
MIN_WORKER_SECONDS = 300  # length of music that is worth starting workers


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """How files are read and run.

    A Python program that uses several processes must start under
    `if __name__ == "__main__"`.

    Attributes:
        num_excerpts: Number of segments of each file that the model hears, spread
            evenly and found without decoding the rest; None: all of them.
        num_workers: Number of worker processes on this machine; 1: this process alone;
            None: one per core that this process may use, and none for a few minutes of
            music.
        scheduler: Address of a Dask scheduler whose workers run the model; they must
            find the audio and the cache of models under the same paths.
    """

    num_excerpts: Annotated[int | None, Option(ge=1, flag="--excerpts")] = None
    num_workers: Annotated[int | None, Option(ge=1)] = 1
    scheduler: Annotated[str | None, Option(metavar="ADDRESS")] = None


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The output of a model for one file.

    Attributes:
        rows: Output per segment [num_segments, ...].
        seconds: Start of each segment [num_segments]; negative if the model mirrors the
            music at the start of the file.
        length_seconds: Length of the file.
    """

    rows: np.ndarray
    seconds: np.ndarray
    length_seconds: float


def stream_files(
    engine: Engine,
    paths: Iterable[Source],
    segmentation: Segmentation | None = None,
    outputs: Sequence[str] = ("scores",),
    options: StreamOptions = StreamOptions(),
    bar: tqdm | None = None,
) -> Iterator[Result[Outputs]]:
    """Runs a model on the segments of many files.

    Args:
        engine: Model to run.
        paths: Audio files of any length and format, or waveforms with their rates.
        segmentation: How files are cut into segments; None: as the model says.
        outputs: Names of the model's outputs, whose channels are joined.
        options: How files are read and run.
        bar: Progress bar from `progress`, or None.

    Yields:
        The output for each file, in the order of `paths`. A file that cannot be decoded
        does not stop the others.

    Raises:
        OSError, ImportError: see `workers.stream`.
    """
    reading = Reading(
        segmentation or engine.info.segmentation,
        engine.info.sample_rate,
        options.num_excerpts,
    )
    if options.num_workers is None:
        paths = list(paths)
    num_workers = _num_workers(engine, paths, options)
    if num_workers == 1 and not options.scheduler:
        pieces = read_segments(paths, reading)
    elif engine.spec is None:  # it has to stay in this process: a GPU, or Keras
        pieces = _decoded_by_workers(paths, reading, num_workers, options.scheduler)
    else:
        tasks = (_Task(path, reading, engine.spec, tuple(outputs)) for path in paths)
        done = workers.stream(_run, tasks, num_workers, options.scheduler)
        for number, (task, found) in enumerate(done, 1):
            if isinstance(found, workers.WorkersDied):
                found = Result(task.path, error=_killed(task.path, found))
            _move(bar, number)
            yield dataclasses.replace(found, path=task.path)
        return
    yield from stream_segments(engine.predictor(*outputs), pieces, reading, bar)


@dataclasses.dataclass(frozen=True)
class Reading:
    """Which segments of a file a model hears.

    Attributes:
        segmentation: How files are cut into segments.
        sample_rate: Sample rate of the model in Hz.
        num_excerpts: See `StreamOptions`.
    """

    segmentation: Segmentation
    sample_rate: int
    num_excerpts: int | None = None


def stream_segments(
    predict: Callable[[np.ndarray], np.ndarray],
    pieces: Iterator[tuple],
    reading: Reading,
    bar: tqdm | None = None,
) -> Iterator[Result[Outputs]]:
    """Runs a function on the segments of many files; a batch may hold several files.

    Args:
        predict: Function of float32 [batch, num_samples] that returns [batch, ...].
        pieces: Segments of the files, from `read_segments`.
        reading: Which segments of a file are heard.
        bar: Progress bar from `progress`, updated with every batch, or None.

    Yields:
        See `stream_files`.
    """
    files, batch, is_new, num_done = collections.deque(), [], True, 0

    def flush() -> None:
        if batch:
            _predict(predict, batch)
            batch.clear()

    def finished(file: "_File") -> Result[Outputs]:
        nonlocal num_done
        num_done += 1
        _move(bar, num_done)
        return file.result(reading)

    with contextlib.closing(pieces):
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
                    _move(bar, num_done + files[0].share(reading))
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
    """Marks the end of a file; `seconds` are the starts of its excerpts."""

    length_seconds: float
    error: AudioDecodeError | None = None
    seconds: list[float] | None = None


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

    def share(self, reading: Reading) -> float:
        """Returns the approximate share of the file that is done, 0 to 1."""
        if reading.num_excerpts:
            return min(len(self.rows) / reading.num_excerpts, 1)
        if self._rough_seconds is None:
            self._rough_seconds = rough_seconds(self.path)
        hop_seconds = reading.segmentation.hop_samples / reading.sample_rate
        seconds = len(self.rows) * hop_seconds
        return min(seconds / self._rough_seconds, 1) if self._rough_seconds else 0.0

    def result(self, reading: Reading) -> Result[Outputs]:
        """Returns the output for the file."""
        error = self.end.error
        if not self.rows and not error:
            error = AudioDecodeError(name_of(self.path), "it is too short")
        if not all(np.isfinite(row).all() for row in self.rows):
            error = error or ScoringError(name_of(self.path))
        if error:
            return Result(self.path, error=error)
        segmentation = reading.segmentation
        starts = np.arange(len(self.rows)) * segmentation.hop_samples
        seconds = (starts - segmentation.edge_samples) / reading.sample_rate
        if self.end.seconds is not None:
            seconds = np.array(self.end.seconds)
        rows = np.stack(self.rows)
        return Result(self.path, Outputs(rows, seconds, self.end.length_seconds))


def _move(bar: tqdm | None, place: float) -> None:
    if bar is not None:
        bar.update(max(place - bar.n, 0))


def _predict(predict: Callable, batch: list[tuple]) -> None:
    segments = np.stack([piece for _, piece in batch]).astype(np.float32, copy=False)
    for (file, _), row in zip(batch, predict(segments), strict=True):
        file.rows.append(row)
        file.num_waiting -= 1


def read_segments(paths: Iterable[Source], reading: Reading) -> Iterator[tuple]:
    """Yields the segments of files for `stream_segments`; a thread decodes ahead."""
    return _prefetched(_decoded(paths, reading))


def _decoded(paths: Iterable[Source], reading: Reading) -> Iterator[tuple]:
    """Yields (path, segment) for each segment of each file, then (path, _End)."""
    for path in paths:
        try:
            end = yield from _segments_of(path, reading)
        except AudioDecodeError as error:
            end = _End(0.0, error)
        yield path, end


def _segments_of(path: Source, reading: Reading):
    """Yields (path, segment) for each segment of a file; returns its _End."""
    segmentation, sample_rate = reading.segmentation, reading.sample_rate
    if reading.num_excerpts:
        excerpts = load_excerpts(
            path, sample_rate, segmentation.num_samples, reading.num_excerpts
        )
        if excerpts:
            for waveform in excerpts.waveforms:
                yield path, waveform
            return _End(excerpts.length_seconds, seconds=excerpts.seconds)
    num_samples = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal num_samples
        for block in stream_source(path, sample_rate):
            num_samples += len(block)
            yield block

    for segment in stream(blocks(), segmentation):
        yield path, segment
    return _End(num_samples / sample_rate)


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


# --- Worker processes -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Task:
    """One file for a worker process; without an engine, it only decodes."""

    path: Source
    reading: Reading
    spec: EngineSpec | None = None
    outputs: tuple[str, ...] = ()


def _run(task: _Task) -> Result[Outputs]:
    predict = _engine_of(task.spec).predictor(*task.outputs)
    pieces = _decoded([task.path], task.reading)
    (found,) = stream_segments(predict, pieces, task.reading)
    # The caller has the path; sending a waveform back would be wasted.
    return dataclasses.replace(found, path="")


@functools.cache
def _engine_of(spec: EngineSpec) -> Engine:
    """Returns the engine of this worker process, which is opened once."""
    return spec.open(num_threads=1)


def _decode(task: _Task) -> tuple[list[np.ndarray], "_End"]:
    *segments, (_, end) = _decoded([task.path], task.reading)
    return [segment for _, segment in segments], end


def _decoded_by_workers(
    paths: Sequence[Source], reading: Reading, num_workers: int, scheduler: str | None
) -> Iterator[tuple]:
    """Yields what `_decoded` does; worker processes decode the files."""
    tasks = (_Task(path, reading) for path in paths)
    # Segments are large, so only few files wait.
    for task, found in workers.stream(_decode, tasks, num_workers, scheduler, 2):
        if isinstance(found, workers.WorkersDied):
            found = [], _End(0.0, _killed(task.path, found))
        segments, end = found
        for segment in segments:
            yield task.path, segment
        yield task.path, end


def _killed(path: Source, error: workers.WorkersDied) -> AudioDecodeError:
    return AudioDecodeError(name_of(path), str(error))


def _num_workers(
    engine: Engine, paths: Sequence[Source], options: StreamOptions
) -> int:
    """Returns the number of worker processes; 1 means this process alone."""
    if options.num_workers is not None:
        return options.num_workers
    num_workers = min(workers.num_cores(), len(paths))
    if num_workers == 1 or engine.uses_all_cores:
        return 1
    # Starting workers costs as much as they gain in a few minutes of music.
    seconds = 0.0
    for path in paths:
        seconds += rough_seconds(path) or 0
        if seconds > MIN_WORKER_SECONDS:
            return num_workers
    return 1
