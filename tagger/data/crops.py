"""Random crops of clips in local shards, which are read without the rest of the clips.

stored clips -> endless batches: segments [batch_size, segment length], labels

A crop is a tenth of a clip of MagnaTagATune. Python reads it, because no operation of
TensorFlow reads a part of a file.
"""

import atexit
import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tagger.data.records import StoredClip
from tagger.segmentation import Segmentation, crop, num_crops

MAX_EXIT_SECONDS = 30  # for which a program that ends waits for reads


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How training reads its shards.

    Attributes:
        seed: Seed of the order and of the crops.
        crops_per_clip: Number of segments per clip and epoch that start anywhere in the
            clip. 0: an epoch is every complete segment of every clip.
        num_read_threads: Number of shards that are read at the same time. Random crops
            of local shards are read with one thread per core.
        process_id: Number of this process, from 0. Each process reads its own shards,
            which are dealt again in every epoch; of random crops of local shards, it
            reads its own clips.
        num_processes: Number of processes that train together.
    """

    seed: int = 0
    crops_per_clip: int = 0
    num_read_threads: int = 8
    process_id: int = 0
    num_processes: int = 1


def random_crops(
    clips: Sequence[StoredClip],
    labels: np.ndarray,
    segmentation: Segmentation,
    batch_size: int,
    num_batches: int,
    options: ReadOptions,
    first_batch: int = 0,
) -> tf.data.Dataset:
    """Returns endless batches of random crops.

    The clips of an epoch are shuffled as a whole, and dealt to the processes one by
    one. A batch depends only on the seed and its number.

    Args:
        clips: Clips to crop.
        labels: float32 [num_clips, num_tags].
        segmentation: Length and edges of the segments.
        batch_size: Segments per batch of this process.
        num_batches: Batches per epoch of this process.
        options: Seed, crops per clip and processes.
        first_batch: Number of the first batch, counted from the start of training.

    Returns:
        Dataset of (segments [batch_size, segment length], labels float32 [batch_size,
        num_tags]).
    """
    places = np.array([num_crops(clip.num_samples, segmentation) for clip in clips])
    numbers = np.repeat(np.arange(len(clips)), options.crops_per_clip)
    shape, dtype = (batch_size, segmentation.num_samples), clips[0].dtype

    @functools.lru_cache(maxsize=2)  # batches of two epochs may be read at once
    def drawn(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the clips of an epoch, and where their crops start."""
        random = np.random.default_rng([options.seed, epoch])
        chosen = random.permutation(numbers)
        starts = random.integers(places[chosen])
        own = slice(options.process_id, None, options.num_processes)
        return chosen[own], starts[own]

    def read(number: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, place = divmod(number, num_batches)
        batch = slice(place * batch_size, (place + 1) * batch_size)
        chosen, starts = (array[batch].tolist() for array in drawn(epoch))
        segments = np.empty(shape, dtype)
        for segment, one, start in zip(segments, chosen, starts, strict=True):
            clip = clips[one]
            crop(clip.read_into, clip.num_samples, segmentation, start, segment)
        return segments, labels[chosen]

    def called(number: np.int64) -> tuple[np.ndarray, np.ndarray]:
        with _python_calls.counted():
            if _python_calls.is_closing:
                raise StopIteration  # ends the dataset
            return read(int(number))

    def to_batch(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        segments, rows = tf.numpy_function(called, [number], [dtype, tf.float32])
        rows_shape = (batch_size, labels.shape[1])
        return tf.ensure_shape(segments, shape), tf.ensure_shape(rows, rows_shape)

    # Not `from_generator`, which calls Python once more when its iterator ends.
    batches = tf.data.Dataset.range(first_batch, np.iinfo(np.int64).max)
    batches = batches.map(to_batch, tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


class _PythonCalls:
    """Ends calls of Python from tf.data before the interpreter does.

    TensorFlow's threads prefetch from an endless dataset. A thread that calls Python
    while the interpreter shuts down never returns, and TensorFlow would wait for it.
    """

    def __init__(self):
        self.is_closing, self._num_running, self._last = False, 0, 0.0
        self._lock = threading.Lock()
        atexit.register(self._close)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            self._num_running += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_running -= 1
                self._last = time.monotonic()

    def _close(self) -> None:
        self.is_closing = True
        # Calls now end at once, until the buffers of the datasets are full.
        deadline = time.monotonic() + MAX_EXIT_SECONDS
        while time.monotonic() < deadline:
            is_quiet = time.monotonic() > self._last + 0.1
            if is_quiet and not self._num_running:
                return
            time.sleep(0.02)


_python_calls = _PythonCalls()
