"""Remembers how files were before their metadata changed, byte for byte.

(old file, new file) -> head and tail of the old file around the audio

The journal is an SQLite file of its own beside the library, so that deleting the
library does not take the way back. Per file it holds little: the audio itself is in the
new file, perhaps at another place.
"""

import contextlib
import dataclasses
import mmap
import os
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tagger.library.database import explained_errors, open_database
from tagger.library.songs import version_of
from tagger.storage import replacing, sha256
from tagger.text import TaggerError

APPLICATION_ID = 0x5441474A  # "TAGJ", in the header of the SQLite file
BLOCK_BYTES = 1 << 16
PROBE_BYTES = 64  # of the old file, looked for in the new one
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS entries (
        id INTEGER PRIMARY KEY,
        path BLOB NOT NULL,
        old_sha256 TEXT NOT NULL,
        new_sha256 TEXT NOT NULL,
        delta BLOB NOT NULL
    );
    CREATE INDEX IF NOT EXISTS entries_of_path ON entries (path);
    -- Temporary files that a killed process may have left.
    CREATE TABLE IF NOT EXISTS unfinished (path BLOB PRIMARY KEY);
"""


class Delta(msgspec.Struct, array_like=True):
    """How to make an old file from a new one.

    Attributes:
        pieces: (where in the new file, number of bytes) of each piece of the old file;
            -1: the next bytes of `literals`.
        literals: Bytes that the new file lacks, compressed.
    """

    pieces: list[tuple[int, int]]
    literals: bytes


def delta(old: str | os.PathLike, new: str | os.PathLike) -> Delta:
    """Returns how to make a file from a copy whose metadata changed.

    It holds the head and the tail around the longest part that both share: the audio,
    wherever the format keeps its metadata.
    """
    with _mapped(old) as one, _mapped(new) as other:
        start, place, length = max(
            (_shared(one, other, share) for share in (0, 0.25, 0.5, 0.75, 1)),
            key=lambda found: found[2],
        )
        end = start + length
        pieces = [(-1, start), (place, length), (-1, len(one) - end)]
        return Delta(
            [piece for piece in pieces if piece[1]],
            zlib.compress(one[:start] + one[end:]),
        )


def _shared(one, other, share: float) -> tuple[int, int, int]:
    """Returns where a part begins in two files, and its length.

    The part is found by a few bytes of the first file at a share of its length.
    """
    middle = int(share * max(len(one) - PROBE_BYTES, 0))
    place = other.find(one[middle : middle + PROBE_BYTES])
    if place < 0:
        return 0, 0, 0
    before = _num_equal(one, other, middle, place, -1)
    after = _num_equal(one, other, middle, place, 1)
    return middle - before, place - before, before + after


def _num_equal(one, other, i: int, j: int, step: int) -> int:
    """Returns how many bytes are equal from two places on, forwards or backwards."""
    most = min(i, j) if step < 0 else min(len(one) - i, len(other) - j)
    done, size = 0, BLOCK_BYTES
    while done < most and size:
        size = min(size, most - done)
        shift = done if step > 0 else -done - size
        if one[i + shift : i + shift + size] == other[j + shift : j + shift + size]:
            done += size
        else:
            size //= 2
    return done


@contextlib.contextmanager
def _mapped(path: str | os.PathLike) -> Iterator[mmap.mmap | bytes]:
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


@dataclasses.dataclass(frozen=True)
class Entry:
    """A change of one file.

    Attributes:
        number: Number of the entry; later ones are higher.
        path: Real path of the file.
        old_sha256, new_sha256: Checksums before and after the change.
    """

    number: int
    path: str
    old_sha256: str
    new_sha256: str


class Journal:
    """A journal that is open; see `open_journal`."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self.path, self._connection = path, connection

    def note_unfinished(self, path: Path) -> None:
        """Names a temporary file, so that it is removed even after a kill."""
        self._change("INSERT INTO unfinished VALUES (?)", [os.fsencode(path)])

    def remove_unfinished(self) -> None:
        """Removes the temporary files that were named and still exist."""
        rows = self._connection.execute("SELECT path FROM unfinished").fetchall()
        for (path,) in rows:
            with contextlib.suppress(OSError):  # the next run tries again
                os.unlink(os.fsdecode(path))
            if not os.path.lexists(path):
                self._change("DELETE FROM unfinished WHERE path = ?", [path])

    def add(self, path: str, old: str | os.PathLike, new: str | os.PathLike) -> int:
        """Stores how a file was; call it before the new content replaces the old.

        Args:
            path: Real path of the file.
            old: The file as it is.
            new: A copy that will replace it.

        Returns:
            Number of the entry.
        """
        change = msgspec.msgpack.encode(delta(old, new))
        return self._change(
            "INSERT INTO entries (path, old_sha256, new_sha256, delta)"
            " VALUES (?, ?, ?, ?)",
            [os.fsencode(path), sha256(Path(old)), sha256(Path(new)), change],
        )

    def knows(self, path: str) -> bool:
        """Returns whether a file is as an entry says: killed before or after it."""
        present = sha256(Path(path))
        rows = self._connection.execute(
            "SELECT 1 FROM entries WHERE path = ? AND ? IN (old_sha256, new_sha256)",
            [os.fsencode(path), present],
        )
        return rows.fetchone() is not None

    def drop(self, number: int) -> None:
        """Removes the entry of a change that was not made, or that was undone."""
        self._change("DELETE FROM entries WHERE id = ?", [number])

    def entries(self) -> list[Entry]:
        """Returns the changes, the latest first."""
        rows = self._connection.execute(
            "SELECT id, path, old_sha256, new_sha256 FROM entries ORDER BY id DESC"
        )
        return [Entry(row[0], os.fsdecode(row[1]), *row[2:]) for row in rows]

    def restore(self, entry: Entry) -> None:
        """Gives a file the content that it had before a change; the entry stays.

        Raises:
            ValueError: the file is gone, or another program has changed it since.
            OSError: it cannot be written.
        """
        if not os.path.isfile(entry.path):
            raise TaggerError(
                f"Cannot undo the change of {entry.path!r}: there is no such file. If"
                " it was moved, move it back, and run the same command again."
            )
        version = version_of(entry.path)
        present = sha256(Path(entry.path))
        if present == entry.new_sha256 != entry.old_sha256:
            self._restore(entry, version)
        elif present != entry.old_sha256:  # equal: killed before the change
            raise TaggerError(
                f"Cannot undo the change of {entry.path!r}: another program has changed"
                " it since."
            )

    def _restore(self, entry: Entry, version: tuple[int, int] | None) -> None:
        (content,) = self._connection.execute(
            "SELECT delta FROM entries WHERE id = ?", [entry.number]
        ).fetchone()
        try:
            change = msgspec.msgpack.decode(content, type=Delta)
            literals = zlib.decompress(change.literals)
        except (msgspec.DecodeError, zlib.error) as error:
            raise self._damaged(entry) from error
        with replacing(entry.path) as unfinished:
            self.note_unfinished(unfinished)
            with _mapped(entry.path) as new, open(unfinished, "wb") as file:
                num_used = 0
                for place, length in change.pieces:
                    if place < 0:
                        file.write(literals[num_used : num_used + length])
                        num_used += length
                    else:
                        file.write(new[place : place + length])
                file.flush()
                os.fsync(file.fileno())
            if sha256(unfinished) != entry.old_sha256:
                raise self._damaged(entry)
            keep_attributes(entry.path, unfinished)
            if version_of(entry.path) != version:
                raise TaggerError(
                    f"Cannot undo the change of {entry.path!r}: another program is"
                    " changing it."
                )
        sync_folder(entry.path)  # before the way back is dropped

    def _damaged(self, entry: Entry) -> TaggerError:
        return TaggerError(
            f"Cannot undo the change of {entry.path!r}: the journal {str(self.path)!r}"
            " is damaged. The file stays as it is."
        )

    def _change(self, statement: str, values: list) -> int:
        with explained_errors(self.path), self._connection:
            return self._connection.execute(statement, values).lastrowid


