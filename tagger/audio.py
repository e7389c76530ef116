"""Reads and writes audio files with PyAV (its wheel contains FFmpeg).

path -> float32 [num_samples], mono, at the requested rate; a waveform -> wav or mp3.

For mono files the samples equal those of `ffmpeg -f f32le` and of madmom to the last
bit. Several channels are averaged, as madmom does for int16 (for float32, its ffmpeg
call makes stereo files sqrt(2) louder than the mean).
"""

import contextlib
import dataclasses
import functools
import itertools
import numbers
import os
import time
import warnings
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from tagger.containers import AudioDecodeError, AudioFile, open_audio
from tagger.storage import replacing

# Files found in a folder count as audio if they have one of these extensions; a file
# that is given by name may have any.
AUDIO_EXTENSIONS = (
    ".aac", ".aif", ".aiff", ".ape", ".au", ".dsf", ".flac", ".m4a", ".m4b", ".mka",
    ".mp2", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".tta", ".wav", ".webm", ".wma",
    ".wv",
)  # fmt: skip
BLOCK_SAMPLES = 1 << 16  # longest block of `stream_audio`; 3 s at 22050 Hz
RATES = (1000, 3_000_000)  # lowest and highest sample rate of a file in Hz
LOUDEST = 1e6  # full scale is 1; the power of 1e20 is infinite in float32
SEEK_SECONDS = 0.25  # before an excerpt: a decoder needs earlier packets to warm up
SPARE_SECONDS = 30  # time that decoding may take beyond the length of the music
# A file, or a waveform [num_samples] with its sample rate in Hz.
Source = str | os.PathLike | tuple[np.ndarray, int]


def load_audio(path: str | os.PathLike, sample_rate: int) -> np.ndarray:
    """Decodes an audio file to mono at the given rate.

    Args:
        path: File that `containers.open_audio` accepts. Channels are averaged.
        sample_rate: Output rate in Hz.

    Returns:
        float32 [num_samples], full scale at ±1. Not normalised.

    Raises:
        AudioDecodeError: as for `stream_audio`.
    """
    return np.concatenate(list(stream_audio(path, sample_rate)))


def stream_audio(path: str | os.PathLike, sample_rate: int) -> Iterator[np.ndarray]:
    """Decodes an audio file block by block, in memory independent of its length.

    Packets that fail to decode are skipped, as FFmpeg does. A file is rejected if it
    ends before the duration stored in its container, if it ends within an MP3 frame, or
    if more than one packet in ten is damaged.

    Args:
        path: File that `containers.open_audio` accepts. Channels are averaged.
        sample_rate: Output rate in Hz.

    Yields:
        float32 [at most BLOCK_SAMPLES], full scale at ±1.

    Raises:
        AudioDecodeError: the file cannot be opened, is truncated or damaged, contains
            no audio, has a sample rate outside RATES, holds NaN or samples beyond
            LOUDEST, or takes more than its length and SPARE_SECONDS to decode.
    """
    num_samples = 0
    with open_audio(path) as file:
        packets = _Packets(file)
        try:
            # Concatenated files may change rate or channels midway.
            for (rate, *_), frames in itertools.groupby(packets.frames(), _format_of):
                _check_rate(path, rate)
                for block in _resample(frames, sample_rate):
                    _check_samples(path, block)
                    num_samples += len(block)
                    yield block
        except av.FFmpegError as error:
            raise AudioDecodeError(path, f"FFmpeg says {error.strerror!r}") from error
        except OSError as error:
            raise AudioDecodeError(
                path, f"it cannot be read: {error.strerror}"
            ) from error
        except MemoryError as error:
            raise AudioDecodeError(path, "decoding it needs too much memory") from error
        declared = _declared_seconds(file)
    if not num_samples:
        few = packets.num_samples
        reason = f"it is too short to resample: {few} samples" if few else ""
        raise AudioDecodeError(path, reason or "it holds no samples")
    damaged, total = packets.num_damaged, packets.num_damaged + packets.num_good
    if damaged * 10 > total:
        raise AudioDecodeError(
            path, f"it is damaged: {damaged} of {total} packets do not decode"
        )
    seconds = num_samples / sample_rate
    if packets.cut_short:
        raise AudioDecodeError(
            path, f"it is truncated after {seconds:.1f} s, within a frame"
        )
    # Half a second of tolerance: some containers count encoder delay and padding.
    if declared and seconds < 0.98 * declared - 0.5:
        raise AudioDecodeError(
            path,
            f"it is truncated: {seconds:.1f} s of the {declared:.1f} s it declares",
        )


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
    _check_rate(path, first.sample_rate)
    same = itertools.takewhile(
        lambda frame: _format_of(frame) == _format_of(first), frames
    )
    num_early = max(round((start - first.time) * sample_rate), 0)
    blocks, num_held = [], 0
    for block in _resample(itertools.chain([first], same), sample_rate):
        _check_samples(path, block)
        blocks.append(block)
        num_held += len(block)
        if num_held >= num_early + num_samples:
            return np.concatenate(blocks)[num_early : num_early + num_samples]
    return None


