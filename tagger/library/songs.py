"""What an audio file says of itself, and a hash of its audio.

audio file -> length, artist, album, title, SHA-256 of the encoded audio
"""

import dataclasses
import hashlib
import os

import av

from tagger.containers import AudioDecodeError, AudioFile, open_audio


@dataclasses.dataclass(frozen=True)
class Song:
    """An audio file.

    Attributes:
        path: Real path of the file.
        num_bytes: Size of the file.
        modified_ns: Time of its last change in nanoseconds.
        audio_hash: Result of `audio_hash`.
        seconds: Length as the header says or suggests; None if it says nothing.
        artist, album, title: As the file's metadata say; None where they do not.
    """

    path: str
    num_bytes: int
    modified_ns: int
    audio_hash: bytes
    seconds: float | None = None
    artist: str | None = None
    album: str | None = None
    title: str | None = None


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """An audio file that cannot be read or analysed.

    Attributes:
        path: Real path of the file.
        num_bytes: Size of the file; None if there is no such file.
        modified_ns: Time of its last change in nanoseconds; None if there is no file.
        error: The reason.
    """

    path: str
    num_bytes: int | None
    modified_ns: int | None
    error: str


def version_of(path: str | os.PathLike) -> tuple[int, int] | None:
    """Returns the size and the time of the last change of a file; None without one."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def is_gone(path: str | os.PathLike) -> bool:
    """Returns whether there is certainly no such file.

    A folder that may not be read, or a drive that does not answer, proves nothing.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def read_song(path: str) -> Song | Unreadable:
    """Reads a file without decoding it.

    Args:
        path: Real path of an audio file.
    """
    version = version_of(path)
    try:
        with open_audio(path) as file:
            said = file.fields
            seconds = (file.container.duration or 0) / av.time_base
            digest = _digest(file)
    except AudioDecodeError as error:
        return Unreadable(path, *(version or (None, None)), str(error))
    if version is None or version != version_of(path):
        reason = AudioDecodeError(path, "another program is writing it")
        return Unreadable(path, *(version or (None, None)), str(reason))
    named = {name: said.get(name) for name in ("artist", "album", "title")}
    return Song(path, *version, digest, max(seconds, 0) or None, **named)


def audio_hash(path: str | os.PathLike) -> bytes:
    """Returns the SHA-256 of a file's encoded audio: 32 bytes.

    It covers the codec, the sample rate, the number of channels, and every packet of
    the first audio stream. New metadata, another name or another cover picture leave it
    as it is.

    Raises:
        AudioDecodeError: the file cannot be read.
    """
    with open_audio(path) as file:
        return _digest(file)


def _digest(file: AudioFile) -> bytes:
    context = file.stream.codec_context
    about = f"{context.name} {context.sample_rate} {context.channels}\n"
    digest, num_packets = hashlib.sha256(about.encode()), 0
    try:
        for packet in file.packets():
            if packet.size:  # the last one is empty: it flushes the decoder
                digest.update(packet)
                num_packets += 1
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise AudioDecodeError(file.path, f"it cannot be read: {reason}") from error
    if not num_packets:
        raise AudioDecodeError(file.path, "it holds no samples")
    return digest.digest()
