"""The record: one clip as one `tf.train.Example`, and shards of records.

clip -> bytes of an Example -> shard `train-00000-of-00152.tfrecord`.

FEATURES is the only description of the record: encoding, decoding, tf.data and TFDS all
follow it. This module does not use TensorFlow, which would cost every building process
5 s and 0.7 GB. Instead it writes the few bytes of framing that an Example needs itself;
the tests compare them with TensorFlow's reader and writer.
"""

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator

import google_crc32c
import numpy as np

from tagger import storage

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


class CorruptShardError(ValueError):
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
    values, kinds = {}, kinds_of(segment_dtype)
    ((_, features),) = _fields(example)
    for _, entry in _fields(features):
        name, feature = (value for _, value in _fields(entry))
        ((_, values_list),) = _fields(feature)
        ((_, value),) = _fields(values_list)
        name = name.decode()
        values[name] = _unpack(kinds[name], value)
    return values


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
        self._temporary = storage.temporary(self.path)
        self._hash = hashlib.sha256()
        self.num_records = self.num_bytes = 0

    def __enter__(self):
        self._opened = contextlib.ExitStack()
        self._file = self._opened.enter_context(self._temporary.open("wb"))
        return self

    def write(self, data: bytes) -> None:
        """Writes one record."""
        length = struct.pack("<Q", len(data))
        for part in (length, _masked_crc(length), data, _masked_crc(data)):
            self._file.write(part)
            self._hash.update(part)
            self.num_bytes += len(part)
        self.num_records += 1

    def __exit__(self, *error):
        try:
            self._opened.__exit__(*error)  # a full disk may be noticed only here
            if error[0] is None:
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)
        self.sha256 = self._hash.hexdigest()


def read_shard(path: str | os.PathLike | storage.Remote) -> Iterator[bytes]:
    """Yields the serialized Examples of a shard and checks every CRC.

    Raises:
        CorruptShardError: a record is corrupted. The message holds the file and the
            number of the first such record, counted from 0.
    """
    path = storage.location(path)
    num_left = storage.num_bytes(path) or 0
    with path.open("rb") as file:
        number = 0
        while head := file.read(12):
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
            if len(head) < 12 or _masked_crc(head[:8]) != head[8:]:
                raise CorruptShardError(path, number)
            num_left -= 16 + length
            if num_left < 0:  # a length that cannot be right is not read
                raise CorruptShardError(path, number)
            data, crc = file.read(length), file.read(4)
            if len(data) < length or _masked_crc(data) != crc:
                raise CorruptShardError(path, number)
            yield data
            number += 1


def count_records(path: str | os.PathLike) -> int:
    """Counts the records of a shard by their lengths, without reading their data.

    Raises:
        CorruptShardError: the length of a record is corrupted.
    """
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
