"""The manifest that describes a folder of shards, stored as `manifest.json`.

The worker that makes a shard writes `<shard>.json` beside it, a `Sidecar`: a shard is
finished when both are there. The manifest of a finished build is their union.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Literal, TypedDict

from msgspec import Meta

from tagger import storage, validation
from tagger.datasets.annotations import SPLITS
from tagger.text import TaggerError
from tagger.validation import Count, Name, SampleRate, SegmentLength, ShardName

MANIFEST_NAME = "manifest.json"
SHARD_FOLDER = "tfrecord"  # inside the folder of a dataset, by default
_REMEDY = "If it is a manifest of this project, delete it and build again."


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard in the manifest.

    Attributes:
        split: Split of its clips.
        num_clips: Number of records.
        num_segments: Number of complete segments.
        num_bytes: Size of the file.
        sha256: Checksum of the file.
        num_missing: Number of clips planned for it whose audio was missing.
    """

    split: Literal[SPLITS]
    num_clips: Count
    num_segments: Count
    num_bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    num_missing: Count = 0


class Skipped(TypedDict):
    """A skipped clip in the manifest."""

    clip_id: str
    path: str
    reason: str
    shard: ShardName
    size: Count | None


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """What is known of one finished shard; saved beside it.

    Attributes:
        shard: The shard.
        skipped: Its skipped clips.
        missing: Paths of its clips without an audio file.
    """

    shard: Shard
    skipped: list[Skipped]
    missing: list[str]

    def save(self, path: Path | storage.Remote) -> None:
        """Writes the sidecar of the shard at `path`."""
        text = json.dumps(dataclasses.asdict(self), indent=1) + "\n"
        storage.write_text_atomically(_sidecar_path(path), text)

    @classmethod
    def load(cls, path: Path | storage.Remote) -> "Sidecar | None":
        """Reads the sidecar of the shard at `path`, or returns None if there is none.

        Raises:
            ValueError: the file is not a sidecar.
        """
        path = _sidecar_path(path)
        if not path.exists():
            return None
        text = path.read_text(encoding="utf-8")
        return validation.parse(text, cls, path, "Delete it and build again.")


def _sidecar_path(path: Path | storage.Remote) -> Path | storage.Remote:
    return path.with_name(f"{path.name}.json")


@dataclasses.dataclass
class Manifest:
    """Describes a folder of shards; saved beside them as `manifest.json`.

    Attributes:
        dataset: Key of `datasets.DATASETS`, or "demo".
        split_rule: How clips were assigned to splits; printed with every score.
        tags: Tag names in the order of the labels.
        sample_rate: Rate of the waveforms in Hz.
        segment_samples: Length of a segment.
        num_audios_per_shard: Clips per shard, including those that were skipped.
        features: Key of `presets.PRESETS` if the records hold log-mel spectrograms;
            None if they hold waveforms.
        segment_dtype: "int16", or "float16" or "float32" for log-mel spectrograms.
        segment_shape: [segment_samples], or [num_frames, n_mels].
        annotations_sha256: See `Annotations.sha256`.
        planned: Number of annotated clips per split.
        published: Published number of clips per split; empty if unknown.
        shards: The finished shards, by file name.
        skipped: One dict per skipped clip: clip_id, path, reason, shard, and size of
            the file in bytes. Clips whose file is missing are counted in their shard.
        complete: Whether the build is finished.
        versions: Versions of the packages that determine the samples.
        folds: Fold of each clip by its id, for cross-validation; clips in no fold are
            missing.
    """

    dataset: Name
    split_rule: Name
    tags: tuple[Name, ...]
    sample_rate: SampleRate
    segment_samples: SegmentLength
    num_audios_per_shard: Annotated[int, Meta(ge=1, le=1 << 31)]
    features: Name | None = None
    segment_dtype: Literal["int16", "float16", "float32"] = "int16"
    segment_shape: tuple[SegmentLength, ...] = ()
    annotations_sha256: str = ""
    planned: dict[Name, Count] = dataclasses.field(default_factory=dict)
    published: dict[Name, Count] = dataclasses.field(default_factory=dict)
    shards: dict[ShardName, Shard] = dataclasses.field(default_factory=dict)
    skipped: list[Skipped] = dataclasses.field(default_factory=list)
    complete: bool = False
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    folds: dict[str, Count] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.segment_shape = self.segment_shape or (self.segment_samples,)
        if len(set(self.tags)) < len(self.tags):
            raise TaggerError("A tag is listed twice.")
        if len(self.segment_shape) != (2 if self.features else 1):
            raise TaggerError("segment_shape does not fit features.")

    def num_clips(self, split: str) -> int:
        """Returns the number of clips in a split."""
        return self._sum("num_clips", split)

    def num_segments(self, split: str) -> int:
        """Returns the number of complete segments in a split."""
        return self._sum("num_segments", split)

    def num_missing(self, split: str) -> int:
        """Returns the number of clips of a split whose audio was missing."""
        return self._sum("num_missing", split)

    def _sum(self, count: str, split: str) -> int:
        shards = self.shards.values()
        return sum(getattr(shard, count) for shard in shards if shard.split == split)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have shards, in the order of SPLITS."""
        held = {shard.split for shard in self.shards.values()}
        return tuple(split for split in SPLITS if split in held)

    def shard_names(self, split: str) -> list[str]:
        """Returns the file names of a split's shards, sorted."""
        return sorted(
            name for name, shard in self.shards.items() if shard.split == split
        )

    def checksum(self) -> str:
        """Returns a SHA-256 of all shards, which identifies a model's training data."""
        lines = "".join(
            f"{name} {shard.num_bytes} {shard.sha256}\n"
            for name, shard in sorted(self.shards.items())
        )
        return hashlib.sha256(lines.encode()).hexdigest()

    def identity(self) -> dict[str, str]:
        """Returns what identifies the data of a training run."""
        return {
            "dataset": self.dataset,
            "split_rule": self.split_rule,
            "checksum": self.checksum(),
        }

    def save(self, directory: str | os.PathLike | storage.Remote) -> None:
        """Writes `manifest.json` to a folder of shards."""
        content = dataclasses.asdict(self)
        content["shards"] = dict(sorted(content["shards"].items()))
        content["skipped"] = sorted(
            content["skipped"], key=lambda skip: (skip["shard"], skip["clip_id"])
        )
        # The counts are for people who open the file; `load` ignores them.
        content["counts"] = {
            split: {
                "clips": self.num_clips(split),
                "segments": self.num_segments(split),
                "missing": self.num_missing(split),
            }
            for split in self.splits
        }
        path = storage.location(directory) / MANIFEST_NAME
        storage.write_text_atomically(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, directory: str | os.PathLike | storage.Remote) -> "Manifest":
        """Reads `manifest.json` of a folder, and the sidecars of an unfinished build.

        Raises:
            FileNotFoundError: there is no manifest.
            ValueError: the file is not a manifest.
        """
        path = storage.location(directory) / MANIFEST_NAME
        if isinstance(path, Path):
            validation.check_regular(path)
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise TaggerError(f"{str(path)!r} is not UTF-8 text. {_REMEDY}") from error
        manifest = validation.parse(text, cls, path, _REMEDY)
        if not manifest.complete:
            for made in storage.location(directory).glob("*.tfrecord.json"):
                if made.name.startswith("."):  # is just being written
                    continue
                shard = made.with_name(made.name.removesuffix(".json"))
                manifest.add(shard.name, Sidecar.load(shard))
        return manifest

    def add(self, name: str, made: Sidecar) -> None:
        """Adds a finished shard."""
        self.shards[name] = made.shard
        self.skipped += made.skipped
