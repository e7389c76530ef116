"""Decodes uploads in another process, which is killed if it takes too long.

uploaded file -> float32 WAV at the rate of the model, with the samples of `load_audio`.
"""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tagger.audio import AudioDecodeError, stream_audio, write_audio
from tagger.containers import limit_memory, open_audio, python_command
from tagger.text import TaggerError

SECONDS = 60  # longest time that decoding an upload may take
LIBRARY_SECONDS = 600  # the same of a song of the library
MAX_BYTES = 2 << 30  # memory that it may take
PLAYABLE = (".aac", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".wav")
CODECS = ("aac", "flac", "mp3", "opus", "pcm", "vorbis")
PLAYER_RATE = 22050  # Hz, of files that are written for browsers


def decode(
    path: str | os.PathLike,
    wav: str | os.PathLike | None,
    sample_rate: int,
    max_minutes: float,
    player_path: str | os.PathLike | None = None,
    seconds: int | None = None,
) -> None:
    """Decodes a file of a stranger.

    Args:
        path: Audio file.
        wav: float32 WAV file to write, whatever its ending; None: none.
        sample_rate: Its rate in Hz.
        max_minutes: Maximum length in minutes.
        player_path: FLAC file that is written if browsers cannot play the file; None:
            it is not.
        seconds: Longest time that it may take; None: SECONDS.

    Raises:
        AudioDecodeError: the file cannot be decoded, or not within `seconds` and
            MAX_BYTES.
        ValueError: the file is longer than `max_minutes`.
    """
    seconds = seconds or SECONDS
    given = (path, wav or "", sample_rate, max_minutes, player_path or "")
    try:
        done = subprocess.run(
            python_command(_CODE, *map(str, given)),
            capture_output=True,
            timeout=seconds,
            text=True,
            errors="surrogateescape",
        )
    except subprocess.TimeoutExpired as error:
        raise AudioDecodeError(path, f"it takes longer than {seconds} s") from error
    if done.returncode == _REFUSED:
        kind, _, reason = done.stdout.partition(":")
        raise (
            TaggerError(reason) if kind == "length" else AudioDecodeError(path, reason)
        )
    if done.returncode:
        reason = "the decoder crashed, or needed too much memory"
        raise AudioDecodeError(path, reason)


_REFUSED = 3  # exit code
_CODE = "from tagger.web import decoding; decoding._decode(*sys.argv[2:])"


def _decode(
    path: str, wav: str, sample_rate: str, max_minutes: str, player_path: str
) -> None:
    """Runs in the child process."""
    limit_memory(MAX_BYTES)
    rate, limit = int(sample_rate), float(max_minutes)
    try:
        if wav:
            blocks = list(_limited(path, rate, limit))
            _write_float_wav(wav, np.concatenate(blocks), rate)
        if player_path and not is_playable(path):
            write_audio(player_path, _limited(path, PLAYER_RATE, limit), PLAYER_RATE)
    except AudioDecodeError as error:
        _refuse(f"audio:{error.reason}")
    except ValueError as error:
        _refuse(f"length:{error}")


def is_playable(path: str | os.PathLike) -> bool:
    """Returns whether browsers can play a file, judging by its ending and codec.

    Raises:
        AudioDecodeError: the file cannot be read.
    """
    with open_audio(path) as file:
        name = file.stream.codec_context.name
    return Path(path).suffix.lower() in PLAYABLE and name.startswith(CODECS)


def _refuse(text: str) -> None:
    sys.stdout.reconfigure(errors="surrogateescape")
    print(text, end="")
    sys.exit(_REFUSED)


def _limited(path: str, sample_rate: int, max_minutes: float) -> Iterator[np.ndarray]:
    num_samples = 0
    for block in stream_audio(path, sample_rate):
        num_samples += len(block)
        if num_samples > 60 * max_minutes * sample_rate:
            raise TaggerError(
                f"The song is longer than the {max_minutes:g} minutes that this page"
                " accepts. Use tagger tag, which accepts any length."
            )
        yield block


def _write_float_wav(path: str, waveform: np.ndarray, sample_rate: int) -> None:
    size = 4 * len(waveform)
    parts = (b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 3, 1, sample_rate)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", *parts, 4 * sample_rate, 4, 32, b"data", size
    )
    Path(path).write_bytes(header + waveform.astype("<f4").tobytes())
