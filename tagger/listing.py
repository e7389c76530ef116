"""Lists the audio files in folders."""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from tagger.text import TaggerError

# Files found in a folder count as audio if they have one of these extensions; a file
# that is given by name may have any.
AUDIO_EXTENSIONS = (
    ".aac", ".aif", ".aiff", ".ape", ".au", ".dsf", ".flac", ".m4a", ".m4b", ".mka",
    ".mp2", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".tta", ".wav", ".webm", ".wma",
    ".wv",
)  # fmt: skip


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
        raise TaggerError(
            "No audio files were found. Give audio files, or folders that contain files"
            f" with one of the extensions {extensions}."
        )
    unique = {}
    for path in paths:
        unique.setdefault(os.path.realpath(path), path)
    return list(unique.values())
