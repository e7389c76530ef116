"""Shards of the original resemul project, which have no manifest.

train and val: one Example per segment; test: one SequenceExample per clip.
"""

import re
import warnings
from pathlib import Path

from tagger.data import records
from tagger.data.manifest import Manifest, Shard
from tagger.datasets import magnatagatune
from tagger.storage import Remote
from tagger.text import TaggerError

# train-0000-of-0152.tfrecord, test-0000-of-0043.seq.tfrecord
_NAME = re.compile(r"(.*)-\d{4}-of-(\d{4})(\..*)")


def shard_paths(folder: Path | Remote) -> list[Path]:
    """Returns the original resemul's shards in a local folder, sorted."""
    if not isinstance(folder, Path):
        return []
    digits = "[0-9][0-9][0-9][0-9]"
    return sorted(folder.glob(f"[!.]*-{digits}-of-{digits}.*tfrecord"))


def missing_names(paths: list[Path]) -> list[str]:
    """Returns the shards that the names of the others say there should be."""
    expected = set()
    for path in paths:
        split, total, ending = _NAME.fullmatch(path.name).groups()
        expected.update(
            f"{split}-{n:04d}-of-{total}{ending}" for n in range(int(total))
        )
    return sorted(expected - {path.name for path in paths})


def find_clip(example: bytes | memoryview) -> records.Entry:
    """Returns where a serialized record of resemul holds what.

    Raises:
        ValueError, KeyError, IndexError: it is not a record of resemul.
    """
    # SequenceExample{1: context, 2: FeatureLists{1: map entry{1: name, 2:
    # FeatureList{1: Feature}}}}; an Example has only a context.
    (_, *context), *lists = records.fields(example, 0, len(example))
    held = dict(records.features(example, *context))
    for _, *entries in lists:
        for _, *entry in records.fields(example, *entries):
            (_, *name), (_, *listed) = records.fields(example, *entry)
            held[bytes(example[slice(*name)]).decode()] = [
                (start, end)
                for _, *feature in records.fields(example, *listed)
                for _, *values in records.fields(example, *feature)
                for _, start, end in records.fields(example, *values)
            ]
    spans = held.get("raw_segments") or held["raw_segment"]
    (labels,) = held["raw_labels"]
    num_samples = sum(end - start for start, end in spans) // 4
    return records.Entry("", bytes(example[slice(*labels)]), num_samples, spans)


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
    for path in shard_paths(folder):
        with path.open("rb") as file:
            num_clips = sum(1 for _ in records.spans(path, file))
        if not num_clips:
            continue
        example = next(records.read_shard(path))
        try:
            found = find_clip(example)
        except (ValueError, KeyError, IndexError) as error:
            raise TaggerError(
                f"{path} is a shard of neither this project nor resemul. Run the build"
                " again (python build_mtt.py), or give another `data_dir=`."
            ) from error
        manifest.segment_samples = found.num_samples // len(found.spans)
        manifest.shards[path.name] = Shard(
            split=path.name.split("-")[0],
            num_clips=num_clips,
            num_segments=num_clips * len(found.spans),
            num_bytes=path.stat().st_size,
            sha256="",
        )
    if not manifest.shards:
        raise TaggerError(f"The shards in {folder} are empty. Run the build again.")
    manifest.tags = _tag_names(folder, len(found.labels))
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