def stream_source(source: Source, sample_rate: int) -> Iterator[np.ndarray]:
    """Yields the samples of a file or of a waveform, as `stream_audio` does.

    Args:
        source: Path of an audio file, or (waveform, sample rate in Hz): float
            [num_samples], full scale at ±1.
        sample_rate: Output rate in Hz.

    Raises:
        AudioDecodeError: a file cannot be decoded.
        ValueError: a waveform is not such a pair, is empty or holds NaN.
    """
    if not isinstance(source, tuple):
        yield from stream_audio(source, sample_rate)
        return
    waveform, rate = _checked_waveform(source)
    if rate == sample_rate:
        yield from (
            waveform[start : start + BLOCK_SAMPLES]
            for start in range(0, len(waveform), BLOCK_SAMPLES)
        )
        return
    frame = av.AudioFrame.from_ndarray(waveform[None], format="flt", layout="mono")
    frame.sample_rate = rate
    yield from _resample(iter([frame]), sample_rate)


def name_of(source: Source) -> str:
    """Returns a name for error messages: the path, or the length of the waveform."""
    if isinstance(source, tuple):
        return f"a waveform of {len(source[0]) / source[1]:.1f} s"
    return os.fspath(source)


def _checked_waveform(source: tuple) -> tuple[np.ndarray, int]:
    if len(source) != 2:
        raise ValueError(
            f"A waveform is a pair (samples, sample rate in Hz), not {len(source)}"
            " values."
        )
    waveform, rate = np.asarray(source[0]), source[1]
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(
            "A waveform has the shape [num_samples], with at least one sample, not"
            f" {list(waveform.shape)}. Take the mean of the channels first."
        )
    if waveform.dtype.kind != "f":
        raise ValueError(
            f"A waveform holds floats at ±1, not {waveform.dtype}. Divide int16 samples"
            " by 32768."
        )
    lowest, highest = RATES
    if not isinstance(rate, numbers.Integral) or not lowest <= rate <= highest:
        raise ValueError(
            f"The sample rate of a waveform must be a whole number from {lowest:,} to"
            f" {highest:,} Hz, not {rate!r}."
        )
    loudest = np.abs(waveform).max()
    if not loudest <= LOUDEST:
        raise ValueError(
            f"A waveform holds samples of {loudest:.0e}, but full scale is 1."
        )
    return np.ascontiguousarray(waveform, np.float32), int(rate)


def audio_files_in(
    folder: str | os.PathLike, root: str | os.PathLike | None = None
) -> Iterator[Path]:
    """Yields the audio files in a folder and its subfolders, sorted by name.

    Symbolic links to folders are followed, and every folder is visited once. Links back
    into `root` are not followed: they would form a cycle, or list a file under two
    subfolders of `root`. Hidden files and folders, such as `.Trash-1000`, are skipped;
    an unreadable folder causes a warning.

    Args:
        folder: Folder to search.
        root: Folder that contains `folder`; None means `folder` itself.

    Yields:
        Path of each audio file.
    """
    top, seen = os.path.realpath(folder if root is None else root), set()

    def walk(folder: Path, is_top: bool) -> Iterator[Path]:
        real = os.path.realpath(folder)
        leads_back = folder.is_symlink() and f"{real}/".startswith(f"{top}/")
        if real in seen or (leads_back and not is_top):
            return
        seen.add(real)
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            warnings.warn(f"Cannot read {folder}: {error.strerror}.", stacklevel=3)
            return
        for path in paths:
            if path.name.startswith("."):
                continue
            if os.path.isdir(path):
                yield from walk(path, False)
            elif path.name.lower().endswith(AUDIO_EXTENSIONS):
                yield path

    yield from walk(Path(folder), root is None)


def list_audio(names: Iterable[str]) -> list[str]:
    """Returns the given files, with each folder replaced by its audio files.

    A file that is given by several paths is listed once. A folder without audio files
    causes a warning.

    Args:
        names: Paths of files and folders.

    Returns:
        Paths of the files.

    Raises:
        ValueError: no files were found.
    """
    paths, extensions = [], ", ".join(AUDIO_EXTENSIONS)
    for name in names:
        if not os.path.isdir(name):
            paths.append(name)
            continue
        found = [str(path) for path in audio_files_in(name)]
        if not found:
            warnings.warn(
                f"Folder {name!r} contains no audio files ({extensions}).",
                stacklevel=2,
            )
        paths += found
    if not paths:
        raise ValueError(
            "No audio files were found. Give audio files, or folders that contain files"
            f" with one of the extensions {extensions}."
        )
    unique = {}
    for path in paths:
        unique.setdefault(os.path.realpath(path), path)
    return list(unique.values())


