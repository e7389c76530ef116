"""Shards -> tf.data: shuffled segments for training, whole clips for evaluation.

Segments keep the data type of the records (int16, half the bytes to move); the model
converts them to float on its device, see `models.with_record_inputs`.
"""

import contextlib
import ctypes
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tagger import storage
from tagger.data import crops, records, resemul, verification
from tagger.data.crops import ReadOptions
from tagger.data.manifest import MANIFEST_NAME, SHARD_FOLDER, Manifest
from tagger.segmentation import (
    INT16_SCALE,
    Segmentation,
    crop_tensor,
    cut_tensor,
)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
UNLABELLED = -1.0  # in the labels of a batch: it is unknown whether the tag applies
# Waveform float32 [num_samples] at ±1 -> waveform, perhaps of another length.
Modify = Callable[[np.ndarray], np.ndarray]
SHUFFLED_SAMPLES = 4096 * 59049  # about 400 clips of MTT, 480 MB of int16


@dataclasses.dataclass(frozen=True)
class Shards:
    """An open folder of shards.

    Attributes:
        directory: Folder or URL of the shards.
        manifest: Manifest of the folder.
        names_tags: Whether the shards come with tag names, not only with their order.
        parse: Function of a serialized record -> content (waveform [num_samples], or
            log-mel [num_segments, num_frames, n_mels]), num_samples, labels [num_tags]
            and clip_id.
        chosen: Ids of the clips that evaluation reads; None: all.
    """

    directory: Path | storage.Remote
    manifest: Manifest
    names_tags: bool
    parse: Callable[[tf.Tensor], dict[str, tf.Tensor]]
    chosen: frozenset[str] | None = None

    @property
    def dtype(self) -> str:
        """Data type of segments: "int16", "float32" (resemul), or that of log-mel."""
        return self.manifest.segment_dtype

    def paths(self, split: str) -> list[str]:
        """Returns the shard files of a split.

        Raises:
            ValueError: the split has no clips.
            FileNotFoundError: a shard that the manifest lists is missing or incomplete.
        """
        if not self.manifest.num_clips(split):
            raise ValueError(
                f"{self.directory} holds no {split} clips, only"
                f" {', '.join(self.manifest.splits) or 'nothing'}. Build with the audio"
                " of that split, or choose another one."
            )
        shards = self.manifest.shards
        names = [n for n in self.manifest.shard_names(split) if shards[n].num_clips]
        paths = [self.directory / name for name in names]
        for path in paths:
            num_bytes = storage.num_bytes(path)
            if num_bytes != shards[path.name].num_bytes:
                raise FileNotFoundError(
                    f"{path} is {'missing' if num_bytes is None else 'incomplete'}."
                    " Run the build again: it makes only what is missing."
                )
        return [str(path) for path in paths]

    @property
    def stored(self) -> "Shards":
        """The shards as they lie in the folder, without what a subclass adds."""
        return self

    def read(self, path: tf.Tensor) -> tf.data.Dataset:
        """Reads the serialized clips of one shard, as `parse` takes them."""
        return tf.data.TFRecordDataset(path)

    def labels_of(self, clip: dict[str, tf.Tensor], num_segments) -> tf.Tensor:
        """Returns labels float32 [num_segments, num_tags] of the segments of a clip."""
        return _repeat(tf.cast(clip["labels"], tf.float32), num_segments)

    def only(self, name: str) -> "Shards":
        """Returns one shard by its file name, as if there were no others."""
        shards = {name: self.manifest.shards[name]}
        manifest = dataclasses.replace(self.manifest, shards=shards)
        return dataclasses.replace(self, manifest=manifest)

    def of_fold(self, fold: int) -> "Shards":
        """Returns the same shards, of which evaluation reads only one fold.

        Raises:
            ValueError: there is no such fold.
        """
        folds = self.manifest.folds
        ids = frozenset(clip_id for clip_id, one in folds.items() if one == fold)
        if not ids:
            held = ", ".join(map(str, sorted(set(folds.values()))))
            has = f"only {held}" if held else "because it was built without --folds"
            raise ValueError(f"{self.directory} has no fold {fold}, {has}.")
        return dataclasses.replace(self, chosen=ids)

    def clips(self, split: str) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the id and the labels (uint8 [num_tags]) of each clip of a split."""
        for clip in _clips(self, split).as_numpy_iterator():
            yield clip["clip_id"].decode(), clip["labels"]

    def check_counts(
        self, num_audios_per_shard: int | None, num_segments_per_audio: int | None
    ) -> None:
        """Compares counts that a user gave with the manifest; None was not given.

        The shards of the original resemul do not say with which counts they were built.

        Raises:
            ValueError: one of the counts differs.
        """
        built = self.manifest.num_audios_per_shard
        if not built:
            return
        if num_audios_per_shard not in (None, built):
            raise ValueError(
                f"--num-audios-per-shard {num_audios_per_shard} does not agree with"
                f" {self.directory}, built with {built}. Leave it out, or build again."
            )
        clips, segments = (
            self.manifest.num_clips("train"),
            self.manifest.num_segments("train"),
        )
        if (
            num_segments_per_audio is not None
            and segments != num_segments_per_audio * clips
        ):
            raise ValueError(
                f"--num-segments-per-audio {num_segments_per_audio} does not agree"
                f" with {self.directory}: its {clips} train clips hold {segments}"
                " segments. Leave it out, or build again."
            )


def open_shards(
    path: str | os.PathLike | storage.Remote, verify: bool = False
) -> Shards:
    """Opens a folder of shards, or its parent (`dataset` for `dataset/tfrecord`).

    Shards of the original resemul project are read too, see `resemul.read_manifest`.

    Args:
        path: Folder or URL (gs://…).
        verify: Whether to check every checksum and record first, with
            `verification.verify`.

    Raises:
        FileNotFoundError: there are no shards.
        ValueError: the build is unfinished, its manifest is damaged, or verification
            fails.
    """
    path = storage.location(path)
    folders = [path, path / SHARD_FOLDER]
    for folder in folders:
        if (folder / MANIFEST_NAME).is_file():
            manifest = Manifest.load(folder)
            if not manifest.complete:
                raise ValueError(
                    f"The build in {folder} is unfinished ({len(manifest.shards)}"
                    " shards so far). Run the build command again; it resumes where"
                    " it stopped."
                )
            if verify:
                shards = verification.verify(folder, manifest)
                _refuse_faults(folder, shards, len(manifest.shards))
            return Shards(folder, manifest, True, _parser(manifest))
    for folder in folders:
        if records.resemul_shards(folder):
            if verify:
                num_shards = len(records.resemul_shards(folder))
                _refuse_faults(folder, verification.verify_resemul(folder), num_shards)
            manifest = resemul.read_manifest(folder)
            names_tags = "tag 1" not in manifest.tags
            return Shards(folder, manifest, names_tags, resemul.parse)
    raise FileNotFoundError(
        f"There are no shards in {str(path)!r}. Build them (python build_mtt.py), or"
        " give the folder of the shards or its parent with --data-dir."
    )


def _refuse_faults(
    folder: Path | storage.Remote, shards: Iterable[tuple[str, list[str]]], total: int
) -> None:
    shards = tqdm(shards, "Verifying", total, unit="shard", disable=None)
    bad = {name: faults for name, faults in shards if faults}
    if bad:
        name, faults = next(iter(bad.items()))
        raise ValueError(
            f"{len(bad)} files in {folder} failed verification: {name}:"
            f" {faults[0]}{' …' if len(bad) > 1 else ''}. Delete them and run the build"
            " again: it makes only what is missing."
        )


def training_segments(
    shards: Shards,
    split: str,
    segmentation: Segmentation,
    batch_size: int,
    options: ReadOptions = ReadOptions(),
    first_epoch: int = 0,
    shuffled_samples: int = SHUFFLED_SAMPLES,
) -> tf.data.Dataset:
    """Returns endless batches of shuffled segments, epoch after epoch.

    The order depends only on seed and epoch: a run that resumes at epoch 3 reads what
    an uninterrupted run reads there.

    Args:
        shards: Shards to read.
        split: Split to read, usually "train"; "student" is unlabelled.
        segmentation: How clips are cut. Incomplete segments are always dropped.
        batch_size: Segments per batch of this process; an incomplete last batch of an
            epoch is dropped.
        options: How to read. All processes have the same number of batches per epoch: a
            process with fewer segments than others reads some of them twice, and a
            process with more leaves some of them to another epoch.
        first_epoch: Number of the first epoch.
        shuffled_samples: Size of the shuffle buffer in samples.

    Returns:
        Dataset of (segments `shards.dtype` [batch_size, *shape], labels float32
        [batch_size, num_tags], UNLABELLED in the student split). An epoch has
        `batches_per_epoch` batches.

    Raises:
        ValueError: the records do not hold such segments, the split has no clips, or
            there are fewer shards than processes.
    """
    _check_segmentation(shards, segmentation, options.crops_per_clip)
    paths = shards.paths(split)
    if options.crops_per_clip and isinstance(shards.directory, Path):
        if shards.manifest.num_audios_per_shard:  # not the original resemul's
            return _local_crops(
                shards, split, segmentation, batch_size, options, first_epoch
            )
    if len(paths) < options.num_processes:
        raise ValueError(
            f"{shards.directory} has {len(paths)} {split} shards, too few for"
            f" {options.num_processes} processes. Build with a smaller"
            " --num-audios-per-shard."
        )
    _keep_freed_memory()
    num_batches = None
    if options.num_processes > 1:
        num_batches = batches_per_epoch(
            shards, split, segmentation, batch_size, options
        )

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        segments = _shuffled_clips(shards, paths, options, epoch).map(
            _segmenter(shards, split, segmentation, options, epoch), tf.data.AUTOTUNE
        )
        num_shuffled = max(1, shuffled_samples // segmentation.num_samples)
        segments = segments.unbatch().shuffle(num_shuffled, seed=options.seed + epoch)
        if num_batches:  # a process with fewer segments reads some of them twice
            segments = segments.repeat()
        batches = segments.batch(
            batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE
        )
        return batches.take(num_batches) if num_batches else batches

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    return epochs.flat_map(one_epoch).prefetch(tf.data.AUTOTUNE)


def _local_crops(
    shards: Shards,
    split: str,
    segmentation: Segmentation,
    batch_size: int,
    options: ReadOptions,
    first_epoch: int,
) -> tf.data.Dataset:
    """Returns endless batches of random crops of local shards."""
    clips = [
        clip
        for path in shards.paths(split)
        for clip in records.stored_clips(path, shards.dtype)
    ]
    if split == "student":
        labels = np.full((len(clips), len(shards.manifest.tags)), UNLABELLED)
    else:
        labels = np.stack([clip.labels for clip in clips])
    num_batches = batches_per_epoch(shards, split, segmentation, batch_size, options)
    return crops.random_crops(
        clips,
        labels.astype(np.float32),
        segmentation,
        batch_size,
        num_batches,
        options,
        first_epoch * num_batches,
    )


def _shuffled_clips(
    shards: Shards, paths: list[str], options: ReadOptions, epoch: tf.Tensor
) -> tf.data.Dataset:
    """Yields (number in the epoch, serialized clip) of this process's shards."""
    # This sets only the seed of this function's graph. Otherwise the order would also
    # depend on the global seed, and tf.data refuses a global 0 with a seed tensor.
    tf.random.set_seed(1)
    files = tf.data.Dataset.from_tensor_slices(paths)
    # Shuffled once, so that an epoch that a process repeats has the same shards.
    files = files.shuffle(
        len(paths), options.seed + epoch, reshuffle_each_iteration=False
    )
    files = files.shard(options.num_processes, options.process_id)
    # Shards are interleaved record by record before segments are shuffled, so that
    # neighbours in a batch are from different clips.
    clips = files.interleave(
        shards.read,
        cycle_length=options.num_read_threads,
        num_parallel_calls=options.num_read_threads,
        deterministic=True,
    )
    return clips.enumerate()


def _segmenter(
    shards: Shards,
    split: str,
    segmentation: Segmentation,
    options: ReadOptions,
    epoch: tf.Tensor,
) -> Callable:
    """Returns a function of (number, serialized clip) -> segments and their labels."""

    def segments_of(number, example):
        clip = shards.parse(example)
        if split == "student":
            clip |= {"labels": tf.fill([len(shards.manifest.tags)], UNLABELLED)}
        if options.crops_per_clip:
            seed = tf.stack([options.seed + epoch, number])
            segments = crop_tensor(
                clip["content"], segmentation, options.crops_per_clip, seed
            )
        else:
            segments = _cut(clip, segmentation.dropping())
        return segments, shards.labels_of(clip, tf.shape(segments)[0])

    return segments_of


def batches_per_epoch(
    shards: Shards,
    split: str,
    segmentation: Segmentation,
    batch_size: int,
    options: ReadOptions = ReadOptions(),
) -> int:
    """Returns the number of batches in an epoch of `training_segments` per process."""
    if options.crops_per_clip:
        num_examples = options.crops_per_clip * shards.manifest.num_clips(split)
    else:
        num_examples = num_segments(shards, split, segmentation.dropping())
    return num_examples // (batch_size * options.num_processes)


def num_segments(shards: Shards, split: str, segmentation: Segmentation) -> int:
    """Returns the number of segments in a split; incomplete ones count if padded."""
    if segmentation == Segmentation(shards.manifest.segment_samples):
        return shards.manifest.num_segments(split)
    # The manifest counts only complete segments of its own length.
    lengths = _clips(shards, split).map(lambda clip: clip["num_samples"])
    return sum(map(segmentation.num_segments, lengths.as_numpy_iterator()))


def evaluation_segments(
    shards: Shards,
    split: str,
    segmentation: Segmentation,
    batch_size: int,
    modify: Modify | None = None,
) -> tf.data.Dataset:
    """Returns every segment of every clip of a split once, in the order of the shards.

    Args:
        shards: Shards to read.
        split: "train", "val" or "test".
        segmentation: How clips are cut.
        batch_size: Segments per batch; the last batch may be smaller.
        modify: Function that changes the waveform of every clip before it is cut.

    Returns:
        Dataset of dicts: segments `shards.dtype` [batch, *shape], labels uint8 [batch,
        num_tags], clip_index int64 [batch] (counting clips from 0), clip_id str
        [batch].

    Raises:
        ValueError: the records do not hold such segments, or the split has no clips.
    """
    _check_segmentation(shards, segmentation)

    _keep_freed_memory()

    def cut(index, clip):
        if modify:
            clip |= {"content": _modified(clip["content"], modify)}
        segments = _cut(clip, segmentation)
        num_segments = tf.shape(segments)[0]
        return {
            "segments": segments,
            "labels": _repeat(clip["labels"], num_segments),
            "clip_index": _repeat(index, num_segments),
            "clip_id": _repeat(clip["clip_id"], num_segments),
        }

    clips = _clips(shards, split).enumerate()
    segments = clips.map(cut, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    batches = segments.batch(batch_size, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def shard_segments(
    shards: Shards, path: str, segmentation: Segmentation
) -> Iterator[np.ndarray]:
    """Yields the complete segments [num_segments, *shape] of each clip of one shard."""
    segmentation = segmentation.dropping()
    clips = tf.data.TFRecordDataset(path).map(shards.parse)
    yield from clips.map(lambda clip: _cut(clip, segmentation)).as_numpy_iterator()


def _modified(waveform: tf.Tensor, modify: Modify) -> tf.Tensor:
    scale = INT16_SCALE if waveform.dtype == tf.int16 else 1.0

    def change(samples):
        changed = modify(samples.astype(np.float32) / scale) * scale
        if waveform.dtype == tf.int16:
            changed = np.clip(np.rint(changed), -INT16_SCALE, INT16_SCALE - 1)
        return changed.astype(samples.dtype)

    changed = tf.numpy_function(change, [waveform], waveform.dtype, stateful=False)
    return tf.ensure_shape(changed, [None])


def export_arrays(
    shards: Shards,
    split: str,
    segmentation: Segmentation,
    directory: str | os.PathLike,
    max_segments: int | None = None,
) -> tuple[Path, Path]:
    """Writes complete segments and their labels as .npy, to be used without TensorFlow.

    Args:
        shards: Shards to read.
        split: "train", "val" or "test".
        segmentation: How clips are cut.
        directory: Folder of `<split>_segments.npy` and `<split>_labels.npy`.
        max_segments: Largest number of segments to write. Default: all.

    Returns:
        Paths of the two files: segments `shards.dtype` [num_segments, *shape], and
        labels uint8 [num_segments, num_tags].

    Raises:
        ValueError: as for `evaluation_segments`.
    """
    dropped = segmentation.dropping()
    total = num_segments(shards, split, dropped)
    total = min(total, max_segments or total)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    segments = evaluation_segments(shards, split, dropped, 1).take(total)
    parts = {"segments": [], "labels": []}
    for batch in tqdm(
        segments.as_numpy_iterator(), "Exporting", total, unit="segment", disable=None
    ):
        for name, arrays in parts.items():
            arrays.append(batch[name])
    paths = tuple(directory / f"{split}_{name}.npy" for name in parts)
    for path, arrays in zip(paths, parts.values(), strict=True):
        with storage.replacing(path) as unfinished:
            np.save(unfinished, np.concatenate(arrays))
    return paths


@contextlib.contextmanager
def naming_corrupt_records(shards: Shards) -> Iterator[None]:
    """Converts TensorFlow's data errors to one that names the file and the record.

    Raises:
        CorruptShardError: a record within the block cannot be read.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
        for name in shards.manifest.shards:
            for number, example in enumerate(
                records.read_shard(shards.directory / name)
            ):
                try:
                    shards.stored.parse(example)
                except tf.errors.InvalidArgumentError as error:
                    raise records.CorruptShardError(
                        shards.directory / name, number
                    ) from error
        raise


def _repeat(value: tf.Tensor, num_segments: tf.Tensor) -> tf.Tensor:
    """Repeats a value of a clip for each of its segments."""
    return tf.repeat(value[None], num_segments, axis=0)


@functools.cache
def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next clip.

    By default glibc returns it to the system, and the page faults of every new clip
    double the time of reading. Other C libraries have no `mallopt`.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in (
            (M_MMAP_THRESHOLD, 1 << 25),
            (M_TRIM_THRESHOLD, (1 << 31) - 1),
            (M_ARENA_MAX, 1),
        ):
            mallopt(option, value)


def _clips(shards: Shards, split: str) -> tf.data.Dataset:
    dataset = tf.data.Dataset.from_tensor_slices(shards.paths(split))
    clips = dataset.flat_map(shards.read).map(
        shards.parse, num_parallel_calls=tf.data.AUTOTUNE
    )
    if shards.chosen is None:
        return clips
    ids = tf.constant(sorted(shards.chosen))
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(ids, tf.ones_like(ids, tf.int64)), 0
    )
    return clips.filter(lambda clip: table.lookup(clip["clip_id"]) > 0)


# --- Cutting --------------------------------------------------------------------------


def _check_segmentation(
    shards: Shards, segmentation: Segmentation, crops_per_clip: int = 0
) -> None:
    """Checks that records fit a model; log-mel spectrograms cannot be cut again."""
    manifest, num_samples = shards.manifest, segmentation.num_samples
    if manifest.features is None:
        return
    held = (
        f"{shards.directory} holds log-mel spectrograms of {manifest.segment_samples}"
        " samples each"
    )
    if not segmentation.is_consecutive:
        raise ValueError(
            f"{held}, but the model takes overlapping segments. Build waveform records"
            " (without --features)."
        )
    if num_samples != manifest.segment_samples:
        raise ValueError(
            f"{held}, but the model takes {num_samples}. Build with --num-samples"
            f" {num_samples}."
        )
    if crops_per_clip:
        raise ValueError(
            f"{held}, so random crops are not possible. Build waveform records (without"
            " --features), or train on complete segments (--crops-per-clip 0)."
        )


def _cut(clip: dict[str, tf.Tensor], segmentation: Segmentation) -> tf.Tensor:
    """Cuts a parsed clip into segments [num_segments, *shape]."""
    content = clip["content"]
    if content.shape.rank == 1:
        return cut_tensor(content, segmentation)
    # The build cut the log-mel spectrograms and padded the last segment.
    whole = clip["num_samples"] // segmentation.num_samples
    return content if segmentation.remainder == "pad" else content[:whole]


# --- Our records ----------------------------------------------------------------------

_SPEC = {
    name: tf.io.FixedLenFeature(
        [], tf.int64 if kind == "integer" else tf.string, default
    )
    for name, kind in records.FEATURES.items()
    for default in [b"" if name == "labels" else None]  # unlabelled music has none
}


def _parser(manifest: Manifest) -> Callable[[tf.Tensor], dict]:
    def parse(example: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.io.parse_single_example(example, _SPEC)
        content = tf.io.decode_raw(values["segments"], manifest.segment_dtype)
        if manifest.features:
            content = tf.reshape(content, [-1, *manifest.segment_shape])
        else:
            content = content[: values["num_samples"]]
        return {
            "content": content,
            "num_samples": tf.cast(values["num_samples"], tf.int32),
            "labels": tf.io.decode_raw(values["labels"], records.FEATURES["labels"]),
            "clip_id": values["clip_id"],
        }

    return parse
