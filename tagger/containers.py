"""Opens audio files from anywhere: FFmpeg reads the file it is given, and nothing else.

path -> av.container.InputContainer. `audio` decodes what this module opens.

A file may lie about what it is. FFmpeg by itself takes names such as `http:…` for URLs,
waits for pipes, follows playlists to other files, and cannot be interrupted. Therefore
Python opens the file, FFmpeg sees only its content and its extension, only demuxers of
self-contained formats may read it, and long headers are read in another process first.
"""

import atexit
import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import av.logging

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
OPEN_SECONDS = 20  # longest time that opening a file may take
OPEN_BYTES = 1 << 30  # memory that opening a file may take in the other process
# Opening takes time that grows with the square of the number of tags in the header: 8 s
# for as many as fit into this size.
SHORT_HEADER_BYTES = 1 << 18

# FFmpeg looks for music in what is none at 50 MB/s, and cannot be interrupted.
IDLE_BYTES = 1 << 28

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


class AudioDecodeError(ValueError):
    """An audio file cannot be decoded. The message names the file and the reason."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"Cannot decode {str(path)!r}: {reason}.")
        self.path = path
        self.reason = reason

    def __reduce__(self):  # so that a worker process can raise it
        return AudioDecodeError, (self.path, self.reason)


@contextlib.contextmanager
def open_container(
    path: str | os.PathLike,
) -> "Iterator[tuple[av.container.InputContainer, _RegularFile]]":
    """Opens an audio file for the length of a `with` block.

    Args:
        path: Regular file of one of the formats in DEMUXERS.

    Yields:
        The container, and its file, whose `advance()` must be called whenever music was
        decoded: after IDLE_BYTES without, the file seems to end.

    Raises:
        AudioDecodeError: the file cannot be opened, or not within OPEN_SECONDS.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(_RegularFile(path, SHORT_HEADER_BYTES))
        container, error = _opened(file)
        if file.ended_early:
            _other_process.check(path)
            file = stack.enter_context(_RegularFile(path))
            container, error = _opened(file)
        if error:
            raise AudioDecodeError(path, _reason(error)) from error
        file.max_bytes = IDLE_BYTES
        file.advance()
        yield stack.enter_context(container), file


def audio_stream(
    path: str | os.PathLike, container: av.container.InputContainer
) -> av.AudioStream:
    """Returns the first audio stream of an opened file.

    Raises:
        AudioDecodeError: the file contains no audio, or its codec is not in DECODERS.
    """
    if not container.streams.audio:
        raise AudioDecodeError(path, "it contains no audio")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise AudioDecodeError(path, "FFmpeg has no decoder for its audio")
    if stream.codec_context.name not in DECODERS:
        reason = f"audio of the codec {stream.codec_context.name} is not decoded here"
        raise AudioDecodeError(path, reason)
    return stream


class _RegularFile:
    """A regular file, as PyAV reads file objects.

    Args:
        path: Path of the file.
        max_bytes: Number of bytes after which the file seems to end; None: no limit.

    Attributes:
        name: "audio" with the extension of the file, which helps FFmpeg to recognise
            formats that lack a signature.
        ended_early: Whether the file seemed to end because of `max_bytes`.

    Raises:
        AudioDecodeError: there is no such file, it is empty, or it is not regular.
    """

    def __init__(self, path: str | os.PathLike, max_bytes: int | None = None):
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
        self.max_bytes, self.num_bytes = max_bytes, 0
        self.ended_early = False
        self.tell = self._file.tell

    def advance(self) -> None:
        """Starts to count bytes again."""
        self.num_bytes = 0

    def read(self, num_bytes: int) -> bytes:
        self.num_bytes += num_bytes
        if self.max_bytes is not None and self.num_bytes > self.max_bytes:
            self.ended_early = True
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


def _opened(
    file: _RegularFile,
) -> tuple[av.container.InputContainer | None, Exception | None]:
    """Returns the container, or None and FFmpeg's error."""
    try:
        return av.open(file, **_ARGUMENTS), None
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        return None, error


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


# --- Opening in another process -------------------------------------------------------


class _OtherProcess:
    """A child process that opens files first; it can be killed, a thread cannot."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process = None
        atexit.register(self.stop)

    def check(self, path: str | os.PathLike) -> None:
        """Opens a file in the child process.

        Raises:
            AudioDecodeError: it takes more than OPEN_SECONDS or OPEN_BYTES.
        """
        with self._lock:
            if self._process is None:
                self._start()
            killer = threading.Timer(OPEN_SECONDS, self._process.kill)
            killer.start()
            line = os.fsencode(path).hex().encode() + b"\n"
            answer = b""
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
                answer = self._process.stdout.readline()
            except OSError:  # it was killed, by us or for lack of memory
                pass
            finally:
                killer.cancel()
                killer.join()
                if answer != line or self._process.poll() is not None:
                    self.stop()  # also after Ctrl-C: its answer would be the next one's
            if answer == line:
                return
        reason = f"opening it takes longer than {OPEN_SECONDS} s, or too much memory"
        raise AudioDecodeError(path, reason)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            python_command("from tagger import containers; containers._answer()"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        """Ends the child process, if there is one."""
        if self._process:
            self._process.kill()
            with contextlib.suppress(OSError):
                self._process.communicate()
            self._process = None


_other_process = _OtherProcess()


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


def _answer() -> None:
    """Opens the files named on standard input, and repeats each name afterwards."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    limit_memory(OPEN_BYTES)
    for line in sys.stdin.buffer:
        path = os.fsdecode(bytes.fromhex(line.decode()))
        with contextlib.suppress(AudioDecodeError), _RegularFile(path) as file:
            container, error = _opened(file)
            if container:
                container.close()
            if isinstance(error, MemoryError):
                sys.exit(1)
        print(line.decode(), end="", flush=True)
