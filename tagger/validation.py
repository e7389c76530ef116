"""Checks what a file says of itself against declared types and ranges.

Every value that comes from a file is checked here, once, before anything uses it: the
metadata of models, manifests, the state of training runs, and NumPy's arrays.
"""

import json
import lzma
import os
import typing
import zipfile
import zlib
from typing import Annotated, Any, BinaryIO, Literal, TypeVar

import lazy_loader
import msgspec
from msgspec import Meta

from tagger.options import check_range
from tagger.text import TaggerError

np = lazy_loader.load("numpy")  # not for what reads no arrays, such as --help

Kind = TypeVar("Kind")

Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
HIGHEST_RATE = 400_000  # Hz
LONGEST_SEGMENT = 1 << 24  # samples; 16 segments, a batch, take 1 GB
SampleRate = Annotated[int, Meta(ge=1, le=HIGHEST_RATE)]
SegmentLength = Annotated[int, Meta(ge=1, le=LONGEST_SEGMENT)]
TagCount = Annotated[int, Meta(ge=1, le=100_000)]
MAX_ARRAY_BYTES = 1 << 30  # of an `.npz` file; our largest model has 100 MB
# What Python, NumPy, zipfile and h5py raise for damaged files, besides OSError.
DAMAGED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    MemoryError,
    EOFError,
    RuntimeError,  # also NotImplementedError and RecursionError
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
# A name inside its folder: no path, and not hidden.
ShardName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*\.tfrecord$")]


def convert(value: Any, kind: type[Kind], path: str | os.PathLike, then: str) -> Kind:
    """Converts a value of plain types, such as parsed JSON, to a declared type.

    Args:
        value: Value from a file.
        kind: Type to convert to, such as a dataclass whose fields are annotated with
            ranges; its `__post_init__` checks rules between fields.
        path: File that holds the value, for the error message.
        then: What to do about it: the last sentence of the error message.

    Raises:
        ValueError: the value has another type, or is out of range.
    """
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        problem, _, place = str(error).partition(" - at ")
        field = place.strip("`").removeprefix("$").removeprefix(".")
        where = f"{field}: " if field else ""
        problem = problem.replace("`", "").removeprefix("Object ")
        problem = problem.removesuffix(".")
        raise TaggerError(
            f"{str(path)!r} holds a value that cannot be right ({where}{problem})."
            f" {then}"
        ) from error


def parse(
    text: str | bytes, kind: type[Kind], path: str | os.PathLike, then: str
) -> Kind:
    """Parses JSON and converts it as `convert` does.

    Raises:
        ValueError: the text is not JSON, or see `convert`.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaggerError(f"{str(path)!r} does not hold valid JSON. {then}") from error
    return convert(value, kind, path, then)


def check_fields(values: object) -> None:
    """Checks the fields of a dataclass against the ranges and choices of their types.

    Raises:
        ValueError: a field is out of range or no choice; the message says what may be.
    """
    kinds = typing.get_type_hints(type(values), include_extras=True)
    for name, kind in kinds.items():
        value = getattr(values, name)
        if value is None:
            continue
        if type(None) in typing.get_args(kind):
            kind = typing.get_args(kind)[0]
        if typing.get_origin(kind) is Literal and value not in typing.get_args(kind):
            raise TaggerError(
                f"Unknown {name} {value!r}. Choose one of:"
                f" {', '.join(typing.get_args(kind))}."
            )
        for mark in getattr(kind, "__metadata__", ()):
            check_range(name, value, mark)


def check_regular(path: str | os.PathLike) -> None:
    """Checks that reading a file will end: a pipe or a device may not.

    Raises:
        ValueError: it exists and is no regular file.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise TaggerError(f"{str(path)!r} is not a regular file")


def _read_array(file: BinaryIO) -> "np.ndarray":
    """Reads an array of numbers or text that ends where the file ends.

    A pickle, which can run code, is refused.
    """
    array = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise TaggerError("more bytes follow than its header claims")
    return array


def load_array(path: str | os.PathLike) -> "np.ndarray":
    """Reads an `.npy` file.

    Raises:
        ValueError: the file is damaged, holds anything but an array of numbers or text,
            or more than MAX_ARRAY_BYTES. The message is the reason alone.
        OSError: the file cannot be read.
    """
    check_regular(path)
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_ARRAY_BYTES:
                raise TaggerError(f"it takes more than {MAX_ARRAY_BYTES / 1e9:.1f} GB")
            return _read_array(file)
    except DAMAGED as error:
        raise TaggerError(_reason(error)) from error


def read_arrays(
    path: str | os.PathLike, max_bytes: int = MAX_ARRAY_BYTES
) -> "dict[str, np.ndarray]":
    """Reads the arrays of an `.npz` file, by name.

    Args:
        path: Path of the file.
        max_bytes: Size that the arrays may have together, when they are unpacked.

    Raises:
        ValueError: the file is not an `.npz` file, is damaged, holds anything but
            arrays of numbers or text, or more than `max_bytes`. The message is the
            reason alone.
        OSError: the file cannot be read.
    """
    check_regular(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > max_bytes:
                raise TaggerError(f"it unpacks to more than {max_bytes / 1e9:.1f} GB")
            for member in members:
                with archive.open(member) as file:
                    arrays[member.filename.removesuffix(".npy")] = _read_array(file)
    except DAMAGED as error:
        raise TaggerError(_reason(error)) from error
    return arrays


def _reason(error: Exception) -> str:
    if "allow_pickle" in str(error):  # NumPy's advice for other uses
        return "it holds a pickle, which can run code"
    return (str(error).strip() or repr(error)).splitlines()[0]
