"""The record: one clip as one `tf.train.Example`, its shards and their manifest.

clip -> bytes of an Example -> shard `train-00000-of-00152.tfrecord`; a `Manifest`
(json) stands beside the shards.

FEATURES is the only description of the record: it encodes, decodes and tells tf.data
and TFDS what to read. No TensorFlow here: a building process would pay 5 s and 0.7 GB
for it, so the few bytes of framing that an Example needs are written below (checked
against TensorFlow's own reader and writer in the tests).
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator

import google_crc32c
import numpy as np

from tagger import storage

SPLITS = ("train", "val", "test", "student")

# Name in the Example -> what its value holds. Arrays are little-endian bytes.
FEATURES = {
    "clip_id": "text",
    # Consecutive segments of the waveform, the last one zero-padded: [num_segments,
    # segment_samples]; or the log-mel spectrogram of each: float16 or float32
    # [num_segments, num_frames, n_mels]. The manifest says which.
    "segments": "int16",
    "num_samples": "integer",  # true length of the clip
    "labels": "uint8",  # [num_tags]; absent for unlabelled music
}
SAMPLE_RATE = 22050  # of a build, in Hz, unless another is asked for
SEGMENT_SAMPLES = 59049  # likewise
INT16_SCALE = 32768  # waveform = segments / INT16_SCALE

MANIFEST_NAME = "manifest.json"
SHARD_FOLDER = "tfrecord"  # of a dataset's folder, unless another is asked for


@dataclasses.dataclass(frozen=True)
class Window:
    """How a clip is cut into the segments that a model takes.

    A clip shorter than one segment is repeated to fill it.

    Attributes:
        num_samples: Length of a segment.
        remainder: What becomes of the last, incomplete segment: "drop" or "pad" (zeros
            fill it up).
        hop_samples: From one segment to the next; None: num_samples.
        edge_samples: Samples mirrored at both ends of the clip before it is cut.

    Raises:
        ValueError: overlapping segments are to be padded.
    """

    num_samples: int
    remainder: str = "drop"
    hop_samples: int | None = None
    edge_samples: int = 0

    def __post_init__(self):
        if self.hop_samples is None:
            object.__setattr__(self, "hop_samples", self.num_samples)
        if not self.is_plain and self.remainder != "drop":
            raise ValueError("Overlapping segments can only drop their remainder.")

    @property
    def is_plain(self) -> bool:
        """Whether segments follow one another and the clip's ends are left alone."""
        return self.hop_samples == self.num_samples and self.edge_samples == 0

    def num_segments(self, num_samples: int) -> int:
        """Segments of a clip of so many samples."""
        rest = int(num_samples) + 2 * self.edge_samples - self.num_samples
        whole = max(0, rest // self.hop_samples) + 1
        is_padded = self.remainder == "pad" and rest > 0 and rest % self.hop_samples
        return whole + bool(is_padded)


class CorruptShardError(ValueError):
    """Bytes of a shard are no record; the message names the file and the record."""

    def __init__(self, path: str | os.PathLike, number: int):
        super().__init__(
            f"Record {number} of {path} is corrupted (counted from 0). Delete this"
            " shard and run the build again: it makes only what is missing."
        )
        self.number = number


# --- One record -----------------------------------------------------------------------


def cut(waveform: np.ndarray, segment_samples: int) -> np.ndarray:
    """Cuts a waveform into consecutive segments, the last one padded with zeros.

    Args:
        waveform: float32 at ±1 (what is beyond is clipped) or int16 [num_samples].
        segment_samples: Length of a segment.

    Returns:
        int16 [num_segments, segment_samples].
    """
    num_segments = -(-len(waveform) // segment_samples)
    segments = np.zeros(num_segments * segment_samples, np.int16)
    segments[: len(waveform)] = to_int16(waveform)
    return segments.reshape(num_segments, segment_samples)


def encode(
    clip_id: str, segments: np.ndarray, num_samples: int, labels: np.ndarray | None
) -> bytes:
    """Makes the serialized Example of one clip.

    Args:
        clip_id: Name of the clip, unique in its dataset.
        segments: What `cut` returns, or the log-mel spectrogram of each segment.
        num_samples: Length of the clip.
        labels: 0/1 [num_tags], or None for unlabelled music.

    Returns:
        A serialized `tf.train.Example`, the same bytes for the same values on every
        machine.
    """
    values = {"clip_id": clip_id, "segments": segments, "num_samples": num_samples}
    if labels is not None:
        values["labels"] = labels
    features = []
    for name, kind in _kinds(str(segments.dtype)).items():
        if name in values:
            features += _feature(name, _pack(kind, values[name]))
    return b"".join(_message(1, features))


def decode(
    example: bytes, segment_dtype: str = "int16"
) -> dict[str, str | int | np.ndarray]:
    """The inverse of `encode`: feature name -> value; `segments` are flat."""
    values, kinds = {}, _kinds(segment_dtype)
    ((_, features),) = _fields(example)
    for _, entry in _fields(features):
        name, feature = (value for _, value in _fields(entry))
        ((_, values_list),) = _fields(feature)
        ((_, value),) = _fields(values_list)
        name = name.decode()
        values[name] = _unpack(kinds[name], value)
    return values


def _kinds(segment_dtype: str) -> dict[str, str]:
    return FEATURES | {"segments": segment_dtype}


def _pack(kind: str, value: str | int | np.ndarray) -> bytes | memoryview | int:
    if kind == "text":
        return value.encode()
    if kind == "integer":
        return int(value)
    value = np.ascontiguousarray(value, _little_endian(kind)).reshape(-1)
    return value.view(np.uint8).data


def _unpack(kind: str, value: bytes) -> str | int | np.ndarray:
    if kind == "text":
        return value.decode()
    if kind == "integer":
        return _read_varint(value, 0)[0]
    return np.frombuffer(value, _little_endian(kind))


def _little_endian(kind: str) -> np.dtype:
    return np.dtype(kind).newbyteorder("<")


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Rounds a waveform at ±1 to int16 as FFmpeg does; int16 passes through."""
    if waveform.dtype == np.int16:
        return waveform
    steps = np.rint(waveform * INT16_SCALE)
    return np.clip(steps, -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


# An Example is four nested protobuf messages whose fields are all length-delimited
# (wire type 2): Example{1: Features{1: map entry{1: name, 2: Feature{1: BytesList{1:
# bytes} | 3: Int64List{1: packed varints}}}}}
# Messages are lists of parts until the end, so that samples are copied once, not at
# every level.


def _feature(name: str, value: bytes | memoryview | int) -> list:
    if isinstance(value, int):
        feature = _message(3, _message(1, [_varint(value)]))
    else:
        feature = _message(1, _message(1, [value]))
    return _message(1, _message(1, [name.encode()]) + _message(2, feature))


def _message(field: int, parts: list) -> list:
    length = _varint(sum(map(len, parts)))
    return [bytes([field << 3 | 2]) + length, *parts]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        length, at = _read_varint(data, at)
        yield key >> 3, data[at : at + length]
        at += length


# --- A shard --------------------------------------------------------------------------
# TFRecord framing: length (uint64), CRC of the length, data, CRC of the data; the CRCs
# are CRC-32C, masked.


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """`train-00000-of-00152.tfrecord`, as TFDS names {SPLIT}-{SHARD_X_OF_Y}."""
    return f"{split}-{shard:05d}-of-{num_shards:05d}.tfrecord"


class ShardWriter:
    """Writes a shard under a temporary name; a `with` block that ends well renames it.

    `sha256` and `num_records` are there after the block. A block left by an exception
    leaves no file.
    """

    def __init__(self, path: str | os.PathLike | storage.Remote):
        self.path = storage.location(path)
        self._temporary = storage.temporary(self.path)
        self._hash = hashlib.sha256()
        self.num_records = self.num_bytes = 0

    def __enter__(self):
        self._opened = contextlib.ExitStack()
        self._file = self._opened.enter_context(self._temporary.open("wb"))
        return self

    def write(self, data: bytes) -> None:
        length = struct.pack("<Q", len(data))
        for part in (length, _masked_crc(length), data, _masked_crc(data)):
            self._file.write(part)
            self._hash.update(part)
            self.num_bytes += len(part)
        self.num_records += 1

    def __exit__(self, *error):
        try:
            self._opened.__exit__(*error)  # a full disk may show only here
            if error[0] is None:
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)
        self.sha256 = self._hash.hexdigest()


def read_shard(path: str | os.PathLike | storage.Remote) -> Iterator[bytes]:
    """Yields the serialized Examples of a shard and checks every CRC.

    Raises:
        CorruptShardError: naming the file and the number of the first bad record,
            counted from 0.
    """
    with storage.location(path).open("rb") as file:
        number = 0
        while head := file.read(12):
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
            if len(head) < 12 or _masked_crc(head[:8]) != head[8:]:
                raise CorruptShardError(path, number)
            data, crc = file.read(length), file.read(4)
            if len(data) < length or _masked_crc(data) != crc:
                raise CorruptShardError(path, number)
            yield data
            number += 1


def count_records(path: str | os.PathLike) -> int:
    """Counts the records of a shard by their lengths alone, without reading them."""
    size, at, number = os.path.getsize(path), 0, 0
    with open(path, "rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(12)
            if len(head) < 12 or _masked_crc(head[:8]) != head[8:]:
                raise CorruptShardError(path, number)
            at += 12 + struct.unpack("<Q", head[:8])[0] + 4
            number += 1
    return number


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


# --- The manifest ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shard:
    """What the manifest knows of one shard."""

    split: str
    num_clips: int
    num_segments: int  # whole segments: what training and evaluation see
    num_bytes: int
    sha256: str
    num_missing: int = 0  # clips of its plan whose audio was not there


@dataclasses.dataclass
class Manifest:
    """What a reader must know of a folder of shards: `manifest.json` beside them.

    Attributes:
        dataset: Key of `datasets.DATASETS`.
        split_rule: How clips were given to the splits; stands beside every score.
        tags: Tag names in the order of the labels.
        sample_rate: Rate of the waveforms in Hz.
        segment_samples: Length of a segment.
        num_audios_per_shard: Clips per shard, before clips were skipped.
        features: Key of `frontends.PRESETS` if the records hold log-mel spectrograms;
            None: waveforms.
        segment_dtype: "int16"; of log-mel spectrograms "float16" or "float32".
        segment_shape: [segment_samples], or [num_frames, n_mels].
        annotations_sha256: See `Annotations.sha256`.
        planned: Clips annotated, per split.
        published: The same as a paper prints it, if one does.
        shards: What is whole so far, by file name.
        skipped: Per clip: clip_id, path, reason, shard, and size of the file in bytes.
            Clips whose file is missing are counted in their shard instead.
        complete: The build is done.
        versions: Of the packages that decide the samples.
    """

    dataset: str
    split_rule: str
    tags: tuple[str, ...]
    sample_rate: int
    segment_samples: int
    num_audios_per_shard: int
    features: str | None = None
    segment_dtype: str = "int16"
    segment_shape: tuple[int, ...] = ()
    annotations_sha256: str = ""
    planned: dict[str, int] = dataclasses.field(default_factory=dict)
    published: dict[str, int] = dataclasses.field(default_factory=dict)
    shards: dict[str, Shard] = dataclasses.field(default_factory=dict)
    skipped: list[dict] = dataclasses.field(default_factory=list)
    complete: bool = False
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.segment_shape = self.segment_shape or (self.segment_samples,)

    def num_clips(self, split: str) -> int:
        return self._sum("num_clips", split)

    def num_segments(self, split: str) -> int:
        return self._sum("num_segments", split)

    def num_missing(self, split: str) -> int:
        return self._sum("num_missing", split)

    def _sum(self, count: str, split: str) -> int:
        shards = self.shards.values()
        return sum(getattr(shard, count) for shard in shards if shard.split == split)

    @property
    def splits(self) -> tuple[str, ...]:
        held = {shard.split for shard in self.shards.values()}
        return tuple(split for split in SPLITS if split in held)

    def shard_names(self, split: str) -> list[str]:
        return sorted(
            name for name, shard in self.shards.items() if shard.split == split
        )

    def checksum(self) -> str:
        """SHA-256 over the shards' checksums: names the data a model was trained on."""
        lines = "".join(
            f"{name} {shard.num_bytes} {shard.sha256}\n"
            for name, shard in sorted(self.shards.items())
        )
        return hashlib.sha256(lines.encode()).hexdigest()

    def identity(self) -> dict[str, str]:
        """What a run remembers of its data."""
        return {
            "dataset": self.dataset,
            "split_rule": self.split_rule,
            "checksum": self.checksum(),
        }

    def save(self, directory: str | os.PathLike | storage.Remote) -> None:
        content = dataclasses.asdict(self)
        content["shards"] = dict(sorted(content["shards"].items()))
        content["skipped"] = sorted(
            content["skipped"], key=lambda skip: (skip["shard"], skip["clip_id"])
        )
        # For people who open the file; a reader adds up the shards.
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
        """Reads `manifest.json` of a folder of shards.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is not a manifest.
        """
        path = storage.location(directory) / MANIFEST_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("counts")
            content["tags"] = tuple(content["tags"])
            content["segment_shape"] = tuple(content.get("segment_shape", ()))
            content["shards"] = {
                name: Shard(**shard) for name, shard in content["shards"].items()
            }
            return cls(**content)
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} is not a manifest of this project ({error!r}). Delete it and"
                " build again."
            ) from error


