"""Writes scores into the files' own metadata, and takes them out again.

    library ──mapping──▶ changes ──copy, compare, journal──▶ the file

Values of others stay. Ours are named in a field of their own, so that writing again
replaces them. A file changes in one step, by renaming a finished copy: whatever happens
meanwhile, it is whole, with the old content or the new.
"""

import contextlib
import dataclasses
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from tagger.containers import AudioDecodeError
from tagger.inference.results import Result
from tagger.library import mapping
from tagger.library.database import Analysed, MusicLibrary
from tagger.library.fields import Fields, FieldsError, open_fields
from tagger.library.journal import Entry, Journal, keep_attributes, sync, sync_folder
from tagger.library.songs import audio_hash, version_of
from tagger.storage import replacing
from tagger.text import TaggerError

SEPARATOR = ": "  # between field and value in the field that names ours


@dataclasses.dataclass(frozen=True)
class Change:
    """What writing would change in a file.

    Attributes:
        path: Real path of the file.
        fields: Values of each field that changes: (before, after).
    """

    path: str
    fields: dict[str, tuple[list[str], list[str]]]


def planned(
    path: str,
    wanted: Mapping[str, Sequence[str]],
    known: Collection[str] = mapping.USUAL_FIELDS,
) -> Change:
    """Returns what has to change in a file so that it holds the wanted values.

    Args:
        path: Real path of the file.
        wanted: Our values by field. Values of ours that it lacks are removed.
        known: Fields in which values may be ours; a stranger's file may claim any.

    Raises:
        FieldsError: its metadata cannot be read or written.
    """
    fields = open_fields(path)
    marks = [mark.partition(SEPARATOR) for mark in fields.get(mapping.WRITTEN)]
    ours = [(field, value) for field, _, value in marks if field in known]
    # Marks of the fields of another table stay, or its values would be nobody's.
    changes, written = {}, ["".join(mark) for mark in marks if mark[0] not in known]
    for field in dict.fromkeys([*wanted, *(field for field, _ in ours)]):
        before = fields.get(field)
        others = [value for value in before if (field, value) not in ours]
        held = {value.casefold() for value in others}
        new = [v for v in wanted.get(field, []) if v.casefold() not in held]
        written += [f"{field}{SEPARATOR}{value}" for value in new]
        if others + new != before:
            changes[field] = (before, others + new)
    if written != fields.get(mapping.WRITTEN):
        changes[mapping.WRITTEN] = (fields.get(mapping.WRITTEN), written)
    return Change(path, changes)


def write(library: MusicLibrary, journal: Journal, change: Change) -> None:
    """Changes the metadata of a file.

    Args:
        library: Library that holds the file, open for writing.
        journal: Journal that receives what is needed to undo the change.
        change: Result of `planned`.

    Raises:
        ValueError: the file is read-only or has changed since it was scanned, or its
            audio or its other metadata would not stay as they are. The file stays
            as it is.
        OSError: it cannot be written; it stays as it is.
    """
    path = change.path
    check_writable(path)
    version = version_of(path)
    # After a kill, a file may be as the journal says, and the library not know it.
    if version != library.version_of(path) and not journal.knows(path):
        raise TaggerError(
            f"{path!r} has changed since the scan. Scan again: tagger scan"
            f" {os.path.dirname(path)!r}."
        )
    with replacing(path) as unfinished:
        journal.note_unfinished(unfinished)
        shutil.copyfile(path, unfinished)
        with _explained(path, unfinished):
            fields = open_fields(unfinished)
            others = fields.others(change.fields)
            for field, (_, after) in change.fields.items():
                fields.set(field, after)
            fields.save()
            _check(path, open_fields(unfinished), change, others)
        _check_audio(path, unfinished, library.audio_hash_of(path))
        keep_attributes(path, unfinished)
        sync(unfinished)
        number = journal.add(path, path, unfinished)
        if version_of(path) != version:
            journal.drop(number)
            raise TaggerError(
                f"{path!r} was not written: another program is changing it."
            )
    sync_folder(path)
    library.set_version(path, version_of(path))


def undo(library: MusicLibrary, journal: Journal, entry: Entry) -> None:
    """Gives a file the content that it had before a change.

    Raises:
        ValueError, OSError: see `Journal.restore`.
    """
    journal.restore(entry)
    library.set_version(entry.path, version_of(entry.path))  # with the same audio
    journal.drop(entry.number)  # last: after a kill, the same command drops it


@contextlib.contextmanager
def _explained(path: str, unfinished: Path) -> Iterator[None]:
    """Names the file in mutagen's errors, which are of every kind."""
    try:
        yield
    except (OSError, TaggerError):
        raise
    except Exception as error:
        # Its own errors of the disk hold the first one.
        if isinstance(error.__cause__ or error.__context__, OSError):
            raise (error.__cause__ or error.__context__) from error
        reason = str(error).replace(str(unfinished), path)
        raise FieldsError(path, f"mutagen says {reason!r}") from error


def _check(path: str, fields: Fields, change: Change, others: list) -> None:
    """Checks that a changed copy says what it should, and the rest as before."""
    for field, (_, after) in change.fields.items():
        if fields.get(field) != after:
            raise FieldsError(path, f"the field {field} was not stored as given")
    if fields.others(change.fields) != others:
        raise TaggerError(
            f"{path!r} was not written: other metadata would not stay the same. The"
            " file is as it was."
        )


def _check_audio(path: str, unfinished: Path, known: bytes | None) -> None:
    """Checks that the audio of a changed copy is that of the scan."""
    try:
        is_same = audio_hash(unfinished) == known
    except AudioDecodeError:
        is_same = False
    if not is_same:
        raise TaggerError(
            f"{path!r} was not written: its audio would not stay the same. The file is"
            " as it was."
        )


def check_writable(path: str) -> None:
    """Checks that a file may be changed; root could change any.

    Raises:
        ValueError: it is read-only.
        FileNotFoundError: there is no such file.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"There is no file {path!r} any more. If its drive is not connected,"
            " connect it; else: tagger scan FOLDER --prune files."
        )
    mode = os.stat(path).st_mode
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise TaggerError(f"{path!r} is read-only. Make it writable, or leave it out.")
    if not os.access(path, os.W_OK) or not os.access(os.path.dirname(path), os.W_OK):
        raise TaggerError(f"No permission to write to {path!r} or its folder.")


def plan(
    songs: Analysed,
    rows: Sequence[int],
    table: mapping.Mapping,
    thresholds: Sequence[float],
    max_per_field: int,
) -> Iterator[Result[Change]]:
    """Yields what writing would change in each of some songs, or why it cannot.

    Args:
        songs: Songs of the library.
        rows: Rows of the songs.
        table: Where each tag is written.
        thresholds: Score from which each tag counts [num_tags].
        max_per_field: Number of values that a field may get.
    """
    for row in rows:
        path = songs.paths[row]
        wanted = table.values(
            songs.model.tags, songs.scores[row], thresholds, max_per_field
        )
        try:
            check_writable(path)
            yield Result(path, planned(path, wanted, table.fields))
        except (ValueError, OSError) as error:
            yield Result(path, error=error)
        except Exception as error:  # mutagen raises errors of every kind
            yield Result(path, error=FieldsError(path, f"mutagen says {str(error)!r}"))
