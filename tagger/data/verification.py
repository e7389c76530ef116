"""Verifies every checksum and every record of a folder of shards."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tagger import storage
from tagger.data import resemul
from tagger.data.manifest import Manifest, Shard
from tagger.data.records import CorruptShardError, decode, read_shard


def verify(
    directory: str | os.PathLike | storage.Remote, manifest: Manifest
) -> Iterator[tuple[str, list[str]]]:
    """Checks every shard of a folder: its checksum, its records and their content.

    Args:
        directory: Folder of the shards.
        manifest: Manifest of the folder.

    Yields:
        Name of each file and a list of its faults, each a clause; the list of a good
        file is empty. Shards that the manifest does not list come last.
    """
    directory, seen = storage.location(directory), set()
    listed = directory.glob("[!.]*-of-*.tfrecord")
    if isinstance(directory, storage.Remote):
        sizes = {name: shard.num_bytes for name, shard in manifest.shards.items()}
        version = manifest.checksum()
        directory = storage.copied(directory, sizes, version, again=True)
    for name, shard in sorted(manifest.shards.items()):
        yield name, list(_faults(directory / name, shard, manifest, seen))
    others = {path.name for path in resemul.shard_paths(directory)}
    for path in sorted(listed):
        if path.name not in others | manifest.shards.keys():
            yield path.name, ["the manifest does not list it"]


def verify_resemul(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Checks every record of the original resemul's shards, which have no manifest.

    Args:
        directory: Folder of the shards.

    Yields:
        Name and faults of each shard, see `verify`; last those that are missing, as
        the names of the others say how many there should be.
    """
    found = resemul.shard_paths(directory)
    for path in found:
        num_records = 0
        try:
            for _ in read_shard(path):
                num_records += 1
        except CorruptShardError as error:
            yield path.name, [f"record {error.number} is corrupted"]
        else:
            yield path.name, [] if num_records else ["it is empty"]
    for name in resemul.missing_names(found):
        yield name, ["it is missing"]


def _faults(path, shard: Shard, manifest: Manifest, seen: set[str]) -> Iterator[str]:
    num_bytes = storage.num_bytes(path)
    if num_bytes is None:
        yield "it is missing"
        return
    if num_bytes != shard.num_bytes:
        yield f"it has {num_bytes:,} bytes, but {shard.num_bytes:,} were written"
    elif storage.sha256(path) != shard.sha256:
        yield "its checksum differs from the manifest's"
    number = -1
    try:
        for number, example in enumerate(read_shard(path)):
            fault = _record_fault(example, manifest, shard.split)
            if fault:
                yield f"record {number} {fault}"
                continue
            clip_id = decode(example, manifest.segment_dtype)["clip_id"]
            if clip_id in seen:
                yield f"record {number} repeats clip {clip_id!r}"
            seen.add(clip_id)
    except CorruptShardError as error:
        yield f"record {error.number} is corrupted"
    else:
        if number + 1 != shard.num_clips:
            yield f"it holds {number + 1} clips, but {shard.num_clips} were written"


def _record_fault(example: bytes, manifest: Manifest, split: str) -> str | None:
    try:
        values = decode(example, manifest.segment_dtype)
        num_samples, segments = values["num_samples"], values["segments"]
        _ = values["clip_id"]
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        return f"is not a record of this project ({error!r})"
    num_segments = -(-num_samples // manifest.segment_samples)
    if len(segments) != num_segments * math.prod(manifest.segment_shape):
        return f"holds {len(segments)} values for {num_samples} samples"
    if segments.dtype.kind == "f" and not np.isfinite(segments).all():
        return "holds values that are not finite"
    labels = values.get("labels")
    if split == "student":
        return None if labels is None else "has labels, but its split is unlabelled"
    if labels is None or len(labels) != len(manifest.tags) or labels.max() > 1:
        return f"does not hold {len(manifest.tags)} labels of 0 or 1"
    return None
