"""Cuts clips into the segments that a model takes.

waveform [num_samples] -> segments [num_segments, segment length]. `cut` takes a whole
clip, `stream` a clip of any length block by block, and `crop` reads one segment. All of
them follow the same rule, a `Segmentation`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from tagger.text import TaggerError
from tagger.validation import Count, SegmentLength

INT16_SCALE = 32768  # waveform at ±1 = int16 samples / INT16_SCALE


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The rule that cuts a clip into segments.

    A clip shorter than one segment is repeated until it fills one.

    Attributes:
        num_samples: Length of a segment.
        remainder: What happens to the last, incomplete segment: "drop", or "pad" (with
            zeros).
        hop_samples: Distance from the start of one segment to the start of the next;
            None means num_samples.
        edge_samples: Samples mirrored at both ends of the clip before it is cut. A
            model whose log-mel spectrogram has no padding thus sees the frames of one
            spectrogram over the whole clip.

    Raises:
        ValueError: the remainder is unknown, or it is "pad" and segments are not
            consecutive; the hop is longer than a segment, or the edges leave nothing
            between them.
    """

    num_samples: SegmentLength
    remainder: Literal["drop", "pad"] = "drop"
    hop_samples: SegmentLength | None = None
    edge_samples: Count = 0

    def __post_init__(self):
        if self.remainder not in ("drop", "pad"):
            raise TaggerError(
                f"remainder must be 'drop' or 'pad'. Received: {self.remainder!r}"
            )
        if self.hop_samples is None:
            object.__setattr__(self, "hop_samples", self.num_samples)
        if not 1 <= self.hop_samples <= self.num_samples:
            raise TaggerError(
                f"hop_samples must be 1 to {self.num_samples}, the length of a segment."
                f" Received: {self.hop_samples}"
            )
        # The shortest clip has `shortest_samples`, which must mirror an edge.
        if not 0 <= 3 * self.edge_samples < self.num_samples:
            raise TaggerError(
                f"edge_samples must be less than a third of {self.num_samples}, the"
                f" length of a segment. Received: {self.edge_samples}"
            )
        if not self.is_consecutive and self.remainder != "drop":
            raise TaggerError(
                "Overlapping segments can only drop their remainder. Choose 'drop'."
            )

    @property
    def is_consecutive(self) -> bool:
        """Whether segments neither overlap nor see mirrored samples."""
        return self.hop_samples == self.num_samples and self.edge_samples == 0

    @property
    def shortest_samples(self) -> int:
        """Length in samples to which shorter clips are repeated."""
        return self.num_samples - 2 * self.edge_samples

    def dropping(self) -> "Segmentation":
        """Returns the rule for training, which drops incomplete segments."""
        return dataclasses.replace(self, remainder="drop")

    def with_hop(self, hop_seconds: float | None, sample_rate: int) -> "Segmentation":
        """Returns the same rule with another hop.

        Args:
            hop_seconds: Hop in seconds; None keeps the present hop.
            sample_rate: Sample rate in Hz.

        Raises:
            ValueError: the hop is shorter than a sample or longer than a segment.
        """
        if hop_seconds is None:
            return self
        longest = self.num_samples / sample_rate
        if not 1 / sample_rate <= hop_seconds <= longest:
            raise TaggerError(
                f"The hop must be between one sample and one segment ({longest:.2f} s),"
                f" not {hop_seconds:g} s."
            )
        # Overlapping segments leave no remainder worth padding.
        hop_samples = round(hop_seconds * sample_rate)
        return dataclasses.replace(self, hop_samples=hop_samples, remainder="drop")

    def num_segments(self, num_samples: int) -> int:
        """Returns the number of segments of a clip with `num_samples` samples."""
        rest = int(num_samples) + 2 * self.edge_samples - self.num_samples
        whole = max(0, rest // self.hop_samples) + 1
        is_padded = self.remainder == "pad" and rest > 0 and rest % self.hop_samples
        return whole + bool(is_padded)


def to_float(samples: np.ndarray) -> np.ndarray:
    """Returns int16 samples as a float32 waveform at ±1; a waveform stays as it is."""
    if samples.dtype != np.int16:
        return samples
    return samples.astype(np.float32) / INT16_SCALE


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Rounds a waveform at ±1 to int16 as FFmpeg does; int16 input is unchanged."""
    if waveform.dtype == np.int16:
        return waveform
    steps = np.rint(waveform * INT16_SCALE)
    return np.clip(steps, -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def cut(waveform: np.ndarray, segmentation: Segmentation) -> np.ndarray:
    """Cuts a waveform [num_samples] into segments [num_segments, segment length].

    Segments are read-only views of the waveform where they can be.

    Raises:
        ValueError: the waveform is empty.
    """
    if not len(waveform):
        raise TaggerError("An empty waveform has no segments.")
    if len(waveform) < segmentation.shortest_samples:
        waveform = np.resize(waveform, segmentation.shortest_samples)  # repeats
    if segmentation.edge_samples:
        waveform = np.pad(waveform, segmentation.edge_samples, mode="reflect")
    if segmentation.remainder == "pad":
        waveform = np.pad(waveform, (0, -len(waveform) % segmentation.num_samples))
    every = np.lib.stride_tricks.sliding_window_view(waveform, segmentation.num_samples)
    return every[:: segmentation.hop_samples]


def num_crops(num_samples: int, segmentation: Segmentation) -> int:
    """Returns the number of possible starts of a random crop."""
    longest = max(num_samples, segmentation.shortest_samples)
    return longest + 2 * segmentation.edge_samples - segmentation.num_samples + 1


def crop(
    read_into: Callable[[int, np.ndarray], None],
    num_samples: int,
    segmentation: Segmentation,
    start: int,
    segment: np.ndarray,
) -> None:
    """Cuts one segment out of a clip, of which it reads no more than that.

    Args:
        read_into: Function that reads the clip's samples from a place on into an array.
        num_samples: Length of the clip.
        segmentation: Length and edges of the segment.
        start: Place of the segment in the repeated and mirrored clip, from 0 to
            `num_crops` - 1.
        segment: Array to fill [segment length].
    """
    if num_samples < segmentation.shortest_samples:
        clip = np.empty(num_samples, segment.dtype)
        read_into(0, clip)
        clip = np.resize(clip, segmentation.shortest_samples)

        def read_into(first, out):
            out[:] = clip[first : first + len(out)]

        num_samples = len(clip)
    first = start - segmentation.edge_samples
    before = max(-first, 0)
    after = max(first + len(segment) - num_samples, 0)
    end = len(segment) - after
    read_into(max(first, 0), segment[before:end])
    if before:
        segment[:before] = segment[before + 1 : 2 * before + 1][::-1]
    if after:
        segment[end:] = segment[end - after - 1 : end - 1][::-1]


def stream(
    blocks: Iterator[np.ndarray], segmentation: Segmentation
) -> Iterator[np.ndarray]:
    """Cuts a stream of blocks [any length] into segments, with only one in memory."""
    blocks = _repeated(blocks, segmentation.shortest_samples)
    rest = None
    for block in _mirrored(blocks, segmentation.edge_samples):
        rest = block if rest is None else np.concatenate([rest, block])
        start = 0
        while len(rest) - start >= segmentation.num_samples:
            yield rest[start : start + segmentation.num_samples]
            start += segmentation.hop_samples
        rest = rest[start:]
    if rest is not None and len(rest) and segmentation.remainder == "pad":
        yield np.pad(rest, (0, segmentation.num_samples - len(rest)))


def _repeated(blocks: Iterator[np.ndarray], num_samples: int) -> Iterator[np.ndarray]:
    """Repeats a stream that is shorter than `num_samples` until it has that length."""
    start = None
    for block in blocks:
        start = block if start is None else np.concatenate([start, block])
        if len(start) >= num_samples:
            yield start
            yield from blocks
            return
    if start is not None and len(start):
        yield np.resize(start, num_samples)  # np.resize repeats


def _mirrored(blocks: Iterator[np.ndarray], num_samples: int) -> Iterator[np.ndarray]:
    """Mirrors the first and last `num_samples` samples of a stream at its ends."""
    if not num_samples:
        yield from blocks
        return
    end = None
    for block in blocks:
        if end is None:
            yield block[num_samples:0:-1]
            end = block[:0]
        yield block
        end = np.concatenate([end, block])[-num_samples - 1 :]
    if end is not None:
        yield end[-2::-1]