def rough_seconds(path: Source) -> float | None:
    """Returns the rough duration in seconds from a file's header, or None."""
    if isinstance(path, tuple):
        return len(path[0]) / path[1]
    with contextlib.suppress(AudioDecodeError), open_audio(path) as file:
        duration = file.container.duration
        return duration / av.time_base if duration else None


def artist_of(path: str | os.PathLike) -> str | None:
    """Returns the artist that a file's own metadata name; None if they name none."""
    with (
        contextlib.suppress(AudioDecodeError, av.FFmpegError, OSError),
        open_audio(path) as file,
    ):
        return fields_of(file.container).get("artist")
    return None


def fields_of(container: av.container.InputContainer) -> dict[str, str]:
    """Returns a file's own metadata by field in lower case, such as artist and title.

    Fields of the whole file come before those of its streams. "artist" is that of the
    album where the file names no other.
    """
    fields = {}
    for held in (container, *container.streams):
        for field, text in held.metadata.items():
            if text.strip():
                fields.setdefault(field.lower(), text.strip())
    if "album_artist" in fields:
        fields.setdefault("artist", fields["album_artist"])
    return fields


def codec(path: str | os.PathLike) -> str | None:
    """Returns FFmpeg's name for the codec of a file's audio, or None if unknown."""
    with contextlib.suppress(AudioDecodeError), open_audio(path) as file:
        return file.stream.codec_context.name


def apply_filters(waveform: np.ndarray, sample_rate: int, filters: str) -> np.ndarray:
    """Runs a waveform through FFmpeg's audio filters.

    Args:
        waveform: float32 [num_samples].
        sample_rate: Sample rate of the input and the output in Hz.
        filters: Filter chain in FFmpeg's syntax, such as "atempo=1.5,volume=0.5".

    Returns:
        float32 [num_samples of the filters' output].
    """
    graph = av.filter.Graph()
    nodes = [graph.add_abuffer(format="flt", sample_rate=sample_rate, layout="mono")]
    end = f"{filters},aformat=flt:{sample_rate}:mono"
    for text in end.split(","):
        name, _, arguments = text.partition("=")
        nodes.append(graph.add(name, arguments))
    nodes.append(graph.add("abuffersink"))
    graph.link_nodes(*nodes).configure()
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(waveform[None], np.float32), format="flt", layout="mono"
    )
    frame.sample_rate = sample_rate
    graph.push(frame)
    graph.push(None)
    pieces = []
    while True:
        try:
            pieces.append(graph.pull().to_ndarray()[0])
        except (BlockingIOError, EOFError):  # PyAV's errors are subclasses
            break
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def write_audio(
    path: str | os.PathLike, waveform: np.ndarray, sample_rate: int
) -> None:
    """Writes a mono waveform in the format of the extension (.wav, .mp3, .flac).

    Args:
        path: File to write. MP3 files have 32 kbit/s, as in MagnaTagATune.
        waveform: float32 [num_samples]; values beyond ±1 are clipped.
        sample_rate: Sample rate in Hz.
    """
    samples = np.clip(np.rint(waveform * 32767), -32767, 32767).astype(np.int16)
    with replacing(path) as unfinished:
        _encode(unfinished, samples, sample_rate)


