"""Batches for training: a batch is a pure function of seed, order and number.

    Clips ─▶ Batches ─┐
    Clips ─▶ Batches ─┴▶ Mixture ─▶ batch(number) ─▶ feed ─▶ keras.Model.fit

A run that resumes at batch n reads what an uninterrupted one reads there; of P
processes, each reads its share of the batches that one process would read.
"""

import contextlib
import dataclasses
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from tagger import storage
from tagger.data.clips import Clips, ahead, default_threads
from tagger.segmentation import Segmentation
from tagger.text import TaggerError

# Segments are shuffled among this many of their neighbours, after clips are shuffled as
# a whole. The first segment of a clip lets the system read all of it: the others are
# then in its cache, which spares a disk seeks if the data is larger than memory.
WINDOW = 4096


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How training reads its shards.

    Attributes:
        seed: Seed of the order and of the crops.
        crops_per_clip: Number of segments per clip and epoch that start anywhere in the
            clip. 0: an epoch is every complete segment of every clip.
        process_id: Number of this process, from 0.
        num_processes: Number of processes that train together.
    """

    seed: int = 0
    crops_per_clip: int = 0
    process_id: int = 0
    num_processes: int = 1


class Batches:
    """Endless batches of shuffled segments of some clips, epoch after epoch.

    Args:
        clips: Clips to read.
        segmentation: How they are cut. Incomplete segments are dropped.
        batch_size: Segments per batch of this process; an incomplete last batch of an
            epoch is dropped.
        options: How to read.
        scores: Function of the numbers of clips and of segments, each [batch_size], to
            further columns of the targets, float32 [batch_size, any number].

    Raises:
        ValueError: the records do not hold such segments.
    """

    def __init__(
        self,
        clips: Clips,
        segmentation: Segmentation,
        batch_size: int,
        options: ReadOptions = ReadOptions(),
        scores: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    ):
        self._clips, self._segmentation = clips, segmentation.dropping()
        self._options, self._scores = options, scores
        self._shape = (batch_size, *clips.segment_shape(segmentation))
        if options.crops_per_clip and clips.shards.manifest.features:
            raise TaggerError(
                f"{clips.shards.directory} holds log-mel spectrograms, so random crops"
                " are not possible. Build waveform records (without `features=`), or"
                " train on complete segments (`crops_per_clip=0`)."
            )
        self._counts = clips.num_segments(self._segmentation)
        if options.crops_per_clip:
            self._counts[:] = options.crops_per_clip
        self._drawn = functools.lru_cache(maxsize=2)(self._draw)
        self._drawing = threading.Lock()

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return int(self._counts.sum()) // self._num_together

    @property
    def _num_together(self) -> int:
        """Number of segments in a batch of all processes."""
        return self._shape[0] * self._options.num_processes

    def _draw(self, epoch: int) -> tuple[np.ndarray, ...]:
        """Returns the segments of an epoch.

        Each has a clip, a number in the clip, a first sample, and whether it is the
        first of a clip that is read as a whole.
        """
        random = np.random.default_rng([self._options.seed, epoch])
        order = random.permutation(len(self._clips))
        clips = np.repeat(order, self._counts[order])
        segments = np.arange(len(clips))
        segments -= np.repeat(np.cumsum(self._counts[order]), self._counts[order])
        segments += self._counts[clips]
        if self._options.crops_per_clip:
            starts = random.integers(self._clips.num_crops(self._segmentation)[clips])
        else:
            starts = segments * self._segmentation.hop_samples
        windows = np.arange(len(clips)) // WINDOW
        shuffled = np.lexsort((random.random(len(clips)), windows))
        clips, is_first = clips[shuffled], np.zeros(len(clips), bool)
        if not self._options.crops_per_clip:
            is_first[np.unique(clips, return_index=True)[1]] = True
        return clips, segments[shuffled], starts[shuffled], is_first

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads a batch.

        Args:
            number: Number of the batch, counted from the start of training.

        Returns:
            Segments, in the data type of the shards [batch_size, *shape], and labels
            float32 [batch_size, num_tags], UNLABELLED where they are unknown.

        Raises:
            CorruptShardError: a record is damaged; the message names it.
        """
        epoch, place = divmod(int(number), len(self))
        start = place * self._num_together + self._options.process_id * self._shape[0]
        with self._drawing:  # or every thread would draw a new epoch
            drawn = self._drawn(epoch)
        clips, numbers, starts, is_first = (
            column[start : start + self._shape[0]] for column in drawn
        )
        for clip in clips[is_first].tolist():
            self._clips.expect(clip)
        segments = np.empty(self._shape, self._clips.dtype)
        for clip, first, segment in zip(
            clips.tolist(), starts.tolist(), segments, strict=True
        ):
            self._clips.read_segment(clip, self._segmentation, first, segment)
        labels = self._clips.labels[clips].astype(np.float32)
        if self._scores:
            labels = np.concatenate([labels, self._scores(clips, numbers)], axis=1)
        return segments, labels


