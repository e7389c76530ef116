"""The library behind the page and the HTTP API: questions and their answers as rows."""

import dataclasses
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tagger.library import database, queries, similarity
from tagger.library.database import Analysed
from tagger.text import TaggerError

REREAD_SECONDS = 5  # a running scan changes the library all the time


@dataclasses.dataclass(frozen=True)
class Answer:
    """Songs of the library, the best first.

    Attributes:
        songs: All songs of the library.
        rows: Rows of the songs in the answer.
        columns: Numbers that belong to them, by name: scores of tags, or similarities.
        number: Number of songs that match, of which `rows` may be the first.
    """

    songs: Analysed
    rows: list[int]
    columns: dict[str, list[float]]
    number: int

    def as_dicts(self) -> list[dict]:
        """Returns what is known of each song, as JSON can hold it."""
        songs, found = self.songs, []
        for place, row in enumerate(self.rows):
            seconds = float(songs.seconds[row])
            found.append(
                {
                    "id": int(songs.recordings[row]),
                    "path": os.fsencode(songs.paths[row]).decode("utf-8", "replace"),
                    "artist": songs.artists[row],
                    "album": songs.albums[row],
                    "title": songs.titles[row],
                    "seconds": None if math.isnan(seconds) else round(seconds, 3),
                    "scores": {
                        name: round(values[place], 4)
                        for name, values in self.columns.items()
                    },
                }
            )
        return found


class Collection:
    """A library that several threads ask.

    Args:
        path: SQLite file of the library.

    Raises:
        FileNotFoundError, ValueError, OSError: see `database.reader`.
    """

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        self._version = self._songs = self._neighbours = None
        self._read_at = -math.inf
        self.songs()

    def songs(self) -> Analysed:
        """Returns the results of the model with the most analyses.

        After a change, they are read again, at most every REREAD_SECONDS.

        Raises:
            ValueError, OSError: see `database.reader`.
        """
        with self._lock:  # the first one reads, the others wait for it
            version, now = _version(self._path), time.monotonic()
            if version != self._version and now - self._read_at >= REREAD_SECONDS:
                with database.reader(self._path) as library:
                    self._songs = library.analysed(library.model())
                self._version, self._neighbours = version, None
                self._read_at = time.monotonic()
            return self._songs

    def _compared(self, songs: Analysed) -> similarity.Neighbours:
        """Returns the songs ready to be compared; the newest are prepared once."""
        with self._lock:
            if songs is not self._songs:
                return similarity.Neighbours(songs)
            if self._neighbours is None:
                self._neighbours = similarity.Neighbours(songs)
            return self._neighbours

    def find(self, expression: str, number: int) -> Answer:
        """Returns the songs that match an expression; see `queries.Query`.

        Raises:
            ValueError: it is no such expression.
        """
        songs = self.songs()
        query = queries.Query(expression, songs.model.tags)
        rows = queries.find(songs, query)
        shown = [int(row) for row in rows[:number]]
        columns = {
            songs.model.tags[tag]: songs.scores[shown, tag].tolist()
            for tag in query.mentioned
        }
        return Answer(songs, shown, columns, len(rows))

    def similar(
        self, recordings: Sequence[int], number: int, max_per_artist: int | None = None
    ) -> Answer:
        """Returns the songs that are similar to others.

        Args:
            recordings: Numbers of the other songs, as `Answer.as_dicts` says them.
            number: Number of songs to return.
            max_per_artist: See `similarity.Neighbours.similar`.

        Raises:
            ValueError: there is no such song, or the library holds no embeddings.
        """
        songs = self.songs()
        known = {int(one): row for row, one in enumerate(songs.recordings)}
        missing = [one for one in recordings if one not in known]
        if missing or not recordings:
            raise TaggerError(
                f"The library holds no song with the id {missing[0]}."
                if missing
                else "Give the id of at least one song."
            )
        rows = [known[one] for one in recordings]
        found = self._compared(songs).similar(
            songs.embeddings[rows], number, rows, max_per_artist
        )
        columns = {"similarity": [value for _, value in found]}
        return Answer(songs, [row for row, _ in found], columns, len(found))

    def path_of(self, recording: int) -> str:
        """Returns a file that holds a recording.

        Raises:
            ValueError: there is no such song.
        """
        songs = self.songs()
        for row, one in enumerate(songs.recordings):
            if one == recording:
                return songs.paths[row]
        raise TaggerError(f"The library holds no song with the id {recording}.")


def _version(path: Path) -> tuple:
    """Returns what changes whenever a scan stores something."""
    held = []
    for one in (path, path.with_name(f"{path.name}-wal")):
        status = one.stat() if one.exists() else None
        held.append(status and (status.st_size, status.st_mtime_ns))
    return tuple(held)
