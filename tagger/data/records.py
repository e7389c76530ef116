"""The record: one clip as one `tf.train.Example`, and shards of records.

clip -> bytes of an Example -> shard `train-00000-of-00152.tfrecord`.

FEATURES is the only description of the record: encoding, decoding, tf.data and TFDS all
follow it. This module does not use TensorFlow, which would cost every building process
5 s and 0.7 GB. Instead it writes the few bytes of framing that an Example needs itself;
the tests compare them with TensorFlow's reader and writer.
"""

import contextlib
import dataclasses
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
    kinds = kinds_of(segment_dtype)
    return {
        name: _unpack(kinds[name], bytes(example[start:end]))
        for name, (start, end) in _locate(example).items()
    }


def _locate(example: bytes | memoryview) -> dict[str, tuple[int, int]]:
    """Returns feature name -> start and end of its value in a serialized Example."""
    places = {}
    ((_, *features),) = _fields(example, 0, len(example))
    for _, *entry in _fields(example, *features):
        (_, *name), (_, *feature) = _fields(example, *entry)
        ((_, *values),) = _fields(example, *feature)
        ((_, start, end),) = _fields(example, *values)
        places[bytes(example[slice(*name)]).decode()] = start, end
    return places


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


def _fields(
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


def resemul_shards(folder: Path | storage.Remote) -> list[Path]:
    """Returns the shards of the original resemul in a local folder, sorted.

    Their numbers have four digits: train-0000-of-0152.tfrecord, and
    test-0000-of-0043.seq.tfrecord.
    """
    if not isinstance(folder, Path):
        return []
    digits = "[0-9][0-9][0-9][0-9]"
    return sorted(folder.glob(f"[!.]*-{digits}-of-{digits}.*tfrecord"))


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
    with open(path, "rb") as file:
        return len(list(_spans(path, file)))


def _spans(path: str | os.PathLike, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yields start and end of the data of each record of an open shard."""
    size, at, number = os.fstat(file.fileno()).st_size, 0, 0
    while at < size:
        file.seek(at)
        head = file.read(12)
        if len(head) < 12 or _masked_crc(head[:8]) != head[8:]:
            raise CorruptShardError(path, number)
        length = struct.unpack("<Q", head[:8])[0]
        if at + 16 + length > size:
            raise CorruptShardError(path, number)
        yield at + 12, at + 12 + length
        at += 16 + length
        number += 1


# --- Parts of records -----------------------------------------------------------------


@dataclasses.dataclass
class StoredClip:
    """Location of a clip's waveform in a shard; `read_into` reads part of it.

    Attributes:
        path: Shard that holds the clip.
        number: Number of the record in the shard, from 0.
        labels: uint8 [num_tags]; empty for unlabelled music.
        num_samples: Length of the clip.
        dtype: Data type of the samples.
    """

    path: str
    number: int
    labels: np.ndarray
    num_samples: int
    dtype: np.dtype
    _start: int  # of the samples in the file
    _span: tuple[int, int]  # of the record's data in the file
    _is_checked: bool = False

    def read_into(self, start: int, samples: np.ndarray) -> None:
        """Reads the samples from `start` on into an array of `dtype`.

        The first call reads the whole record, to check its CRC.

        Raises:
            CorruptShardError: the record is corrupted.
            FileNotFoundError: the shard has been removed.
        """
        place = self._start + start * self.dtype.itemsize
        with open(self.path, "rb", buffering=0) as file:
            if not self._is_checked:
                self._check(file)
            file.seek(place)
            if file.readinto(samples.view(np.uint8)) != samples.nbytes:
                raise CorruptShardError(self.path, self.number)

    def _check(self, file: BinaryIO) -> None:
        first, last = self._span
        file.seek(first)
        data = file.read(last - first + 4)
        if _masked_crc(data[:-4]) != data[-4:]:
            raise CorruptShardError(self.path, self.number)
        self._is_checked = True


def stored_clips(path: str | os.PathLike, segment_dtype: str) -> list[StoredClip]:
    """Returns where the clips of a local shard of waveforms lie, without their samples.

    Raises:
        CorruptShardError: a record is corrupted outside of its samples.
    """
    clips, kinds = [], kinds_of(segment_dtype)
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        for number, (first, last) in enumerate(_spans(path, file)):
            try:
                with data[first:last] as example:
                    places = _locate(example)
                    begin, end = places["segments"]
                    values = {
                        name: _unpack(kinds[name], bytes(example[slice(*places[name])]))
                        for name in ("num_samples", "labels")
                        if name in places
                    }
            except (ValueError, IndexError, KeyError) as error:
                raise CorruptShardError(path, number) from error
            dtype = _little_endian(segment_dtype)
            if end - begin < values["num_samples"] * dtype.itemsize:
                raise CorruptShardError(path, number)
            clips.append(
                StoredClip(
                    os.fspath(path),
                    number,
                    values.get("labels", np.zeros(0, np.uint8)),
                    values["num_samples"],
                    dtype,
                    first + begin,
                    (first, last),
                )
            )
    return clips


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
