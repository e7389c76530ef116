"""Checks what a file says of itself against declared types and ranges.

Every value that comes from a file is checked here, once, before anything uses it: the
metadata of models, manifests, and the state of training runs.
"""

import json
import os
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

Kind = TypeVar("Kind")

Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
SampleRate = Annotated[int, Meta(ge=1, le=400_000)]
# 16 segments of this length, a batch, take 1 GB.
SegmentLength = Annotated[int, Meta(ge=1, le=1 << 24)]
TagCount = Annotated[int, Meta(ge=1, le=100_000)]
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
