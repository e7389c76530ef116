"""The library: one SQLite file that remembers what models heard in a collection.

    files       path, version (size, time) and metadata of each audio file, or its error
    recordings  the audio itself, by its hash: a file that was moved, copied or tagged
                holds the same recording
    models      networks with their settings
    analyses    scores and embedding of a recording by a model

One process writes (`writer`), any number reads meanwhile (`reader`).
"""

import contextlib
import dataclasses
import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import platformdirs

from tagger import validation
from tagger.library.songs import Song, Unreadable
from tagger.storage import DiskFullError, disk_is_full, explained, file_lock
from tagger.text import TaggerError, as_utf8, suggest_names
from tagger.validation import Name

APPLICATION_ID = 0x54414747  # "TAGG", in the header of the SQLite file
# The statements that lead from one version of the schema to the next. A version that
# was released never changes; the next one is appended.
MIGRATIONS = (
    """
    CREATE TABLE recordings (
        id INTEGER PRIMARY KEY,
        audio_hash BLOB NOT NULL UNIQUE,
        seconds REAL
    );
    CREATE TABLE files (
        path BLOB PRIMARY KEY,  -- as the file system holds it; need not be UTF-8
        num_bytes INTEGER NOT NULL,
        modified_ns INTEGER NOT NULL,
        recording INTEGER REFERENCES recordings (id),  -- NULL: cannot be read
        artist TEXT,
        album TEXT,
        title TEXT,
        error TEXT  -- why it could not be read or analysed
    ) WITHOUT ROWID;
    CREATE INDEX files_of_recording ON files (recording);
    CREATE TABLE models (
        id INTEGER PRIMARY KEY,
        digest TEXT NOT NULL,  -- SHA-256 of the model
        settings TEXT NOT NULL,  -- JSON: what else changes scores, such as excerpts
        name TEXT NOT NULL,
        tags TEXT NOT NULL,  -- JSON, in the order of the scores
        thresholds TEXT,  -- JSON, a number per tag
        UNIQUE (digest, settings)
    );
    CREATE TABLE analyses (
        model INTEGER NOT NULL REFERENCES models (id),
        recording INTEGER NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
        scores BLOB NOT NULL,  -- float32, little endian
        embedding BLOB NOT NULL,
        UNIQUE (model, recording)
    );
    """,
)
VERSION = len(MIGRATIONS)
FLOAT = np.dtype("<f4")


def default_path() -> Path:
    """Returns where the library is stored unless the user chooses another file."""
    return platformdirs.user_data_path("tagger", appauthor=False) / "library.sqlite"


