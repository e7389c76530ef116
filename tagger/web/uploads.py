"""What visitors send, and what is made of it: a folder each, and only the newest."""

import collections
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, BinaryIO

from starlette.exceptions import HTTPException

MAX_KEPT = 20  # an older song has to be sent again


class Uploads:
    """Songs under tokens that nobody can guess, each in a folder of that name.

    FOLDER/TOKEN/upload/NAME is the file, named as its sender does; what is made of it
    lies in FOLDER/TOKEN.
    """

    def __init__(self, folder: Path):
        self._folder, self._songs = folder, collections.OrderedDict()

    def save(self, name: str | None, file: BinaryIO) -> Path:
        """Saves an upload; returns its path. An error leaves nothing."""
        token = secrets.token_urlsafe(16)
        path = self.folder_of(token) / "upload" / file_name(name)
        try:
            path.parent.mkdir()
            with path.open("wb") as saved:
                shutil.copyfileobj(file, saved)
        except BaseException:
            self.drop(path)
            raise
        return path

    def drop(self, path: Path) -> None:
        """Removes an upload, and what was made of it."""
        shutil.rmtree(path.parent.parent, ignore_errors=True)

    def folder_of(self, token: str) -> Path:
        """Makes the folder of a token."""
        folder = self._folder / token
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def keep(self, token: str, song: Any) -> None:
        """Keeps a song under its token, and forgets the oldest of too many."""
        self._songs[token] = song
        while len(self._songs) > MAX_KEPT:
            old, _ = self._songs.popitem(last=False)
            shutil.rmtree(self._folder / old, ignore_errors=True)

    def __contains__(self, token: str) -> bool:
        return token in self._songs

    def get(self, token: str) -> Any:
        """Returns a song, which is then the newest.

        Raises:
            HTTPException: there is none (404).
        """
        if token not in self._songs:
            raise HTTPException(
                404, "The server has forgotten this song. Send it again."
            )
        self._songs.move_to_end(token)
        return self._songs[token]


def file_name(given: str | None) -> str:
    """Returns the name of an upload as a file's name in one folder."""
    name = os.path.basename((given or "").replace("\0", ""))
    short = os.fsencode(name)[-200:].decode("utf-8", "ignore")
    return short if short not in ("", ".", "..") else "song"
