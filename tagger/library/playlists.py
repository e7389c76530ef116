"""Playlists: M3U in UTF-8, which every player reads."""

import os
from collections.abc import Sequence
from pathlib import Path

from tagger import validation
from tagger.library.database import Analysed
from tagger.storage import replacing
from tagger.text import TaggerError, printable


def write_playlist(
    path: str | os.PathLike,
    songs: Analysed,
    rows: Sequence[int],
    is_relative: bool = True,
) -> list[str]:
    """Writes a playlist; an existing file is replaced.

    Args:
        path: File to write, .m3u8.
        songs: Songs of the library.
        rows: Rows of the songs in the playlist, in its order.
        is_relative: Whether the playlist names files relative to its own folder, so
            that both can be moved together. A file on another Windows drive is named
            in full.

    Returns:
        Paths of songs that an M3U file cannot name: they contain line breaks.

    Raises:
        OSError: the file cannot be written.
    """
    folder = os.path.dirname(os.path.realpath(path)) if is_relative else None
    text, left_out = playlist_of(songs, rows, folder)
    with replacing(path) as unfinished:
        # Bytes of names that are not UTF-8 stay as they are: players open the file.
        unfinished.write_bytes(text.encode("utf-8", "surrogateescape"))
    return left_out


def playlist_of(
    songs: Analysed, rows: Sequence[int], folder: str | None = None
) -> tuple[str, list[str]]:
    """Returns the text of a playlist, and the paths that it cannot name.

    Args:
        songs: Songs of the library.
        rows: Rows of the songs in the playlist, in its order.
        folder: Folder to which the names of files are relative; None: they are full.
    """
    lines, left_out = ["#EXTM3U"], []
    for row in rows:
        target = songs.paths[row]
        if "\n" in target or "\r" in target:
            left_out.append(target)
            continue
        seconds = songs.seconds[row]
        length = round(seconds) if seconds == seconds else -1
        named = filter(None, (songs.artists[row], songs.titles[row]))
        title = " - ".join(named) or Path(target).stem
        lines += [f"#EXTINF:{length},{printable(title)}"]
        lines += [_relative(target, folder) if folder else target]
    return "\n".join([*lines, ""]), left_out


def read_playlist(path: str | os.PathLike) -> list[str]:
    """Returns the files that an M3U playlist names, wherever they are.

    Raises:
        ValueError: it names no files.
        OSError: it cannot be read.
    """
    validation.check_regular(Path(path))
    text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
    folder = os.path.dirname(os.path.realpath(path))
    names = [line for line in text.splitlines() if line and not line.startswith("#")]
    if not names:
        raise TaggerError(f"{str(path)!r} names no songs.")
    return [os.path.join(folder, name) for name in names]


def _relative(target: str, folder: str) -> str:
    try:
        relative = os.path.relpath(target, folder)
    except ValueError:  # another drive
        return target
    # A name that begins with # would be a comment.
    return os.path.join(".", relative) if relative.startswith("#") else relative