# --- Verifying ------------------------------------------------------------------------


def verify(
    directory: str | os.PathLike | storage.Remote, manifest: Manifest
) -> Iterator[tuple[str, list[str]]]:
    """Reads every shard of a folder: checksum, every record, and what they hold.

    Args:
        directory: The folder.
        manifest: Its manifest.

    Yields:
        Name of a file and what is wrong with it, each a clause; nothing for a good one.
        Shards that the manifest does not list come last.
    """
    directory, seen = storage.location(directory), set()
    for name, shard in sorted(manifest.shards.items()):
        yield name, list(_faults(directory / name, shard, manifest, seen))
    for path in sorted(directory.glob("*-of-*.tfrecord")):
        if path.name not in manifest.shards:
            yield path.name, ["the manifest does not list it"]


def _faults(path, shard: Shard, manifest: Manifest, seen: set[str]) -> Iterator[str]:
    num_bytes = storage.num_bytes(path)
    if num_bytes is None:
        yield "it is missing"
        return
    if num_bytes != shard.num_bytes:
        yield f"it has {num_bytes:,} bytes, {shard.num_bytes:,} were written"
    elif _sha256(path) != shard.sha256:
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
            yield f"it holds {number + 1} clips, {shard.num_clips} were written"


def _record_fault(example: bytes, manifest: Manifest, split: str) -> str | None:
    try:
        values = decode(example, manifest.segment_dtype)
        num_samples, segments = values["num_samples"], values["segments"]
        _ = values["clip_id"]
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        return f"is no record of ours ({error!r})"
    num_segments = -(-num_samples // manifest.segment_samples)
    if len(segments) != num_segments * math.prod(manifest.segment_shape):
        return f"holds {len(segments)} values for {num_samples} samples"
    if segments.dtype.kind == "f" and not np.isfinite(segments).all():
        return "holds values that are not finite"
    labels = values.get("labels")
    if split == "student":
        return None if labels is None else "has labels, in a split without"
    if labels is None or len(labels) != len(manifest.tags) or labels.max() > 1:
        return f"does not hold {len(manifest.tags)} labels of 0 or 1"
    return None


def _sha256(path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


# --- For tensorflow-datasets ----------------------------------------------------------


def tfds_metadata(manifest: Manifest) -> dict[str, dict]:
    """File name -> content of what `tfds.builder_from_directory` needs."""

    def tensor(kind: str, shape: list[int], encoding: str) -> dict:
        dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
        return {"tensor": {"dtype": kind, "encoding": encoding, "shape": dimensions}}

    shapes = {"segments": [-1, *manifest.segment_shape], "labels": [len(manifest.tags)]}
    core = "tensorflow_datasets.core.features"
    features = {}
    for name, kind in _kinds(manifest.segment_dtype).items():
        if kind == "text":
            features[name] = {
                "pythonClassName": f"{core}.text_feature.Text",
                "text": {},
            }
        elif kind == "integer":
            features[name] = {
                "pythonClassName": f"{core}.scalar.Scalar",
                **tensor("int64", [], "none"),
            }
        else:
            features[name] = {
                "pythonClassName": f"{core}.tensor_feature.Tensor",
                **tensor(kind, shapes[name], "bytes"),
            }
    splits = []
    for split in manifest.splits:
        if split == "student":
            continue  # TFDS asks every record for labels
        shards = [manifest.shards[name] for name in manifest.shard_names(split)]
        splits.append(
            {
                "name": split,
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
                "shardLengths": [str(shard.num_clips) for shard in shards],
                "numBytes": str(sum(shard.num_bytes for shard in shards)),
            }
        )
    return {
        "features.json": {
            "pythonClassName": f"{core}.features_dict.FeaturesDict",
            "featuresDict": {"features": features},
        },
        "dataset_info.json": {
            "name": manifest.dataset,
            "version": "1.0.0",
            "fileFormat": "tfrecord",
            "splits": splits,
        },
    }
