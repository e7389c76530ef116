"""Excerpts of audio files, which are decoded without the music between them."""

import dataclasses
import itertools
import os
from collections.abc import Iterator

import av
import numpy as np

from tagger.audio import Source, resampled, stream_source
from tagger.containers import AudioFile, open_audio

SEEK_SECONDS = 0.25  # before an excerpt: a decoder needs earlier packets to warm up


@dataclasses.dataclass(frozen=True)
class Excerpts:
    """Parts of a file.

    Attributes:
        seconds: Start of each part.
        waveforms: float32 [num_excerpts, num_samples].
        length_seconds: Length of the whole file, as its header says or suggests.
    """

    seconds: list[float]
    waveforms: np.ndarray
    length_seconds: float


def load_excerpts(
    source: Source, sample_rate: int, num_samples: int, number: int
) -> Excerpts | None:
    """Decodes excerpts that are spread evenly over a file; seeks from one to the next.

    Each excerpt is the middle of its share of the file, so that one excerpt is the
    middle of the file.

    Args:
        source: Path of an audio file, or (waveform, sample rate in Hz).
        sample_rate: Output rate in Hz.
        num_samples: Length of an excerpt.
        number: Number of excerpts.

    Returns:
        The excerpts. None if the file is not longer than they are, or if its length or
        a place in it cannot be found without decoding all of it.

    Raises:
        AudioDecodeError: the file cannot be opened, or holds NaN or samples beyond
            LOUDEST.
    """
    seconds = num_samples / sample_rate
    if isinstance(source, tuple):
        waveform = np.concatenate(list(stream_source(source, sample_rate)))
        duration = len(waveform) / sample_rate
        starts = _starts(duration, seconds, number)
        firsts = [round(start * sample_rate) for start in starts]
        found = [waveform[first : first + num_samples] for first in firsts]
        return Excerpts(starts, np.stack(found), duration) if starts else None
    found = []
    with open_audio(source) as file:
        duration = (file.container.duration or 0) / av.time_base
        starts = _starts(duration, seconds, number)
        for start in starts:
            try:
                file.container.seek(int(max(start - SEEK_SECONDS, 0) * av.time_base))
                frames = _frames_after(file, start)
                excerpt = _excerpt(source, frames, start, sample_rate, num_samples)
            except (av.FFmpegError, OSError):
                return None
            if excerpt is None:
                return None
            found.append(excerpt)
    return Excerpts(starts, np.stack(found), duration) if starts else None


def _starts(duration: float, seconds: float, number: int) -> list[float]:
    if duration <= number * seconds:
        return []
    return [(k + 0.5) / number * duration - seconds / 2 for k in range(number)]


def _frames_after(file: AudioFile, start: float) -> Iterator[av.AudioFrame]:
    """Yields the frames from a time on, given in seconds."""
    num_damaged = 0
    for packet in file.packets():
        try:
            frames = file.decode(packet)
        except av.FFmpegError:
            num_damaged += 1
            if num_damaged > 100:
                return
            continue
        for frame in frames:
            if frame.time is None:
                return  # nobody knows where this is
            if frame.time + frame.samples / frame.sample_rate > start:
                yield frame


def _excerpt(
    path: str | os.PathLike,
    frames: Iterator[av.AudioFrame],
    start: float,
    sample_rate: int,
    num_samples: int,
) -> np.ndarray | None:
    """Returns the samples [num_samples] from a time on; None if there are too few."""
    first = next(frames, None)
    if first is None or first.time > start + SEEK_SECONDS:
        return None
    num_early = max(round((start - first.time) * sample_rate), 0)
    blocks, num_held = [], 0
    for block in resampled(path, itertools.chain([first], frames), sample_rate):
        blocks.append(block)
        num_held += len(block)
        if num_held >= num_early + num_samples:
            return np.concatenate(blocks)[num_early : num_early + num_samples]
    return None
