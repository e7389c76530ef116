"""Decodes uploads in another process, which is killed if a file is slow or too large.

uploaded file -> float32 WAV at the rate of the model, with the samples of `load_audio`.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tagger.audio import AudioDecodeError, stream_audio, write_audio
from tagger.containers import limit_memory, open_audio, python_command
from tagger.text import TaggerError

SECONDS = 60  # longest time that decoding an upload may take
MAX_BYTES = 2 << 30  # memory that it may take
PLAYABLE = (".aac", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".wav")
CODECS = ("aac", "flac", "mp3", "opus", "pcm", "vorbis")
PLAYER_RATE = 22050  # Hz, of files that are written for browsers


def temporary_folder() -> tempfile.TemporaryDirectory:
    """Returns a temporary folder among the uploads, which end with the server."""
    return tempfile.TemporaryDirectory(dir=os.environ.get("GRADIO_TEMP_DIR"))


@contextlib.contextmanager
def decoded(
    path: str, sample_rate: int, max_minutes: float, player_path: str | None = None
) -> Iterator[Path]:
    """Decodes an upload for the length of a `with` block.

    Args:
        path: Uploaded file.
        sample_rate: Rate of the result in Hz.
        max_minutes: Maximum length in minutes.
        player_path: FLAC file that is also written if browsers cannot play the upload;
            None: it is not.

    Yields:
        WAV file with the name of the upload.

    Raises:
        AudioDecodeError: the file cannot be decoded, or not within SECONDS and
            MAX_BYTES.
        ValueError: the file is longer than `max_minutes`.
    """
    with temporary_folder() as folder:
        made = Path(folder) / f"{Path(path).stem}.wav"
        command = python_command(
            _CODE,
            *(path, str(made), str(sample_rate), str(max_minutes), player_path or ""),
        )
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                timeout=SECONDS,
                text=True,
                errors="surrogateescape",
            )
        except subprocess.TimeoutExpired as error:
            reason = f"it takes longer than {SECONDS} s"
            raise AudioDecodeError(path, reason) from error
        if done.returncode == _REFUSED:
            kind, _, reason = done.stdout.partition(":")
            if kind == "length":
                raise TaggerError(reason)
            raise AudioDecodeError(path, reason)
        if done.returncode:
            reason = "the decoder crashed, or needed too much memory"
            raise AudioDecodeError(path, reason)
        yield made


_REFUSED = 3  # exit code
_CODE = "from tagger.web import decoding; decoding._decode(*sys.argv[2:])"


def _decode(
    path: str, made: str, sample_rate: str, max_minutes: str, player_path: str
) -> None:
    """Runs in the child process."""
    limit_memory(MAX_BYTES)
    rate, limit = int(sample_rate), float(max_minutes)
    try:
        waveform = _limited(path, rate, limit)
        _write_float_wav(made, waveform, rate)
        if player_path and not _is_playable(path):
            write_audio(player_path, _limited(path, PLAYER_RATE, limit), PLAYER_RATE)
    except AudioDecodeError as error:
        _refuse(f"audio:{error.reason}")
    except ValueError as error:
        _refuse(f"length:{error}")


def _is_playable(path: str) -> bool:
    """Returns whether browsers can play a file, judging by its ending and codec."""
    with open_audio(path) as file:
        name = file.stream.codec_context.name
    return Path(path).suffix.lower() in PLAYABLE and name.startswith(CODECS)


def _refuse(text: str) -> None:
    sys.stdout.reconfigure(errors="surrogateescape")
    print(text, end="")
    sys.exit(_REFUSED)


def _limited(path: str, sample_rate: int, max_minutes: float) -> np.ndarray:
    blocks, num_samples = [], 0
    for block in stream_audio(path, sample_rate):
        num_samples += len(block)
        if num_samples > 60 * max_minutes * sample_rate:
            raise TaggerError(
                f"The song is longer than the {max_minutes:g} minutes that this page"
                " accepts. Use python -m tagger tag, which accepts any length."
            )
        blocks.append(block)
    return np.concatenate(blocks)


def _write_float_wav(path: str, waveform: np.ndarray, sample_rate: int) -> None:
    import scipy.io.wavfile

    scipy.io.wavfile.write(path, sample_rate, waveform)
