"""Reads and writes audio files with PyAV (its wheel contains FFmpeg).

path -> float32 [num_samples], mono, at the requested rate; a waveform -> wav or mp3.

For mono files the samples equal those of `ffmpeg -f f32le` and of madmom to the last
bit. Several channels are averaged, as madmom does for int16 (for float32, its ffmpeg
call makes stereo files sqrt(2) louder than the mean).
"""

import contextlib
import functools
import itertools
import numbers
import os
import time
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from tagger.containers import AudioDecodeError, AudioFile, open_audio
from tagger.storage import replacing
from tagger.text import TaggerError

BLOCK_SAMPLES = 1 << 16  # longest block of `stream_audio`; 3 s at 22050 Hz
RATES = (1000, 3_000_000)  # lowest and highest sample rate of a file in Hz
LOUDEST = 1e6  # full scale is 1; the power of 1e20 is infinite in float32
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
            for block in resampled(path, packets.frames(), sample_rate):
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


def resampled(
    path: str | os.PathLike, frames: Iterator[av.AudioFrame], sample_rate: int
) -> Iterator[np.ndarray]:
    """Converts frames, whose rate and channels may change, to mono blocks.

    Args:
        path: File that the frames come from.
        frames: Decoded frames.
        sample_rate: Output rate in Hz.

    Yields:
        float32 [at most BLOCK_SAMPLES], full scale at ±1.

    Raises:
        AudioDecodeError: a rate is outside RATES, or samples are NaN or beyond LOUDEST.
    """
    for (rate, *_), same in itertools.groupby(frames, _format_of):
        _check_rate(path, rate)
        for block in _resample(same, sample_rate):
            _check_samples(path, block)
            yield block


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
        yield from stream_audio(_checked_path(source), sample_rate)
        return
    waveform, rate = _checked_pair(source)
    loudest = float(np.abs(waveform).max())  # LOUDEST is infinite in float16
    if not loudest <= LOUDEST:
        raise TaggerError(
            f"A waveform holds samples of {loudest:.0e}, but full scale is 1."
        )
    waveform = np.ascontiguousarray(waveform, np.float32)
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
    """Returns a name for error messages: the path, or the length of the waveform.

    Raises:
        ValueError: the source is neither a path nor a waveform with its rate.
    """
    if isinstance(source, tuple):
        waveform, rate = _checked_pair(source)
        return f"a waveform of {len(waveform) / rate:.1f} s"
    return os.fspath(_checked_path(source))


def _checked_path(source: str | os.PathLike) -> str | os.PathLike:
    if not isinstance(source, (str, os.PathLike)):
        raise TaggerError(
            "Audio is a path, or a pair (samples, sample rate in Hz), not"
            f" {type(source).__name__}."
        )
    return source


def _checked_pair(source: tuple) -> tuple[np.ndarray, int]:
    if len(source) != 2:
        raise TaggerError(
            f"A waveform is a pair (samples, sample rate in Hz), not {len(source)}"
            " values."
        )
    waveform, rate = np.asarray(source[0]), source[1]
    if waveform.ndim != 1 or not len(waveform):
        raise TaggerError(
            "A waveform has the shape [num_samples], with at least one sample, not"
            f" {list(waveform.shape)}. Take the mean of the channels first."
        )
    if waveform.dtype.kind != "f":
        raise TaggerError(
            f"A waveform holds floats at ±1, not {waveform.dtype}. Divide int16 samples"
            " by 32768."
        )
    lowest, highest = RATES
    if not isinstance(rate, numbers.Integral) or not lowest <= rate <= highest:
        raise TaggerError(
            f"The sample rate of a waveform must be a whole number from {lowest:,} to"
            f" {highest:,} Hz, not {rate!r}."
        )
    return waveform, int(rate)


def rough_seconds(path: Source) -> float | None:
    """Returns the rough duration in seconds from a file's header, or None.

    Raises:
        ValueError: the source is neither a path nor a waveform with its rate.
    """
    if isinstance(path, tuple):
        waveform, rate = _checked_pair(path)
        return len(waveform) / rate
    with (
        contextlib.suppress(AudioDecodeError),
        open_audio(_checked_path(path)) as file,
    ):
        duration = file.container.duration
        return duration / av.time_base if duration else None


def write_audio(
    path: str | os.PathLike,
    waveform: np.ndarray | Iterable[np.ndarray],
    sample_rate: int,
) -> None:
    """Writes a mono waveform in the format of the extension (.wav, .mp3, .flac).

    Args:
        path: File to write. MP3 files have 32 kbit/s, as in MagnaTagATune.
        waveform: float32 [num_samples], or such blocks of it; values beyond ±1 are
            clipped.
        sample_rate: Sample rate in Hz.
    """
    blocks = [waveform] if isinstance(waveform, np.ndarray) else waveform
    with replacing(path) as unfinished:
        _encode(unfinished, blocks, sample_rate)


def _encode(path: Path, blocks: Iterable[np.ndarray], sample_rate: int) -> None:
    kind = path.suffix.removeprefix(".")
    # A file object, because FFmpeg takes names such as "a:b.wav" for URLs.
    with open(path, "wb") as file, av.open(file, "w", format=kind) as container:
        codec = {"wav": "pcm_s16le"}.get(
            container.format.name, container.default_audio_codec
        )
        stream = container.add_stream(codec, rate=sample_rate, layout="mono")
        if container.format.name == "mp3":
            stream.bit_rate = 32000
        # Most encoders need frames of a fixed size; PCM (frame_size 0) accepts any.
        size = stream.codec_context.frame_size or BLOCK_SAMPLES
        cutter = av.AudioResampler(stream.format.name, "mono", sample_rate, size)
        for block in itertools.chain(blocks, [None]):  # None: the rest
            frame = None
            if block is not None:
                samples = np.clip(np.rint(block * 32767), -32767, 32767)
                frame = av.AudioFrame.from_ndarray(
                    samples.astype(np.int16)[None], format="s16", layout="mono"
                )
                frame.sample_rate = sample_rate
            for piece in cutter.resample(frame):
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
