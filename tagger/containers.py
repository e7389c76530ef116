"""Opens audio files from anywhere: FFmpeg reads the file it is given, and nothing else.

path -> AudioFile: its container, its first audio stream and the packets of it.

A file may lie about what it is. FFmpeg by itself takes names such as `http:…` for URLs,
waits for pipes and follows playlists to other files. Therefore Python opens the file,
FFmpeg sees only its content and its extension, and only demuxers of self-contained
formats may read it. Whatever takes too long seems to end. Where even that does not stop
FFmpeg, a worker process is killed (`data.workers`); this process is not.
"""

import contextlib
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import av.logging

from tagger.text import TaggerError

try:
    import resource
except ImportError:  # Windows
    resource = None

# FFmpeg's names of the formats that may be read. Their files hold the audio themselves;
# playlists and scripts, which name other files, are not among them.
DEMUXERS = (
    "aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dsf", "dts", "eac3",
    "flac", "flv", "iff", "loas", "matroska", "mov", "mp3", "mpeg",
    "mpegts", "nistsphere", "ogg", "tak", "tta", "voc", "w64", "wav", "wv",
)  # fmt: skip
# Its names of the decoders that may run. Others serve games, telephones and rarities,
# and that is where FFmpeg's security advisories are: APAC, Musepack.
DECODERS = (
    "8svx_exp", "8svx_fib", "aac", "aac_latm", "ac3", "adpcm_ima_qt", "adpcm_ima_wav",
    "adpcm_ms", "adpcm_swf", "adpcm_yamaha", "alac", "amrnb", "amrwb", "ape", "dca",
    "dsd_lsbf", "dsd_lsbf_planar", "dsd_msbf", "dsd_msbf_planar", "dst", "eac3", "flac",
    "gsm", "gsm_ms", "libopencore_amrnb", "libopencore_amrwb", "libopus", "mlp", "mp1",
    "mp1float", "mp2", "mp2float", "mp3", "mp3float", "opus", "pcm_alaw", "pcm_bluray",
    "pcm_dvd", "pcm_f16le", "pcm_f24le", "pcm_f32be", "pcm_f32le", "pcm_f64be",
    "pcm_f64le", "pcm_mulaw", "pcm_s16be", "pcm_s16be_planar", "pcm_s16le",
    "pcm_s16le_planar", "pcm_s24be", "pcm_s24le", "pcm_s24le_planar", "pcm_s32be",
    "pcm_s32le", "pcm_s32le_planar", "pcm_s64be", "pcm_s64le", "pcm_s8",
    "pcm_s8_planar", "pcm_u16be", "pcm_u16le", "pcm_u24be", "pcm_u24le", "pcm_u32be",
    "pcm_u32le", "pcm_u8", "speex", "tak", "truehd", "tta", "vorbis", "wavpack",
    "wmalossless", "wmapro", "wmav1", "wmav2", "wmavoice",
)  # fmt: skip
# Computing time after which an unopened file ends. FFmpeg's time grows with the square
# of the number of tags in a header, and what it has read it finishes: three times this.
OPEN_SECONDS = 5
# FFmpeg looks for music in what is none at 50 MB/s: the file ends after this many bytes
# without a packet.
IDLE_BYTES = 1 << 28
WORKER_SECONDS = 60  # computing time that FFmpeg may take in a worker without returning
WORKER_BYTES = 8 << 30  # memory of a worker

# FFmpeg's own messages would break progress bars; we report damaged files ourselves.
av.logging.set_level(av.logging.PANIC)

_ARGUMENTS = {
    "options": {
        "format_whitelist": ",".join(DEMUXERS),
        "codec_whitelist": ",".join(DECODERS),
        "protocol_whitelist": "none",
    }
}
if int(av.__version__.split(".")[0]) < 19:
    # By default, PyAV up to version 18 raises an error for a title that is not UTF-8.
    _ARGUMENTS["metadata_errors"] = "ignore"


class AudioDecodeError(TaggerError):
    """An audio file cannot be decoded. The message names the file and the reason."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"Cannot decode {str(path)!r}: {reason}.")
        self.path = path
        self.reason = reason

    def __reduce__(self):  # so that a worker process can raise it
        return AudioDecodeError, (self.path, self.reason)


@contextlib.contextmanager
def open_audio(path: str | os.PathLike) -> "Iterator[AudioFile]":
    """Opens an audio file for the length of a `with` block.

    Args:
        path: Regular file of one of the formats in DEMUXERS.

    Raises:
        AudioDecodeError: the file cannot be opened, or not within OPEN_SECONDS.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_RegularFile(path))
        try:
            container = _watched(av.open, file, **_ARGUMENTS)
            stack.enter_context(container)
        except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
            raise AudioDecodeError(path, file.late or _reason(error)) from error
        if file.late:
            raise AudioDecodeError(path, file.late)
        file.deadline = None
        yield AudioFile(path, container, file)


