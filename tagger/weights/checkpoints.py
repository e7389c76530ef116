"""Reads the checkpoints of TensorFlow 1 with NumPy.

PREFIX.index ─▶ name, type, shape, place of each variable ─▶ PREFIX.data-00000-of-00001

The index is a table of LevelDB (https://github.com/google/leveldb/blob/main/doc/
table_format.md) whose values are protocol buffers, those of TensorFlow's
tensor_bundle.proto. Every checksum is verified.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tagger.storage import masked_crc
from tagger.text import TaggerError

MAGIC = 0xDB4775248B80FB57  # the last 8 bytes of a table
MAX_INDEX_BYTES = 1 << 26
# Numbers of types in types.proto that hold numbers.
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?"}


def read_checkpoint(prefix: str, max_bytes: int) -> dict[str, np.ndarray]:
    """Reads all variables of a checkpoint.

    Args:
        prefix: Path of its files without .index and .data-….
        max_bytes: Most bytes that the variables may have together.

    Raises:
        ValueError: a file is damaged, or holds something else than numbers.
        OSError: a file cannot be read.
    """
    index = Path(f"{prefix}.index")
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise TaggerError("its index is too large")
    try:
        entries = dict(_entries(index.read_bytes()))
        header = _fields(entries.pop(b""))
        num_shards = header.get(1, [1])[0]
        bundles = {name.decode(): _fields(value) for name, value in entries.items()}
        if sum(bundle.get(5, [0])[0] for bundle in bundles.values()) > max_bytes:
            raise TaggerError(f"its variables take more than {max_bytes / 1e9:.0f} GB")
        if header.get(2, [0])[0]:
            raise TaggerError("it was written on a big-endian machine")
        return {
            name: _array(prefix, num_shards, bundle) for name, bundle in bundles.items()
        }
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise TaggerError(f"its index is damaged: {error!r}") from error


def _array(prefix: str, num_shards: int, bundle: dict[int, list]) -> np.ndarray:
    """Returns a variable, given its BundleEntryProto."""
    number = bundle.get(1, [0])[0]
    if number not in DTYPES or 7 in bundle:
        raise TaggerError(f"a variable of type {number} is not numeric")
    shape = [
        _fields(dim).get(1, [0])[0]
        for shape in bundle.get(2, [])
        for dim in _fields(shape).get(2, [])
    ]
    shard = bundle.get(3, [0])[0]
    with open(f"{prefix}.data-{shard:05d}-of-{num_shards:05d}", "rb") as file:
        file.seek(bundle.get(4, [0])[0])
        data = file.read(bundle.get(5, [0])[0])
    if masked_crc(data) != bundle[6][0]:
        raise TaggerError("a variable does not match its checksum")
    return np.frombuffer(data, DTYPES[number]).reshape(shape)


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a table."""
    footer = table[-48:]
    if len(footer) < 48 or struct.unpack("<Q", footer[40:]) != (MAGIC,):
        raise TaggerError("its index is not a table of TensorFlow")
    _, place = _handle(footer, 0)  # of metadata that TensorFlow does not write
    index, _ = _handle(footer, place)
    for _, handle in _pairs(_block(table, *index)):
        yield from _pairs(_block(table, *_handle(handle, 0)[0]))


def _handle(data: bytes, place: int) -> tuple[tuple[int, int], int]:
    """Returns a BlockHandle (offset, size), and the place behind it."""
    offset, place = _varint(data, place)
    size, place = _varint(data, place)
    return (offset, size), place


def _block(table: bytes, offset: int, size: int) -> bytes:
    """Returns the content of a block, without its type and checksum."""
    held = table[offset : offset + size + 5]
    if len(held) < size + 5 or masked_crc(held[: size + 1]) != held[size + 1 :]:
        raise TaggerError("its index does not match its checksum")
    if held[size]:
        raise TaggerError("its index is compressed")
    return held[:size]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block; a key shares a prefix with the last."""
    (num_restarts,) = struct.unpack("<I", block[-4:])
    end, place, key = len(block) - 4 - 4 * num_restarts, 0, b""
    while place < end:
        num_shared, place = _varint(block, place)
        num_own, place = _varint(block, place)
        num_bytes, place = _varint(block, place)
        key = key[:num_shared] + block[place : place + num_own]
        place += num_own
        yield key, block[place : place + num_bytes]
        place += num_bytes


def _fields(message: bytes) -> dict[int, list]:
    """Returns the values of a protocol buffer by the number of their field."""
    found, place = {}, 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
        elif kind == 2:
            length, place = _varint(message, place)
            value, place = message[place : place + length], place + length
        else:  # fixed64, fixed32
            length = {1: 8, 5: 4}[kind]
            value, place = message[place : place + length], place + length
        found.setdefault(number, []).append(value)
    return found


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Returns a number of seven bits per byte, and the place behind it."""
    value = 0
    for shift in range(0, 64, 7):
        value |= (data[place] & 127) << shift
        place += 1
        if data[place - 1] < 128:
            return value, place
    raise TaggerError("its index holds an endless number")