@dataclasses.dataclass(frozen=True)
class Model:
    """A model with its settings, whose results are comparable with each other.

    Attributes:
        digest: SHA-256 of the model.
        name: Name of the model, as the user gave it.
        tags: Tag names in the order of the scores.
        thresholds: Decision threshold of each tag, or None.
        settings: What else changes its scores, such as {"excerpts": 3}.
    """

    digest: Name
    name: Name
    tags: tuple[Name, ...]
    thresholds: tuple[float, ...] | None = None
    settings: dict[str, int | str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.thresholds is not None and len(self.thresholds) != len(self.tags):
            raise TaggerError(
                f"{self.name} has {len(self.tags)} tags, but {len(self.thresholds)}"
                " thresholds."
            )

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it in a library."""
        return self.digest, json.dumps(self.settings, sort_keys=True)

    def __str__(self) -> str:
        settings = [f"{name} {value}" for name, value in self.settings.items()]
        return f"{self.name} ({', '.join(settings)})" if settings else self.name


@dataclasses.dataclass(frozen=True)
class Analysed:
    """The songs that one model has analysed, sorted by path.

    Attributes:
        model: The model.
        paths: Real path of each file.
        recordings: Number of the recording in each file; equal for equal audio.
        seconds: Length of each file; NaN where it is unknown.
        artists, albums, titles: Metadata of each file; "" where it holds none.
        scores: float32 [num_files, num_tags].
        embeddings: float32 [num_files, channels].
    """

    model: Model
    paths: list[str]
    recordings: np.ndarray
    seconds: np.ndarray
    artists: list[str]
    albums: list[str]
    titles: list[str]
    scores: np.ndarray
    embeddings: np.ndarray

    def about(self, row: int) -> dict:
        """Returns what is known of a song, as JSON can hold it."""
        seconds = float(self.seconds[row])
        return {
            "id": int(self.recordings[row]),
            "path": as_utf8(self.paths[row]),
            "artist": self.artists[row],
            "album": self.albums[row],
            "title": self.titles[row],
            "seconds": None if math.isnan(seconds) else round(seconds, 3),
        }


class MusicLibrary:
    """A library that is open; see `reader` and `writer`.

    Attributes:
        path: Path of the SQLite file.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self.path, self._connection = path, connection

    # --- Files ------------------------------------------------------------------------

    def version_of(self, path: str) -> tuple[int, int] | None:
        """Returns size and time of a file without an error; None for any other."""
        return self._connection.execute(
            "SELECT num_bytes, modified_ns FROM files WHERE path = ? AND error IS NULL",
            [os.fsencode(path)],
        ).fetchone()

    def paths(self, folders: Iterable[str] | None = None) -> list[str]:
        """Returns the paths of the files in given folders, or of all, sorted."""
        if folders is None:
            rows = self._connection.execute("SELECT path FROM files ORDER BY path")
            return [os.fsdecode(path) for (path,) in rows]
        found = set()
        for folder in folders:
            first = os.fsencode(folder.rstrip(os.sep) + os.sep)
            last = first[:-1] + bytes([first[-1] + 1])  # behind all that begin with it
            found |= {
                os.fsdecode(path)
                for (path,) in self._connection.execute(
                    "SELECT path FROM files WHERE path = ? OR path >= ? AND path < ?",
                    [os.fsencode(folder), first, last],
                )
            }
        return sorted(found)

    def recording_of(self, path: str) -> int | None:
        """Returns the number of the recording that a file holds, or None."""
        row = self._connection.execute(
            "SELECT recording FROM files WHERE path = ?", [os.fsencode(path)]
        ).fetchone()
        return row and row[0]

    def audio_hash_of(self, path: str) -> bytes | None:
        """Returns the hash of a file's audio when it was scanned, or None."""
        row = self._connection.execute(
            "SELECT audio_hash FROM files JOIN recordings ON recording = id"
            " WHERE path = ?",
            [os.fsencode(path)],
        ).fetchone()
        return row and row[0]

    def paths_of(self, recording: int, number: int) -> list[str]:
        """Returns files that hold a recording, at most a given number."""
        rows = self._connection.execute(
            "SELECT path FROM files WHERE recording = ? LIMIT ?", [recording, number]
        )
        return [os.fsdecode(path) for (path,) in rows]

    def add_song(self, song: Song) -> int:
        """Stores a file, and returns the number of its recording."""
        with self._changing() as connection:
            connection.execute(
                "INSERT INTO recordings (audio_hash, seconds) VALUES (?, ?)"
                " ON CONFLICT DO NOTHING",
                [song.audio_hash, song.seconds],
            )
            (recording,) = connection.execute(
                "SELECT id FROM recordings WHERE audio_hash = ?", [song.audio_hash]
            ).fetchone()
            texts = [_stored(t) for t in (song.artist, song.album, song.title)]
            connection.execute(
                "REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                [
                    os.fsencode(song.path),
                    song.num_bytes,
                    song.modified_ns,
                    recording,
                    *texts,
                ],
            )
        return recording

    def add_error(self, song: Unreadable) -> None:
        """Stores why a file cannot be read or analysed.

        What is known of its recording stays, for the case that the file comes back.
        """
        with self._changing() as connection:
            connection.execute(
                "INSERT INTO files (path, num_bytes, modified_ns, error)"
                " VALUES (?, ?, ?, ?) ON CONFLICT (path) DO UPDATE"
                " SET error = excluded.error,"
                " num_bytes = excluded.num_bytes, modified_ns = excluded.modified_ns",
                [
                    os.fsencode(song.path),
                    song.num_bytes or 0,
                    song.modified_ns or 0,
                    _stored(song.error),
                ],
            )

    def set_version(self, path: str, version: tuple[int, int]) -> None:
        """Stores the new size and time of a file whose audio has not changed."""
        with self._changing() as connection:
            connection.execute(
                "UPDATE files SET num_bytes = ?, modified_ns = ? WHERE path = ?",
                [*version, os.fsencode(path)],
            )

    def forget(self, paths: Iterable[str]) -> None:
        """Removes files; what was analysed stays, for files that come back."""
        with self._changing() as connection:
            connection.executemany(
                "DELETE FROM files WHERE path = ?", [[os.fsencode(p)] for p in paths]
            )

    def errors(self) -> dict[str, str]:
        """Returns why files could not be read or analysed, by path."""
        rows = self._connection.execute(
            "SELECT path, error FROM files WHERE error IS NOT NULL ORDER BY path"
        )
        return {os.fsdecode(path): error for path, error in rows}

    # --- Models and analyses ----------------------------------------------------------

    def add_model(self, model: Model) -> int:
        """Stores a model unless it is known, and returns its number."""
        with self._changing() as connection:
            connection.execute(
                "INSERT INTO models (digest, settings, name, tags, thresholds)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT (digest, settings) DO UPDATE SET"
                " name = excluded.name, thresholds = excluded.thresholds",
                [
                    *model.key,
                    model.name,
                    json.dumps(model.tags),
                    model.thresholds and json.dumps(model.thresholds),
                ],
            )
        return self.number_of(model.digest, model.settings)

    def number_of(self, digest: str, settings: dict) -> int | None:
        """Returns the number of a model, or None if it has analysed nothing."""
        row = self._connection.execute(
            "SELECT id FROM models WHERE digest = ? AND settings = ?",
            [digest, json.dumps(settings, sort_keys=True)],
        ).fetchone()
        return row and row[0]

    def models(self) -> dict[int, Model]:
        """Returns the models by number.

        The one with most analyses comes first; of equal ones, the newest.
        """
        rows = self._connection.execute(
            "SELECT id, digest, name, tags, thresholds, settings FROM models"
            " LEFT JOIN analyses ON model = id GROUP BY id"
            " ORDER BY COUNT(recording) DESC, id DESC"
        )
        then = f"{str(self.path)!r} is damaged. Delete it, and scan again."
        found = {}
        for number, *texts, settings in rows:
            digest, name, tags, thresholds = texts
            fields = {"digest": digest, "name": name}
            parsed = {"tags": tags, "thresholds": thresholds, "settings": settings}
            for field, text in parsed.items():
                if text is not None:
                    fields[field] = validation.parse(
                        text, object, self.path, "Delete it, and scan again."
                    )
            found[number] = validation.convert(fields, Model, self.path, then)
        return found

    def model(self, name: str | None = None) -> int:
        """Returns the number of the model to ask.

        Args:
            name: Name or digest of a model in the library; None: the one that has
                analysed most.

        Raises:
            ValueError: the library holds no such model.
        """
        known = self.models()
        asked = (name, name and os.path.realpath(name))  # files have full paths
        for number, model in known.items():
            names = (model.name, model.digest, str(model))
            if name is None or any(one in names for one in asked):
                return number
        if not known:
            raise TaggerError(
                f"The library {str(self.path)!r} is empty. Fill it: tagger scan FOLDER."
            )
        names = [str(model) for model in known.values()]
        raise TaggerError(
            f"The model {name!r} has analysed nothing in {str(self.path)!r}."
            f" {suggest_names(name, names)}"
        )

    def add_analysis(
        self, model: int, recording: int, scores: np.ndarray, embedding: np.ndarray
    ) -> None:
        """Stores what a model heard: scores [num_tags] and embedding [channels]."""
        values = [np.asarray(x, FLOAT).tobytes() for x in (scores, embedding)]
        with self._changing() as connection:
            connection.execute(
                "REPLACE INTO analyses VALUES (?, ?, ?, ?)", [model, recording, *values]
            )

    def without_analysis(self, model: int | None) -> dict[str, int]:
        """Returns the files that a model has not analysed, with their recordings.

        Args:
            model: Number of the model; None: a new one.
        """
        rows = self._connection.execute(
            "SELECT path, recording FROM files WHERE error IS NULL AND recording"
            " NOT IN (SELECT recording FROM analyses WHERE model IS ?)",
            [model],
        )
        return {os.fsdecode(path): recording for path, recording in rows}

    def analysed(self, model: int, with_embeddings: bool = True) -> Analysed:
        """Returns everything that a model has analysed.

        Args:
            model: Number of the model.
            with_embeddings: Whether to read the embeddings too.

        Raises:
            ValueError: the library is damaged.
        """
        held = "embedding" if with_embeddings else "X''"
        rows = self._connection.execute(
            "SELECT path, recording, COALESCE(seconds, 'NaN'), COALESCE(artist, ''),"
            f" COALESCE(album, ''), COALESCE(title, ''), scores, {held}"
            " FROM files JOIN recordings ON recordings.id = recording"
            " JOIN analyses USING (recording)"
            " WHERE model = ? AND error IS NULL ORDER BY path",
            [model],
        ).fetchall()
        columns = list(zip(*rows, strict=True)) or [()] * 8
        about = self.models()[model]
        if not all(isinstance(text, str) for texts in columns[3:6] for text in texts):
            raise self._damaged("a name is not text")
        scores = self._matrix(columns[6], len(about.tags))
        embeddings = self._matrix(columns[7])
        return Analysed(
            about,
            [os.fsdecode(path) for path in columns[0]],
            np.array(columns[1], int),
            np.array(columns[2], float),
            *(list(texts) for texts in columns[3:6]),
            scores,
            embeddings,
        )

    def _matrix(self, rows: tuple, num_channels: int | None = None) -> np.ndarray:
        if num_channels is None:
            num_channels = len(rows[0]) // FLOAT.itemsize if rows else 0
        size = num_channels * FLOAT.itemsize
        if not all(isinstance(row, bytes) and len(row) == size for row in rows):
            raise self._damaged("an analysis has another length than the others")
        matrix = np.frombuffer(b"".join(rows), FLOAT).reshape(len(rows), num_channels)
        if not np.isfinite(matrix).all():
            raise self._damaged("an analysis holds NaN")
        return matrix.astype(np.float32, copy=False)

    def _damaged(self, reason: str) -> TaggerError:
        return TaggerError(
            f"The library {str(self.path)!r} is damaged ({reason}). Delete it, and scan"
            " again."
        )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Makes the changes of a block together, or none of them."""
        with explained_errors(self.path), self._connection:
            yield self._connection


@contextlib.contextmanager
def reader(path: str | os.PathLike) -> Iterator[MusicLibrary]:
    """Opens a library to ask it; nothing is written to the file.

    Raises:
        FileNotFoundError: there is no library.
        ValueError: it is no library, is damaged, or of another version.
        OSError: it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no library {str(path)!r}. Make one: tagger scan FOLDER."
        )
    with open_database(path, APPLICATION_ID, is_read=True) as connection:
        version = _version(path, connection)
        if version < VERSION:
            raise TaggerError(
                f"The library {str(path)!r} was written by an older version of tagger."
                " Update it: tagger scan FOLDER."
            )
        yield MusicLibrary(path, connection)


