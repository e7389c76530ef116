"""Reads the shards of the original resemul project.

train and val: one Example per segment; test: one SequenceExample per clip.
"""

import warnings
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError

from tagger.data import records
from tagger.data.manifest import Manifest, Shard
from tagger.datasets import magnatagatune


def read_manifest(folder: Path) -> Manifest:
    """Makes the manifest that the original project did not write.

    In train and val shards, every segment counts as a clip. The shards hold no tag
    names. Those of annotations_final.csv are taken if it lies beside, as the original
    does, or else the 50 of MTT in resemul's order. If there is another number of tags,
    they are called "tag 1", "tag 2" and so on.

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
    for path in records.resemul_shards(folder):
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
    manifest.tags = _tag_names(folder, num_tags)
    return manifest


def _tag_names(folder: Path, num_tags: int) -> tuple[str, ...]:
    for parent in (folder.parent, folder):
        if (parent / magnatagatune.ANNOTATIONS_NAME).is_file():
            try:
                found = magnatagatune.load_annotations(parent, num_tags=num_tags)
            except (ValueError, OSError) as error:
                warnings.warn(f"Tag names were not found: {error}", stacklevel=4)
                continue
            if len(found.tags) == num_tags:
                return found.tags
    if num_tags == len(magnatagatune.RESEMUL_TAGS):
        return magnatagatune.RESEMUL_TAGS
    warnings.warn(
        f"{folder} was built by resemul: it holds no tag names, only their order.",
        stacklevel=4,
    )
    return tuple(f"tag {number}" for number in range(1, num_tags + 1))


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
