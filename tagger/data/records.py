"""The record: one clip as one `tf.train.Example`, and shards of records.

clip -> bytes of an Example -> shard `train-00000-of-00152.tfrecord`.

FEATURES is the only description of the record: encoding, decoding, the index of clips
and TFDS all follow it. This module does not use TensorFlow, which would cost every
building process 5 s and 0.7 GB. Instead it writes the few bytes of framing that an
Example needs itself; the tests compare them with TensorFlow's reader and writer.
"""

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from tagger import storage
from tagger.text import TaggerError

# Name in the Example -> type of its value. Arrays are little-endian bytes.
FEATURES = {
    "clip_id": "text",
    # Either consecutive segments of the waveform, the last one zero-padded:
    # [num_segments, segment_samples]; or the log-mel spectrogram of each segment:
    # float16 or float32 [num_segments, num_frames, n_mels]. The manifest says which.
    "segments": "int16",
    "num_samples": "integer",  # true length of the clip
    "labels": "uint8",  # [num_tags]; absent for unlabelled music
}
SAMPLE_RATE = 22050  # default of a build, in Hz
SEGMENT_SAMPLES = 59049  # default of a build


class CorruptShardError(TaggerError):
    """A shard is corrupted; the message names the file and the first bad record."""

    def __init__(self, path: str | os.PathLike, number: int):
        super().__init__(
            f"Record {number} of {path} is corrupted (counted from 0). Delete this"
            " shard and run the build again: it makes only what is missing."
        )
        self.number = number


# --- One record -----------------------------------------------------------------------


def encode(
    clip_id: str, segments: np.ndarray, num_samples: int, labels: np.ndarray | None
) -> bytes:
    """Makes the serialized Example of one clip.

    Args:
        clip_id: Id of the clip, unique in its dataset.
        segments: Segments as returned by `segmentation.cut`, or the log-mel spectrogram
            of each segment.
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
    for name, kind in kinds_of(str(segments.dtype)).items():
        if name in values:
            features += _feature(name, _pack(kind, values[name]))
    return b"".join(_message(1, features))


def decode(
    example: bytes, segment_dtype: str = "int16"
) -> dict[str, str | int | np.ndarray]:
    """Inverts `encode`: returns feature name -> value, with flat `segments`."""
    kinds = kinds_of(segment_dtype)
    return {
        name: _unpack(kinds[name], bytes(example[start:end]))
        for name, (start, end) in _locate(example).items()
    }


class Entry(NamedTuple):
    """What a record says of its clip, and where in the record the clip's values lie.

    Attributes:
        clip_id: Id of the clip; empty in the original resemul's records.
        labels: 0/1 [num_tags], one byte each; empty for unlabelled music.
        num_samples: Length of the clip.
        spans: Start and end of the values in bytes: one span, or one of the same length
            per segment.
    """

    clip_id: str
    labels: bytes
    num_samples: int
    spans: list[tuple[int, int]]


def find_clip(example: bytes | memoryview) -> Entry:
    """Returns where a serialized Example holds what, without reading its segments.

    Raises:
        ValueError, KeyError, IndexError: it is not a record of this project.
    """
    places = _locate(example)
    clip_id, num_samples, labels = (
        _unpack(FEATURES[name], bytes(example[slice(*places.get(name, (0, 0)))]))
        for name in ("clip_id", "num_samples", "labels")
    )
    return Entry(clip_id, labels.tobytes(), num_samples, [places["segments"]])


def _locate(example: bytes | memoryview) -> dict[str, tuple[int, int]]:
    """Returns feature name -> start and end of its value in a serialized Example."""
    ((_, *content),) = fields(example, 0, len(example))
    return {name: values[0] for name, values in features(example, *content)}


def features(
    example: bytes | memoryview, start: int, end: int
) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yields the name of each feature, and start and end of each of its values.

    Args:
        example: A serialized Example or SequenceExample.
        start: Start of a message Features in it.
        end: End of the message.
    """
    for _, *entry in fields(example, start, end):
        (_, *name), (_, *feature) = fields(example, *entry)
        ((_, *values),) = fields(example, *feature)
        held = [(first, last) for _, first, last in fields(example, *values)]
        yield bytes(example[slice(*name)]).decode(), held


