"""Shards -> tf.data: shuffled segments to train on, whole clips to evaluate.

Segments leave here as they lie in the records (int16, half the bytes to move); the
model makes them float on its device, see `models.fed_with`.
"""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from tagger import records

SHUFFLED_SAMPLES = 4096 * 59049  # about 400 clips of MTT, 480 MB of int16


@dataclasses.dataclass(frozen=True)
class Shards:
    """A folder of shards, opened.

    Attributes:
        directory: The folder.
        manifest: What it holds.
        dtype: Of the segments: "int16" (ours) or "float32" (resemul's).
        names_tags: The records come with tag names, not with an order alone.
        parse: Serialized record -> waveform [num_samples], labels [num_tags], clip id.
    """

    directory: Path
    manifest: records.Manifest
    dtype: str
    names_tags: bool
    parse: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]

    def paths(self, split: str) -> list[str]:
        """Shard files of a split.

        Raises:
            ValueError: the split has no clip.
            FileNotFoundError: a shard that the manifest lists is not there, or not
                whole.
        """
        if not self.manifest.num_clips(split):
            raise ValueError(
                f"{self.directory} holds no {split} clips, only"
                f" {', '.join(self.manifest.splits) or 'nothing'}. Build with the audio"
                " of that split, or choose another one."
            )
        paths = [self.directory / name for name in self.manifest.shard_names(split)]
        for path in paths:
            num_bytes = path.stat().st_size if path.exists() else None
            if num_bytes != self.manifest.shards[path.name].num_bytes:
                raise FileNotFoundError(
                    f"{path} is {'missing' if num_bytes is None else 'incomplete'}."
                    " Run the build again: it makes only what is missing."
                )
        return [str(path) for path in paths]

    def check_counts(
        self, num_audios_per_shard: int | None, num_segments_per_audio: int | None
    ) -> None:
        """Compares counts a user gave (None: did not) with the manifest.

        Raises:
            ValueError: one of them differs.
        """
        built = self.manifest.num_audios_per_shard
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


def open_shards(path: str | os.PathLike) -> Shards:
    """Opens a folder of shards, or its parent (`dataset` for `dataset/tfrecord`).

    Shards of the original resemul project are read too. They hold no tag names: the
    manifest then says "tag 1", "tag 2" … In its train and val shards every segment
    counts as a clip.

    Raises:
        FileNotFoundError: there are no shards.
        ValueError: the build is unfinished or its manifest damaged.
    """
    folders = [Path(path), Path(path) / records.SHARD_FOLDER]
    for folder in folders:
        if (folder / records.MANIFEST_NAME).is_file():
            manifest = records.Manifest.load(folder)
            if not manifest.complete:
                raise ValueError(
                    f"The build in {folder} is unfinished ({len(manifest.shards)}"
                    " shards so far). Run the build command again; it goes on where"
                    " it stopped."
                )
            return Shards(folder, manifest, "int16", True, _parse)
    for folder in folders:
        if any(folder.glob(RESEMUL_PATTERN)):
            return _open_resemul_shards(folder)
    raise FileNotFoundError(
        f"There are no shards in {str(path)!r}. Build them (python build_mtt.py), or"
        " give their folder or its parent with --data-dir."
    )


