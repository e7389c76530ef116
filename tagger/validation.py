"""Checks what a file says of itself against declared types and ranges.

Every value that comes from a file is checked here, once, before anything uses it: the
metadata of models, manifests, the state of training runs, and NumPy's arrays.
"""

import json
import lzma
import math
import os
import zipfile
import zlib
from typing import Annotated, Any, BinaryIO, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

Kind = TypeVar("Kind")

Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
SampleRate = Annotated[int, Meta(ge=1, le=400_000)]
# 16 segments of this length, a batch, take 1 GB.
SegmentLength = Annotated[int, Meta(ge=1, le=1 << 24)]
TagCount = Annotated[int, Meta(ge=1, le=100_000)]
MAX_ARRAY_BYTES = 1 << 30  # of an `.npz` file; our largest model has 100 MB
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
        raise ValueError(
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
        raise ValueError(f"{str(path)!r} does not hold valid JSON. {then}") from error
    return convert(value, kind, path, then)


def as_utf8(path: str | os.PathLike) -> str:
    r"""Returns a path as text; bytes that are not UTF-8 are written as `\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable(text: str, keep: str = "") -> str:
    """Escapes what must not reach a terminal, a picture or a table.

    Names of files and tags may hold control characters, codes that recolour or rewrite
    a terminal, and bytes that are not UTF-8.

    Args:
        text: Text from outside.
        keep: Further characters to keep, such as line breaks.
    """
    return "".join(
        one
        if one.isprintable() or one in keep
        else one.encode("unicode_escape").decode()
        for one in text
    )


def table_cell(text: str) -> str:
    """Returns text for a cell of a CSV file, which a spreadsheet may open.

    Control characters are escaped, and an apostrophe keeps `=1+1` from being a formula.
    """
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def read_array(file: BinaryIO, num_bytes: int) -> np.ndarray:
    """Reads an array in NumPy's format; a header that claims too much is not believed.

    Args:
        file: Open file at the start of the array.
        num_bytes: Number of bytes of the array with its header.

    Raises:
        ValueError: it is not an array of numbers or text, or does not have the size
            that its header claims.
    """
    formats = np.lib.format
    read_header = {
        (1, 0): formats.read_array_header_1_0,
        (2, 0): formats.read_array_header_2_0,
    }.get(formats.read_magic(file))
    if read_header is None:
        raise ValueError("its version of NumPy's format is unknown")
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it is a pickle, and a pickle can run code")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed != num_bytes - file.tell():
        raise ValueError(
            f"its header claims {claimed:,} bytes, but {num_bytes - file.tell():,}"
            " follow"
        )
    values = np.frombuffer(file.read(claimed), dtype).copy()
    return values.reshape(shape, order="F" if is_fortran else "C")


def load_array(path: str | os.PathLike) -> np.ndarray:
    """Reads an `.npy` file as `read_array` does.

    Raises:
        ValueError: see `read_array`.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return read_array(file, os.fstat(file.fileno()).st_size)


def read_arrays(
    path: str | os.PathLike, max_bytes: int = MAX_ARRAY_BYTES
) -> dict[str, np.ndarray]:
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
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > max_bytes:
                raise ValueError(f"it unpacks to more than {max_bytes / 1e9:.1f} GB")
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    try:
                        arrays[name] = read_array(file, member.file_size)
                    except ValueError as error:
                        raise ValueError(f"{name!r}: {error}") from error
    except (
        *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, KeyError),
        *(NotImplementedError, RuntimeError, OverflowError, MemoryError),
    ) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ValueError(f"it is damaged: {reason}") from error
    return arrays
