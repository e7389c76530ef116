"""Reads the shards of the original resemul project.

train and val: one Example per segment; test: one SequenceExample per clip.
"""

import warnings
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError

from tagger.data import records
from tagger.data.manifest import Manifest, Shard

PATTERN = "*-????-of-????.*tfrecord"  # .tfrecord and .seq.tfrecord


def has_shards(folder: Path) -> bool:
    """Returns whether a folder holds shards of the original project."""
    return any(folder.glob(PATTERN))


def read_manifest(folder: Path) -> Manifest:
    """Makes the manifest that the original project did not write.

    The shards hold no tag names, so the tags are called "tag 1", "tag 2" and so on. In
    train and val shards, every segment counts as a clip.

    Raises:
        ValueError: a shard has other content, or all shards are empty.
    """
    manifest = Manifest(
        dataset="magnatagatune",
        split_rule="as built by resemul",
        tags=(),
        sample_rate=22050,
        segment_samples=0,
        num_audios_per_shard=0,
        segment_dtype="float32",
        complete=True,
    )
    for path in sorted(folder.glob(PATTERN)):
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
                f"{path} is a shard of neither this project nor resemul. Run the build"
                " again (python build_mtt.py), or give another --data-dir."
            ) from error
        num_clips = records.count_records(path)
        manifest.shards[path.name] = Shard(
            split=path.name.split("-")[0],
            num_clips=num_clips,
            num_segments=num_clips * len(segments),
            num_bytes=path.stat().st_size,
            sha256="",
        )
    if not manifest.shards:
        raise ValueError(f"The shards in {folder} are empty. Run the build again.")
    manifest.tags = tuple(f"tag {number}" for number in range(1, num_tags + 1))
    warnings.warn(
        f"{folder} was built by resemul: it holds no tag names, only their order.",
        stacklevel=3,
    )
    return manifest


def parse(example: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses a serialized clip or segment; see `pipeline.Shards.parse`."""
    # An Example parses as a SequenceExample that has only a context.
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
    return {
        "content": waveform,
        "num_samples": tf.size(waveform),
        "labels": tf.io.decode_raw(context["raw_labels"], tf.uint8),
        "clip_id": tf.constant(""),
    }