@contextlib.contextmanager
def writer(path: str | os.PathLike) -> Iterator[MusicLibrary]:
    """Opens a library to fill it, and creates it if there is none.

    Raises:
        ValueError: it is no library, is damaged, or of a newer version.
        OSError: it cannot be written, is deleted meanwhile, or another process is
            filling it.
    """
    path = Path(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with (
        file_lock(path, "`library=`"),
        open_database(path, APPLICATION_ID) as connection,
    ):
        _migrate(path, connection)
        yield MusicLibrary(path, connection)
        if not path.exists():
            raise FileNotFoundError(
                f"The library {str(path)!r} was deleted meanwhile, so nothing was kept."
                " Run the same command again."
            )


@contextlib.contextmanager
def open_database(
    path: Path, application_id: int, is_read: bool = False
) -> Iterator[sqlite3.Connection]:
    """Opens an SQLite file in WAL mode: readers do not wait for the writer.

    Args:
        path: File to open; where there is none, or an empty one, it is created.
        application_id: Number in the header of such files.
        is_read: Whether it is only read; then it has to exist, and stays as it is.

    Raises:
        ValueError: it is damaged, or the database of another program; it stays as it
            is.
        OSError: it cannot be opened.
    """
    validation.check_regular(path)
    is_new = not is_read and not (path.exists() and path.stat().st_size)
    mode = "ro" if is_read else "rwc"
    log = path.with_name(f"{path.name}-wal")
    is_still = not (log.exists() and log.stat().st_size)  # nobody is writing
    if is_read and is_still and not os.access(path.absolute().parent, os.W_OK):
        mode += "&immutable=1"  # SQLite could not make its files beside it
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with (
        explained_errors(path),
        contextlib.closing(
            sqlite3.connect(uri, timeout=30, check_same_thread=False, uri=True)
        ) as connection,
    ):
        (found,) = connection.execute("PRAGMA application_id").fetchone()
        if found != application_id and not is_new:
            raise TaggerError(
                f"{str(path)!r} is the database of another program. Choose another"
                " `library=`."
            )
        if not is_read:
            connection.execute("PRAGMA journal_mode = WAL")
            # A loss of power may lose the last songs, but does not damage the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
        yield connection


def _version(path: Path, connection: sqlite3.Connection) -> int:
    """Returns the version of the schema of a library."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise TaggerError(
            f"The library {str(path)!r} was written by a newer version of tagger"
            f" (schema {version}, this version knows {VERSION}). Update tagger, or"
            " choose another `library=`."
        )
    return version


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    """Brings a library to the present version of the schema."""
    for number in range(_version(path, connection), VERSION):
        # `executescript` commits what came before, so the script holds its own
        # transaction: a kill leaves the schema as it was.
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID};"
            f" {MIGRATIONS[number]}; PRAGMA user_version = {number + 1}; COMMIT;"
        )


@contextlib.contextmanager
def explained_errors(path: Path) -> Iterator[None]:
    """Explains SQLite's errors within the block.

    Raises:
        DiskFullError: the disk is full.
        OSError: the file cannot be read or written.
        ValueError: it is damaged, or no SQLite file.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if "UTF-8" in str(error):
            raise _no_library(path, error) from error
        # SQLite calls a full disk an I/O error, too.
        is_full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
        if is_full or disk_is_full(path.absolute().parent):
            raise DiskFullError(path, "; it keeps what is complete") from error
        if path.exists() and not os.access(path, os.R_OK):
            raise PermissionError(f"{str(path)!r} may not be read.") from error
        raise OSError(
            f"Cannot use the library {str(path)!r}: {error}. Close other programs that"
            " use it, or choose another `library=`."
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _no_library(path, error) from error


def _no_library(path: Path, error: Exception) -> TaggerError:
    return TaggerError(
        f"{str(path)!r} is damaged or not a tagger library ({error}). Choose another"
        " `library=`."
    )


def _stored(text: str | None) -> str | None:
    """Returns text as SQLite can store it: bytes that are not UTF-8 are escaped."""
    return None if text is None else as_utf8(text)