def sync(path: str | os.PathLike, flags: int = os.O_RDWR) -> None:
    """Waits until a file is on the disk."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: str | os.PathLike) -> None:
    """Waits until a file's name is on the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        sync(os.path.dirname(path), os.O_RDONLY)


def keep_attributes(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Gives a file that will replace another its owner and extended attributes."""
    status = os.stat(source)
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # only root may give files away
            os.chown(target, status.st_uid, status.st_gid)
    names = []
    if hasattr(os, "listxattr"):
        with contextlib.suppress(OSError):
            names = os.listxattr(source)
    for name in names:
        with contextlib.suppress(OSError):
            os.setxattr(target, name, os.getxattr(source, name))


def path_of(library: Path) -> Path:
    """Returns where the journal of a library is."""
    return library.with_name(f"{library.name}.journal")


@contextlib.contextmanager
def open_journal(library: Path) -> Iterator[Journal]:
    """Opens the journal beside a library, which must be open for writing.

    Raises:
        OSError: it cannot be read or written.
        ValueError: it is damaged.
    """
    path = path_of(library)
    with open_database(path, APPLICATION_ID) as connection:
        # What it says must be on the disk before the file changes.
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(
            f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; {_SCHEMA}; COMMIT;"
        )
        journal = Journal(path, connection)
        journal.remove_unfinished()  # those of a process that was killed
        try:
            yield journal
        finally:
            journal.remove_unfinished()
