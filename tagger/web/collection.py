"""The library behind the page and the API: questions and their answers as rows."""

import dataclasses
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tagger.library import database, queries, similarity
from tagger.library.database import Analysed
from tagger.text import TaggerError, printable
from tagger.web.song import Song

REREAD_SECONDS = 5  # a running scan changes the library all the time
NUM_NEAREST = 10  # songs that are shown if none matches
MAX_SHOWN = 200  # songs on the page
MAX_SIMILAR = 20
ALIKE = 0.1  # similarity below which a song is not shown as similar


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
        return [
            self.songs.about(row)
            | {"scores": {name: round(x[i], 4) for name, x in self.columns.items()}}
            for i, row in enumerate(self.rows)
        ]


def _of_one_state(method: Callable) -> Callable:
    """Makes a method see one state of the library, whatever a scan adds meanwhile."""

    @functools.wraps(method)
    def asked(self, *given, **named):
        with self._lock:
            self.songs()
            self._num_asked += 1
            try:
                return method(self, *given, **named)
            finally:
                self._num_asked -= 1

    return asked


class Collection:
    """A library that several threads ask.

    Args:
        path: SQLite file of the library.

    Raises:
        FileNotFoundError, ValueError, OSError: see `database.reader`.
    """

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.RLock()
        self._version = self._songs = self._neighbours = None
        self._read_at, self._num_asked = -math.inf, 0
        self.songs()

    def songs(self) -> Analysed:
        """Returns the results of the model with the most analyses.

        After a change, they are read again, at most every REREAD_SECONDS.

        Raises:
            ValueError, OSError: see `database.reader`.
        """
        with self._lock:  # the first one reads, the others wait for it
            version, now = _version(self._path), time.monotonic()
            is_due = now - self._read_at >= REREAD_SECONDS and not self._num_asked
            if version != self._version and is_due:
                with database.reader(self._path) as library:
                    self._songs = library.analysed(library.model())
                self._version, self._neighbours = version, None
                self._read_at = time.monotonic()
            return self._songs

    def _compared(self) -> similarity.Neighbours:
        """Returns the songs ready to be compared; they are prepared once."""
        with self._lock:
            songs = self.songs()
            if self._neighbours is None:
                self._neighbours = similarity.Neighbours(songs)
            return self._neighbours

    # --- Which song -------------------------------------------------------------------

    def row_of(self, song: str) -> int:
        """Returns the row of a song.

        Args:
            song: Id of the song, as `Analysed.about` gives it; or its path, or the end
                of its path from a folder on.

        Raises:
            ValueError: there is no such song, or several.
        """
        songs = self.songs()
        if song.isdecimal():
            rows = np.flatnonzero(songs.recordings == int(song[:18]))
        else:
            end = os.sep + song.lstrip("/")
            rows = [i for i, path in enumerate(songs.paths) if path.endswith(end)]
            whole = [row for row in rows if songs.paths[row] == end]
            rows = whole or rows
            if len(rows) > 1:
                raise TaggerError(
                    f"{len(rows)} songs of the library have a path that ends with"
                    f" {song[:200]}. Give more of it."
                )
        if not len(rows):
            what = "id" if song.isdecimal() else "path"
            raise TaggerError(
                f"The library holds no song with the {what} {song[:200]}. Add it:"
                " tagger scan FOLDER."
            )
        return int(rows[0])

    @_of_one_state
    def id_of(
        self, song: str | None, title: str | None = None, artist: str | None = None
    ) -> str:
        """Returns the id of a song: by its id or path, or by its title and artist.

        Raises:
            ValueError: there is no such song, or nothing was asked for.
        """
        songs = self.songs()
        if song:
            return str(songs.recordings[self.row_of(song)])
        if not title:
            raise TaggerError("Give the id of a song, or its title and artist.")
        wanted = title.casefold(), (artist or "").casefold()
        for row, found in enumerate(songs.titles):
            same = songs.artists[row].casefold() == wanted[1] or not artist
            if (found or Path(songs.paths[row]).stem).casefold() == wanted[0] and same:
                return str(songs.recordings[row])
        named = printable(" – ".join(filter(None, (artist, title))))
        raise TaggerError(f"The library holds no song {named[:200]!r}.")

    @_of_one_state
    def path_of(self, number: int) -> str:
        """Returns the path of a song by its number.

        Raises:
            ValueError: there is none, or a link has taken its place since the scan.
        """
        path = self.songs().paths[self.row_of(str(number))]
        if os.path.realpath(path) != path:
            raise TaggerError(f"{path!r} is another file since the scan. Scan again.")
        return path

    # --- Questions --------------------------------------------------------------------

    def find(self, expression: str, number: int) -> Answer:
        """Returns the songs that match an expression; see `queries.Query`.

        Args:
            expression: What to find; "": all songs, the newest first.
            number: Number of songs to return.

        Raises:
            ValueError: it is no such expression.
        """
        songs = self.songs()
        if not expression.strip():
            rows = np.argsort(-songs.recordings, kind="stable")
            return Answer(songs, rows[:number].tolist(), {}, len(rows))
        query = queries.Query(expression, songs.model.tags)
        rows = queries.find(songs, query)
        return _scored(songs, query, rows[:number], len(rows))

    def nearest(self, expression: str) -> tuple[Answer, str]:
        """Returns the songs that come nearest to an expression that none matches."""
        songs = self.songs()
        query = queries.Query(expression, songs.model.tags)
        rows = queries.ranked(songs, query, np.arange(len(songs.paths)))
        values = queries.values_for(songs, query, NUM_NEAREST)
        hints = [
            f"{queries.word_of(tag)} > {value:.2g} finds {n}"
            for tag, value, n in values
        ]
        sentence = "No song matches. The nearest are shown."
        if hints:
            sentence = f"No song matches; {', '.join(hints)}. The nearest are shown."
        return _scored(songs, query, rows[:NUM_NEAREST], 0), sentence

    @_of_one_state
    def similar(
        self,
        seeds: Sequence[str],
        number: int,
        max_per_artist: int | None = None,
        unlike: Sequence[str] = (),
        exclude: str | None = None,
    ) -> Answer:
        """Returns the songs that are similar to others.

        Args:
            seeds: Ids or paths of the other songs, see `row_of`.
            number: Number of songs to return.
            max_per_artist: See `similarity.Neighbours.similar`.
            unlike: Ids or paths of songs to which they should not be similar.
            exclude: Expression for songs not to return.

        Raises:
            ValueError: there is no such song.
        """
        songs = self.songs()
        rows, others = [[self.row_of(one) for one in x] for x in (seeds, unlike)]
        if not rows:
            raise TaggerError("Give the id of at least one song.")
        found = self._compared().similar(
            songs.embeddings[rows],
            number,
            [*rows, *others],
            max_per_artist,
            songs.embeddings[others],
            exclude and queries.find(songs, queries.Query(exclude, songs.model.tags)),
        )
        return _compared(songs, found)

    @_of_one_state
    def asked(self, query: str, like: str | Song = "") -> Answer:
        """Returns what the page shows: songs like another, or those of a query."""
        if not like:
            return self.find(query, MAX_SHOWN)
        if isinstance(like, Song):
            if not self.holds(like):
                raise TaggerError(
                    "The library holds no results of the model that heard this song."
                    " Choose a song of the library."
                )
            near = self._compared().similar(like.embedding, MAX_SIMILAR)
            found = _compared(self.songs(), near)
        else:
            found = self.similar([like], MAX_SIMILAR)
        alike = [value for value in found.columns["similarity"] if value >= ALIKE]
        number = len(alike)  # they fall
        return Answer(found.songs, found.rows[:number], {"similarity": alike}, number)

    @_of_one_state
    def path(
        self, first: str, last: str, number: int, to_first: bool = False
    ) -> Answer:
        """Returns songs that lead from one song to another, see `Neighbours.path`.

        Args:
            first: Id or path of the first song.
            last: Id or path of the last song.
            number: Number of songs between them.
            to_first: Compare each song with the first one, not with the one before it.
        """
        rows, compared = (self.row_of(first), self.row_of(last)), self._compared()
        found = compared.path(*rows, number)
        if to_first:
            on_it = [row for row, _ in found]
            found = list(zip(on_it, compared.between(rows[0], on_it), strict=True))
        return _compared(self.songs(), found)

    @_of_one_state
    def holds(self, song: Song) -> bool:
        """Returns whether a song that was heard can be compared with the library."""
        songs = self.songs()
        is_same = song.digest == songs.model.digest and not songs.model.settings
        return is_same and songs.embeddings.size > 0

    # --- What the page shows ----------------------------------------------------------

    @_of_one_state
    def name_of(self, song: str) -> str:
        """Returns artist and title of a song, or the name of its file."""
        return _name(self.songs().about(self.row_of(song)))

    def shown(self, answer: Answer) -> list[dict]:
        """Returns the songs of an answer with their names and two strongest tags."""
        songs = answer.songs
        thresholds = np.maximum(queries.thresholds_of(songs), 1e-12)
        strengths = songs.scores[answer.rows] / thresholds
        highest = np.argsort(-strengths, axis=1)[:, :2]
        return [
            about
            | {
                "name": _name(about),
                "strongest": [songs.model.tags[tag] for tag in tags],
            }
            for about, tags in zip(answer.as_dicts(), highest, strict=True)
        ]

    def counts(self) -> list[tuple[str, str, int]]:
        """Returns each tag, its word in queries, and how many songs reach it."""
        songs = self.songs()
        numbers = (songs.scores >= queries.thresholds_of(songs)).sum(axis=0)
        order = np.argsort(-numbers, kind="stable")
        found = [(songs.model.tags[tag], int(numbers[tag])) for tag in order]
        return [(tag, queries.word_of(tag), number) for tag, number in found if number]

    def example(self, counts: list[tuple[str, str, int]]) -> str:
        """Returns a query that finds about ten songs; takes the result of `counts`."""
        if not counts:
            return "rock > .5"
        (tag, word, _), songs = counts[0], self.songs()
        scores = np.sort(songs.scores[:, songs.model.tags.index(tag)])[::-1]
        value = scores[min(NUM_NEAREST, len(scores)) - 1]
        return f"{word} > {np.floor(100 * value) / 100:g}"


def _name(about: dict) -> str:
    named = " – ".join(filter(None, (about["artist"], about["title"])))
    return printable(named or Path(about["path"]).stem)


def _scored(songs: Analysed, query: queries.Query, rows, number: int) -> Answer:
    shown = [int(row) for row in rows]
    columns = {
        songs.model.tags[tag]: songs.scores[shown, tag].tolist()
        for tag in query.mentioned
    }
    return Answer(songs, shown, columns, number)


def _compared(songs: Analysed, found: Sequence[tuple[int, float]]) -> Answer:
    columns = {"similarity": [value for _, value in found]}
    return Answer(songs, [row for row, _ in found], columns, len(found))


def _version(path: Path) -> tuple:
    """Returns what changes with a library: size and time of it and of its WAL file."""
    found = []
    for one in (path, path.with_name(f"{path.name}-wal")):
        try:
            status = one.stat()
            found.append((status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)