class AudioFile:
    """An open audio file.

    Attributes:
        path: Path of the file.
        container: FFmpeg's container.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        container: av.container.InputContainer,
        file: "_RegularFile",
    ):
        self.path, self.container, self._file = path, container, file

    @property
    def fields(self) -> dict[str, str]:
        """The file's own metadata by field in lower case, such as artist and title.

        Fields of the whole file come before those of its streams. `artist` falls back
        to `album_artist`.
        """
        fields = {}
        for held in (self.container, *self.container.streams):
            for field, text in held.metadata.items():
                if text.strip():
                    fields.setdefault(field.lower(), text.strip())
        if "album_artist" in fields:
            fields.setdefault("artist", fields["album_artist"])
        return fields

    @property
    def stream(self) -> av.AudioStream:
        """The first audio stream.

        Raises:
            AudioDecodeError: the file contains no audio, or its codec is not in
                DECODERS.
        """
        if not self.container.streams.audio:
            raise AudioDecodeError(self.path, "it contains no audio")
        stream = self.container.streams.audio[0]
        if stream.codec_context is None:
            raise AudioDecodeError(self.path, "FFmpeg has no decoder for its audio")
        name = stream.codec_context.name
        if name not in DECODERS:
            reason = f"audio of the codec {name} is not decoded here"
            raise AudioDecodeError(self.path, reason)
        return stream

    def packets(self) -> Iterator[av.Packet]:
        """Yields the packets of the stream.

        Raises:
            AudioDecodeError: see `stream`.
            FFmpegError: the file is damaged.
        """
        return _Demuxed(self.container.demux(self.stream), self._file)

    def decode(self, packet: av.Packet) -> list[av.AudioFrame]:
        """Decodes a packet.

        Raises:
            FFmpegError: it is damaged.
        """
        return _watched(packet.decode)


class _Demuxed:
    """Iterates over packets, and notes when FFmpeg works."""

    def __init__(self, packets: Iterator[av.Packet], file: "_RegularFile"):
        self._packets, self._file = packets, file

    def __iter__(self) -> Iterator[av.Packet]:
        return self

    def __next__(self) -> av.Packet:
        self._file.num_idle_bytes = 0
        return _watched(next, self._packets)


class _RegularFile:
    """A regular file, as PyAV reads file objects.

    Args:
        path: Path of the file.

    Attributes:
        name: "audio" with the extension of the file, which helps FFmpeg to recognise
            formats that lack a signature.
        deadline: Computing time at which the file seems to end; None: never.
        num_idle_bytes: Number of bytes read since the last packet; after IDLE_BYTES,
            the file seems to end.
        late: Why the file was given up, or "".

    Raises:
        AudioDecodeError: there is no such file, it is empty, or it is not regular.
    """

    def __init__(self, path: str | os.PathLike):
        try:
            self._file = open(path, "rb", buffering=0, opener=_open_without_waiting)
        except (OSError, ValueError) as error:
            raise AudioDecodeError(path, _why_not_found(path, error)) from error
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            self._file.close()
            is_regular = stat.S_ISREG(status.st_mode)
            reason = "the file is empty" if is_regular else "it is not a regular file"
            raise AudioDecodeError(path, reason)
        extension = os.path.splitext(os.fspath(path))[1]
        self.name = f"audio{extension.encode('ascii', 'ignore').decode()}"
        self.deadline = time.thread_time() + OPEN_SECONDS
        self.num_idle_bytes, self.late = 0, ""
        self.tell = self._file.tell

    def read(self, num_bytes: int) -> bytes:
        if self.deadline and time.thread_time() > self.deadline:
            self.late = f"opening it takes longer than {OPEN_SECONDS} s"
        self.num_idle_bytes += num_bytes
        if self.late or self.num_idle_bytes > IDLE_BYTES:
            return b""
        return self._file.read(num_bytes)

    def seek(self, offset: int, whence: int) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError:  # a damaged file points to a place before its start
            return -1

    def __enter__(self) -> "_RegularFile":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe that nobody writes to is opened at once, too."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "its header needs too much memory"
    if isinstance(error, av.ArgumentError):
        return "it contains no audio of a known format"
    return f"FFmpeg says {getattr(error, 'strerror', None) or str(error)!r}"


def _why_not_found(path: str | os.PathLike, error: Exception) -> str:
    if isinstance(error, ValueError):
        return "its name holds a zero byte"
    if os.path.isdir(path):
        return "it is a directory"
    if isinstance(error, FileNotFoundError):
        is_link = os.path.islink(path)
        return "it is a broken symbolic link" if is_link else "there is no such file"
    return (error.strerror or repr(error)).lower()


# --- Limits of processes that may be killed -------------------------------------------

_is_worker = False


def become_worker() -> None:
    """Lets this process die of a file that takes too long or too much memory."""
    global _is_worker
    _is_worker = hasattr(signal, "setitimer")
    limit_memory(WORKER_BYTES)


def _watched(function: Callable, *arguments, **options):
    """Calls a function; a worker in which that takes WORKER_SECONDS is killed."""
    if not _is_worker:
        return function(*arguments, **options)
    # Computing time: a stopped process or a slow disk is nobody's fault. The default
    # action of SIGPROF needs no Python to run.
    signal.setitimer(signal.ITIMER_PROF, WORKER_SECONDS)
    try:
        return function(*arguments, **options)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def python_command(code: str, *arguments: str) -> list[str]:
    """Returns a command line for a child process that imports this same package.

    Args:
        code: Python code to run.
        arguments: Its `sys.argv[2:]`.
    """
    package = str(Path(__file__).parents[1])
    code = f"import sys; sys.path.insert(0, sys.argv[1])\n{code}"
    return [sys.executable, "-c", code, package, *arguments]


def limit_memory(num_bytes: int) -> None:
    """Limits the memory of this process, where the operating system can do that."""
    if resource:
        with contextlib.suppress(ValueError, OSError):
            _, highest = resource.getrlimit(resource.RLIMIT_DATA)
            if highest != resource.RLIM_INFINITY:
                num_bytes = min(num_bytes, highest)
            resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, highest))