def kinds_of(segment_dtype: str) -> dict[str, str]:
    """Returns FEATURES with the given dtype of the segments."""
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


# An Example is four nested protobuf messages whose fields are all length-delimited
# (wire type 2): Example{1: Features{1: map entry{1: name, 2: Feature{1: BytesList{1:
# bytes} | 3: Int64List{1: packed varints}}}}}
# Messages stay lists of parts until the end, so that samples are copied only once, not
# at every level.


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


def fields(
    data: bytes | memoryview, at: int, end: int
) -> Iterator[tuple[int, int, int]]:
    """Yields number, start and end of each field of the message from `at` to `end`."""
    while at < end:
        key, at = _read_varint(data, at)
        length, at = _read_varint(data, at)
        yield key >> 3, at, at + length
        at += length


# --- A shard --------------------------------------------------------------------------
# TFRecord framing: length (uint64), CRC of the length, data, CRC of the data; the CRCs
# are CRC-32C, masked.


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """Returns a name such as `train-00000-of-00152.tfrecord`, as TFDS names shards."""
    return f"{split}-{shard:05d}-of-{num_shards:05d}.tfrecord"


class ShardWriter:
    """Writes a shard under a temporary name and renames it when its `with` block ends.

    If the block raises an exception, no file remains.

    Args:
        path: File or URL of the shard.

    Attributes:
        path: Location of the shard.
        num_records: Number of records written so far.
        num_bytes: Number of bytes written so far.
        sha256: Checksum of the file, available after the block.
    """

    def __init__(self, path: str | os.PathLike | storage.Remote):
        self.path = storage.location(path)
        self._hash = hashlib.sha256()
        self.num_records = self.num_bytes = 0

    def __enter__(self):
        self._opened = contextlib.ExitStack()
        unfinished = self._opened.enter_context(storage.replacing(self.path))
        self._file = self._opened.enter_context(unfinished.open("wb"))
        return self

    def write(self, data: bytes) -> None:
        """Writes one record."""
        length = struct.pack("<Q", len(data))
        for part in (
            length,
            storage.masked_crc(length),
            data,
            storage.masked_crc(data),
        ):
            self._file.write(part)
            self._hash.update(part)
            self.num_bytes += len(part)
        self.num_records += 1

    def __exit__(self, *error):
        self._opened.__exit__(*error)
        self.sha256 = self._hash.hexdigest()


def read_shard(path: str | os.PathLike) -> Iterator[bytes]:
    """Yields the serialized Examples of a local shard and checks every CRC.

    Raises:
        CorruptShardError: a record is corrupted. The message holds the file and the
            number of the first such record, counted from 0.
    """
    with open(path, "rb") as file:
        for number, span in enumerate(spans(path, file)):
            yield read_record(path, file, number, span)


def spans(path: str | os.PathLike, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yields start and end of the data of each record of an open shard.

    Raises:
        CorruptShardError: the length of a record is corrupted.
    """
    size, at, number = os.fstat(file.fileno()).st_size, 0, 0
    while at < size:
        file.seek(at)
        head = file.read(12)
        if len(head) < 12 or storage.masked_crc(head[:8]) != head[8:]:
            raise CorruptShardError(path, number)
        length = struct.unpack("<Q", head[:8])[0]
        if at + 16 + length > size:
            raise CorruptShardError(path, number)
        yield at + 12, at + 12 + length
        at += 16 + length
        number += 1


def read_record(
    path: str | os.PathLike, file: BinaryIO, number: int, span: tuple[int, int]
) -> bytes:
    """Returns the data of one record, from start to end in an open shard.

    Raises:
        CorruptShardError: it does not match its CRC.
    """
    start, end = span
    file.seek(start)
    data = file.read(end - start + 4)
    if len(data) < end - start + 4 or storage.masked_crc(data[:-4]) != data[-4:]:
        raise CorruptShardError(path, number)
    return data[:-4]