class Mixture:
    """Batches of which each source gives a share, in the order of the sources.

    This mixes labelled and unlabelled music for the noisy student, or datasets with the
    same tags. An epoch is as long as the first source's.

    Args:
        sources: Clips of each source.
        weights: Share of each source, relative to the others.
        segmentation: How clips are cut.
        batch_size: Segments per batch, of all sources together.
        options: How to read; each source derives its own seed.
        scores: See `Batches`, for each source.

    Raises:
        ValueError: the sources differ in tags, sample rate or kind of records, a weight
            is not positive, or the batch is too small for all sources.
    """

    def __init__(
        self,
        sources: Sequence[Clips],
        weights: Sequence[float],
        segmentation: Segmentation,
        batch_size: int,
        options: ReadOptions = ReadOptions(),
        scores: Sequence[Callable | None] | None = None,
    ):
        first = sources[0].shards
        for source in sources[1:]:
            fields = ["sample_rate", "features", "segment_dtype"]
            fields += ["tags"] * bool((source.labels >= 0).any())
            for field in fields:
                one, other = (
                    getattr(s.manifest, field) for s in (first, source.shards)
                )
                if one != other:
                    raise TaggerError(
                        f"{first.directory} and {source.shards.directory} cannot be"
                        f" mixed: {field} is {one} in the first but {other} in the"
                        " second."
                    )
        self.shares = split_batch(weights, batch_size)
        self._parts = [
            Batches(
                source, segmentation, share,
                dataclasses.replace(options, seed=options.seed + 7919 * n), one,
            )
            for n, (source, share, one) in enumerate(
                zip(sources, self.shares, scores or [None] * len(sources), strict=True)
            )
        ]  # fmt: skip
        for source, share, part in zip(sources, self.shares, self._parts, strict=True):
            if not len(part):
                raise TaggerError(
                    f"{source.shards.directory} holds fewer segments than the {share}"
                    " that one batch needs. Choose a smaller `batch_size=`."
                )

    def __len__(self) -> int:
        """Number of batches in an epoch of the first source."""
        return len(self._parts[0])

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads a batch, see `Batches.batch`."""
        parts = [part.batch(number) for part in self._parts]
        segments, labels = zip(*parts, strict=True)
        return np.concatenate(segments), np.concatenate(labels)


def split_batch(weights: Sequence[float], batch_size: int) -> list[int]:
    """Splits a batch by weights; the largest remainders are rounded up.

    Raises:
        ValueError: a weight is not positive, or a source gets no segment.
    """
    if min(weights) <= 0:
        raise TaggerError(f"Weights of sources must be positive, not {min(weights):g}.")
    exact = np.array(weights) / sum(weights) * batch_size
    dealt = np.floor(exact).astype(int)
    dealt[np.argsort(dealt - exact, kind="stable")[: batch_size - dealt.sum()]] += 1
    if dealt.min() < 1:
        raise TaggerError(
            f"A batch of {batch_size} is too small for {len(weights)} sources with the"
            f" weights {', '.join(f'{w:g}' for w in weights)}. Choose a larger"
            " `batch_size=`."
        )
    return dealt.tolist()


# --- To Keras -------------------------------------------------------------------------


@contextlib.contextmanager
def feed(batch: Callable, first: int = 0, num_threads: int | None = None) -> Iterator:
    """Yields what `keras.Model.fit` takes: endless batches, read ahead by threads.

    Args:
        batch: Function from the number of a batch to arrays of the same shapes and
            dtypes in every batch, in any nesting of tuples.
        first: Number of the first batch.
        num_threads: Number of threads that read. Default: one per core, at most 8.

    Raises:
        Exception: what `batch` raised within the block.
    """
    num_threads = num_threads or default_threads()
    if keras.backend.backend() == "tensorflow":
        feeding = _dataset(batch, first, num_threads)
    else:
        feeding = contextlib.closing(ahead(batch, itertools.count(first), num_threads))
    with feeding as batches:
        yield batches


@contextlib.contextmanager
def _dataset(batch: Callable, first: int, num_threads: int) -> Iterator:
    """Yields the batches as a `tf.data.Dataset`, which tf.distribute takes, too."""
    tf = storage.tensorflow()
    like = batch(first)
    arrays, failures, late = keras.tree.flatten(like), [], []
    running, is_over = threading.Semaphore(num_threads), threading.Event()

    def read(number: np.int64) -> list[np.ndarray]:
        with running:
            if is_over.is_set():
                late.append(number)
                raise StopIteration  # ends the dataset
            try:
                return keras.tree.flatten(batch(int(number)))
            except Exception as error:
                failures.append(error)
                raise

    def tensors(number: "tf.Tensor"):
        dtypes = [array.dtype for array in arrays]
        found = tf.numpy_function(read, [number], dtypes)
        for tensor, array in zip(found, arrays, strict=True):
            tensor.set_shape(array.shape)
        return keras.tree.pack_sequence_as(like, found)

    numbers = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
    batches = numbers.map(tensors, num_threads, deterministic=True)
    try:
        yield batches.prefetch(2)
    except tf.errors.OpError as error:
        if failures:
            raise failures[0] from error
        raise
    finally:
        # TensorFlow's threads prefetch on. One that calls Python while the interpreter
        # shuts down would never return, and TensorFlow would wait for it.
        is_over.set()
        num_late = -1
        while len(late) != num_late:
            num_late = len(late)
            with contextlib.ExitStack() as stack:
                for _ in range(num_threads):  # wait for running reads
                    stack.enter_context(running)
            time.sleep(0.1)