def training_segments(
    shards: Shards,
    split: str,
    window: records.Window,
    batch_size: int,
    seed: int = 0,
    first_epoch: int = 0,
    num_read_threads: int = 8,
    shuffled_samples: int = SHUFFLED_SAMPLES,
) -> tf.data.Dataset:
    """Endless batches of shuffled whole segments, epoch after epoch.

    The order is a function of seed and epoch alone: a run that starts at epoch 3 reads
    what an uninterrupted one reads there.

    Args:
        shards: Where to read.
        split: Usually "train".
        window: How clips are cut; what is left of one is dropped in any case.
        batch_size: Segments per batch; an incomplete last batch of an epoch is dropped.
        seed: Of the order.
        first_epoch: Epoch to begin with.
        num_read_threads: Shards read at once.
        shuffled_samples: Size of the shuffle buffer, in segments that hold so many.

    Returns:
        Dataset of (segments `shards.dtype` [batch_size, num_samples], labels float32
        [batch_size, num_tags]); `num_segments // batch_size` of them are an epoch.
    """
    paths = shards.paths(split)
    window = dataclasses.replace(window, remainder="drop")
    num_shuffled = max(1, shuffled_samples // window.num_samples)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        # The seed of this function's graph alone: without it the order would also hang
        # on the program's global seed, and a global 0 beside a tensor is refused by
        # tf.data.
        tf.random.set_seed(1)
        files = tf.data.Dataset.from_tensor_slices(paths)
        files = files.shuffle(len(paths), seed=seed + epoch)
        # One record of each shard in turn, then segments shuffled: neighbours in a
        # batch are of different clips.
        clips = files.interleave(
            tf.data.TFRecordDataset,
            cycle_length=num_read_threads,
            num_parallel_calls=num_read_threads,
            deterministic=True,
        )
        segments = clips.map(shards.parse, num_parallel_calls=tf.data.AUTOTUNE)
        segments = segments.flat_map(
            lambda waveform, labels, clip_id: tf.data.Dataset.from_tensor_slices(
                _cut(waveform, window)
            ).map(lambda segment: (segment, labels))
        )
        segments = segments.shuffle(num_shuffled, seed=seed + epoch)
        batches = segments.batch(batch_size, drop_remainder=True)
        return batches.map(
            lambda segments, labels: (segments, tf.cast(labels, tf.float32)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    return epochs.flat_map(one_epoch).prefetch(tf.data.AUTOTUNE)


def num_segments(shards: Shards, split: str, window: records.Window) -> int:
    """Segments in a split: what one evaluation sees (an epoch: with "drop")."""
    if window == records.Window(shards.manifest.segment_samples):
        return shards.manifest.num_segments(split)
    # The manifest counts whole segments of its own length alone.
    lengths = _clips(shards, split).map(lambda waveform, *_: tf.size(waveform))
    return sum(map(window.num_segments, lengths.as_numpy_iterator()))


def evaluation_segments(
    shards: Shards,
    split: str,
    window: records.Window,
    batch_size: int,
) -> tf.data.Dataset:
    """Every segment of every clip of a split once, in the order of the shards.

    Args:
        shards: Where to read.
        split: "train", "val" or "test".
        window: How clips are cut.
        batch_size: Segments per batch; the last batch may be smaller.

    Returns:
        Dataset of dicts: segments `shards.dtype` [batch, num_samples], labels uint8
        [batch, num_tags], clip_index int64 [batch] (counting clips from 0), clip_id str
        [batch].
    """

    def cut(index, clip):
        waveform, labels, clip_id = clip
        segments = _cut(waveform, window)
        return tf.data.Dataset.from_tensor_slices(segments).map(
            lambda segment: {
                "segments": segment,
                "labels": labels,
                "clip_index": index,
                "clip_id": clip_id,
            }
        )

    segments = _clips(shards, split).enumerate().flat_map(cut)
    return segments.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def validation_segments(
    shards: Shards, window: records.Window, batch_size: int
) -> tf.data.Dataset:
    """`evaluation_segments` of the val split as pairs: segments, labels float32."""
    segments = evaluation_segments(shards, "val", window, batch_size)
    pairs = segments.map(
        lambda batch: (batch["segments"], tf.cast(batch["labels"], tf.float32))
    )
    num_batches = -(-num_segments(shards, "val", window) // batch_size)
    # Keras asks for the number and would warn of a dataset that "ran out".
    return pairs.apply(tf.data.experimental.assert_cardinality(num_batches))


@contextlib.contextmanager
def naming_corrupt_records(shards: Shards) -> Iterator[None]:
    """Turns TensorFlow's complaint about lost data into ours: file and record."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
        for name in shards.manifest.shards:
            for number, example in enumerate(
                records.read_shard(shards.directory / name)
            ):
                try:
                    shards.parse(example)
                except tf.errors.InvalidArgumentError as error:
                    raise records.CorruptShardError(
                        shards.directory / name, number
                    ) from error
        raise


def _clips(shards: Shards, split: str) -> tf.data.Dataset:
    dataset = tf.data.TFRecordDataset(shards.paths(split))
    return dataset.map(shards.parse, num_parallel_calls=tf.data.AUTOTUNE)


def _cut(waveform: tf.Tensor, window: records.Window) -> tf.Tensor:
    """Waveform [length] -> segments [num_segments, num_samples]."""
    shortest = window.num_samples - 2 * window.edge_samples
    repeats = -(-shortest // tf.maximum(tf.size(waveform), 1))
    whole = waveform
    waveform = tf.cond(
        repeats > 1,
        lambda: tf.tile(whole, [repeats])[:shortest],
        lambda: whole,  # no copy
    )
    if not window.is_plain:
        edges = [[window.edge_samples, window.edge_samples]]
        waveform = tf.pad(waveform, edges, "REFLECT")
        return tf.signal.frame(waveform, window.num_samples, window.hop_samples)
    rest = tf.size(waveform) % window.num_samples
    if window.remainder == "pad":
        waveform = tf.pad(waveform, [[0, -rest % window.num_samples]])
    else:
        waveform = waveform[: tf.size(waveform) - rest]
    return tf.reshape(waveform, [-1, window.num_samples])


# --- Our records ----------------------------------------------------------------------

_SPEC = {
    name: tf.io.FixedLenFeature(
        [], tf.int64 if kind == "integer" else tf.string, default
    )
    for name, kind in records.FEATURES.items()
    for default in [b"" if name == "labels" else None]  # unlabelled music has none
}


def _parse(example: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    values = tf.io.parse_single_example(example, _SPEC)
    segments = tf.io.decode_raw(values["segments"], records.FEATURES["segments"])
    labels = tf.io.decode_raw(values["labels"], records.FEATURES["labels"])
    return segments[: values["num_samples"]], labels, values["clip_id"]


# --- Shards of the original resemul project -------------------------------------------
# train and val: an Example per segment; test: a SequenceExample per clip.

RESEMUL_PATTERN = "*-????-of-????.*tfrecord"  # .tfrecord and .seq.tfrecord


def _open_resemul_shards(folder: Path) -> Shards:
    manifest = records.Manifest(
        dataset="magnatagatune",
        split_rule="as built by resemul",
        tags=(),
        sample_rate=22050,
        segment_samples=0,
        num_audios_per_shard=0,
        complete=True,
    )
    for path in sorted(folder.glob(RESEMUL_PATTERN)):
        example = next(records.read_shard(path), None)
        if example is None:
            continue
        try:
            content = tf.train.SequenceExample.FromString(example)
            context, sequence = content.context.feature, content.feature_lists
            segments = sequence.feature_list["raw_segments"].feature
            segments = segments or [context["raw_segment"]]
            num_tags = len(context["raw_labels"].bytes_list.value[0])
            manifest.segment_samples = len(segments[0].bytes_list.value[0]) // 4
        except (IndexError, DecodeError) as error:
            raise ValueError(
                f"{path} is a shard of neither this project nor resemul. Build again"
                " (python build_mtt.py), or give another --data-dir."
            ) from error
        num_clips = records.count_records(path)
        manifest.shards[path.name] = records.Shard(
            split=path.name.split("-")[0],
            num_clips=num_clips,
            num_segments=num_clips * len(segments),
            num_bytes=path.stat().st_size,
            sha256="",
        )
    if not manifest.shards:
        raise ValueError(f"The shards in {folder} are empty.")
    manifest.tags = tuple(f"tag {number}" for number in range(1, num_tags + 1))
    warnings.warn(
        f"{folder} was built by resemul: it holds no tag names, only their order.",
        stacklevel=2,
    )
    return Shards(folder, manifest, "float32", False, _parse_resemul)


def _parse_resemul(example: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    # An Example read as a SequenceExample is all context.
    context, sequence = tf.io.parse_single_sequence_example(
        example,
        {
            "raw_labels": tf.io.FixedLenFeature([], tf.string),
            "raw_segment": tf.io.FixedLenFeature([], tf.string, b""),
        },
        {
            "raw_segments": tf.io.FixedLenSequenceFeature(
                [], tf.string, allow_missing=True
            )
        },
    )
    segments = context["raw_segment"] + tf.strings.reduce_join(sequence["raw_segments"])
    waveform = tf.io.decode_raw(segments, tf.float32)
    return waveform, tf.io.decode_raw(context["raw_labels"], tf.uint8), tf.constant("")
