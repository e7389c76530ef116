"""What became of one file: its value, or why there is none."""

import dataclasses
from typing import Generic, TypeVar

from tagger.audio import Source
from tagger.text import TaggerError

Value = TypeVar("Value")
Other = TypeVar("Other")


class ScoringError(TaggerError):
    """A model gives NaN for a file; the message holds the file's path."""

    def __init__(self, name: str):
        super().__init__(
            f"Cannot score {name!r}: the model's output holds NaN or infinite"
            " numbers. Use another model if this happens with every file."
        )
        self.name = name

    def __reduce__(self):  # so that a worker process can return it
        return ScoringError, (self.name,)


@dataclasses.dataclass(frozen=True)
class Result(Generic[Value]):
    """What became of one file; one that fails does not stop the others.

    Attributes:
        path: Path of the file, or waveform with its sample rate, as given.
        value: What was computed, such as a `Taggram`; None if there is an error.
        error: Why there is no value, or None.
    """

    path: Source
    value: Value | None = None
    error: Exception | None = None

    def get(self) -> Value:
        """Returns the value.

        Raises:
            AudioDecodeError, ScoringError: there is none.
        """
        if self.error:
            raise self.error
        return self.value

    def with_value(self, value: Other) -> "Result[Other]":
        """Returns the same file's result with another value; an error stays."""
        return self if self.error else Result(self.path, value)