def _encode(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    kind = path.suffix.removeprefix(".")
    # A file object, because FFmpeg takes names such as "a:b.wav" for URLs.
    with open(path, "wb") as file, av.open(file, "w", format=kind) as container:
        codec = {"wav": "pcm_s16le"}.get(
            container.format.name, container.default_audio_codec
        )
        stream = container.add_stream(codec, rate=sample_rate, layout="mono")
        if container.format.name == "mp3":
            stream.bit_rate = 32000
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = sample_rate
        # Most encoders need frames of a fixed size; PCM (frame_size 0) accepts any.
        size = stream.codec_context.frame_size or BLOCK_SAMPLES
        cutter = av.AudioResampler(stream.format.name, "mono", sample_rate, size)
        for piece in cutter.resample(frame) + cutter.resample(None):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


class _Packets:
    """Decodes the packets of a stream and notes signs of damage and truncation."""

    def __init__(self, file: AudioFile):
        self._path, self._packets, self._file = file.path, file.packets(), file
        self._is_mp3 = file.stream.codec_context.name in ("mp3", "mp3float")
        self.num_good = self.num_damaged = 0
        self.num_samples = 0  # as decoded, before resampling
        self.cut_short = False  # an MP3's last frame is shorter than its header says

    def frames(self) -> Iterator[av.AudioFrame]:
        frame_bytes, seconds, allowed_seconds = {}, 0.0, SPARE_SECONDS
        while True:
            if seconds > allowed_seconds:
                reason = f"decoding {allowed_seconds - SPARE_SECONDS:.1f} s of it took"
                raise AudioDecodeError(self._path, f"{reason} {seconds:.0f} s")
            started = time.perf_counter()
            try:
                packet = next(self._packets)
                frames = self._file.decode(packet)
            except StopIteration:
                return
            except av.FFmpegError:
                seconds += time.perf_counter() - started
                self.num_damaged += 1
                if self.num_damaged > 1000 + self.num_good:
                    return  # the demuxer no longer advances
                continue
            if self._is_mp3 and packet.size:
                # Bytes 1 and 2 of an MPEG frame (version, bit rate, padding) determine
                # its length.
                header = bytes(packet)[1:3]
                longest = frame_bytes.setdefault(header, packet.size)
                self.cut_short = packet.size < longest
            self.num_good += bool(frames)
            # At most 1 s: the process may have been stopped, or the disk asleep.
            seconds += min(time.perf_counter() - started, 1.0)
            for frame in frames:
                self.num_samples += frame.samples
                allowed_seconds += frame.samples / (frame.sample_rate or 1)
                yield frame


def _check_rate(path: str | os.PathLike, sample_rate: int) -> None:
    lowest, highest = RATES
    if not lowest <= sample_rate <= highest:
        raise AudioDecodeError(
            path,
            f"its sample rate, {sample_rate:,} Hz, is not between {lowest:,} and"
            f" {highest:,} Hz",
        )


def _check_samples(path: str | os.PathLike, block: np.ndarray) -> None:
    loudest = max(block.max(initial=0), -block.min(initial=0))  # without a copy
    if not np.isfinite(loudest):  # the maximum of numbers and NaN is NaN
        raise AudioDecodeError(path, "it holds NaN or infinite samples")
    if loudest > LOUDEST:
        reason = f"it holds samples of {loudest:.0e}, but full scale is 1"
        raise AudioDecodeError(path, reason)


def _format_of(frame: av.AudioFrame) -> tuple:
    return frame.sample_rate, frame.layout.name, frame.format.name


def _resample(
    frames: Iterator[av.AudioFrame], sample_rate: int
) -> Iterator[np.ndarray]:
    """Converts frames of one format to mono float32 blocks at the given rate."""
    # Interleaved, because PyAV 18 reads beyond the planes of eight or more channels.
    first = next(frames)
    is_mono = first.layout.nb_channels == 1
    # Decoders yield short frames; the first resampler joins many of them into a block.
    size = max(1024, BLOCK_SAMPLES // max(first.layout.nb_channels // 8, 1))
    precision = "dbl" if is_mono and first.format.name.startswith("dbl") else "flt"
    to_float = av.AudioResampler(precision, frame_size=size)
    to_rate = av.AudioResampler("fltp", "mono", sample_rate, BLOCK_SAMPLES)
    for frame in itertools.chain([first], frames, [None]):
        for block in to_float.resample(frame):
            # Channels are averaged first, as in FFmpeg, so only one is resampled.
            for resampled in to_rate.resample(block if is_mono else _mean(block)):
                yield resampled.to_ndarray()[0]
    for resampled in to_rate.resample(None):
        yield resampled.to_ndarray()[0]


def _mean(frame: av.AudioFrame) -> av.AudioFrame:
    channels = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    # Sum the columns: NumPy's mean over a short last axis takes twenty times as long.
    total = functools.reduce(np.add, channels.T) / np.float32(channels.shape[1])
    mono = av.AudioFrame.from_ndarray(total[None], format="fltp", layout="mono")
    mono.sample_rate = frame.sample_rate
    mono.pts, mono.time_base = frame.pts, frame.time_base
    return mono


# For other containers, FFmpeg estimates the duration from the bit rate.
_LENGTH_IS_STORED = ("flac", "aiff", "asf", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


def _declared_seconds(file: AudioFile) -> float | None:
    """Returns the duration that a file declares in seconds, or None."""
    name, stream = file.container.format.name, file.stream
    if name == "wav":
        # FFmpeg caps the duration at the size of the file, so we read the header.
        try:
            with wave.open(os.fspath(file.path)) as header:
                num_bytes = header.getnframes() * header.getsampwidth()
                streamed = num_bytes * header.getnchannels() >= 0xFFFFFF00
                return None if streamed else header.getnframes() / header.getframerate()
        except (wave.Error, EOFError, ZeroDivisionError):  # not PCM, or damaged
            return None
    if name in _LENGTH_IS_STORED and stream.duration:
        return float(stream.duration * stream.time_base)
    return None
