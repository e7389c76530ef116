"""Writes scores into the files' own metadata, and takes them out again.

    library ──mapping──▶ changes ──copy, compare the audio, journal──▶ the file

Values of others stay. Ours are named in a field of their own, so that writing again
replaces them. A file changes in one step, by renaming a finished copy: whatever happens
meanwhile, it is whole, with the old content or the new.
"""

import dataclasses
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tagger.containers import AudioDecodeError, open_audio
from tagger.inference.results import Result
from tagger.library import mapping
from tagger.library.database import Analysed, MusicLibrary
from tagger.library.fields import Fields, FieldsError, open_fields
from tagger.library.journal import Entry, Journal, keep_attributes, sync, sync_folder
from tagger.library.songs import audio_hash, version_of
from tagger.storage import replacing
from tagger.text import TaggerError

MOOD_FRAME = "tmoo"  # FFmpeg's name of the mood in ID3
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


def planned(path: str, wanted: Mapping[str, Sequence[str]]) -> Change:
    """Returns what has to change in a file so that it holds the wanted values.

    Args:
        path: Real path of the file.
        wanted: Our values by field. Values of ours that it lacks are removed.

    Raises:
        FieldsError: its metadata cannot be read or written.
    """
    fields = open_fields(path)
    marks = [mark.partition(SEPARATOR) for mark in fields.get(mapping.WRITTEN)]
    ours = [
        (field, value)
        for field, _, value in marks
        if field not in mapping.IDENTITY  # a stranger's file may claim anything
    ]
    changes, written = {}, []
    for field in dict.fromkeys([*wanted, *(field for field, _ in ours)]):
        before = fields.get(field)
        others = [value for value in before if (field, value) not in ours]
        known = {value.casefold() for value in others}
        new = [v for v in wanted.get(field, []) if v.casefold() not in known]
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
    if version != library.version_of(path):
        raise TaggerError(
            f"{path!r} has changed since the scan. Scan again: tagger scan"
            f" {os.path.dirname(path)!r}."
        )
    with replacing(path) as unfinished:
        journal.note_unfinished(unfinished)
        shutil.copyfile(path, unfinished)
        _apply(unfinished, path, change)
        _check_audio(path, unfinished, library.audio_hash_of(path))
        _check_others(path, unfinished, change)
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
        ValueError, OSError: see `Journal.undo`.
    """
    version = version_of(entry.path)
    was_known = version is not None and version == library.version_of(entry.path)
    journal.undo(entry)
    if was_known:  # the audio has not changed
        library.set_version(entry.path, version_of(entry.path))


def _apply(unfinished: Path, path: str, change: Change) -> None:
    try:
        fields = open_fields(unfinished)
        for field, (_, after) in change.fields.items():
            fields.set(field, after)
        fields.save()
        _check_values(open_fields(unfinished), change)
    except OSError:
        raise
    except Exception as error:  # mutagen raises errors of every kind
        # Its own errors of the disk hold the first one.
        if isinstance(error.__cause__ or error.__context__, OSError):
            raise (error.__cause__ or error.__context__) from error
        reason = str(error).replace(str(unfinished), path)
        raise FieldsError(path, f"mutagen says {reason!r}") from error


def _check_values(fields: Fields, change: Change) -> None:
    for field, (_, after) in change.fields.items():
        if fields.get(field) != after:
            raise TaggerError(f"the field {field} was not stored as given")


def _check_audio(path: str, unfinished: Path, known: bytes | None) -> None:
    """Checks that the audio of a copy is that of the file, and of the scan."""
    try:
        is_same = audio_hash(path) == audio_hash(unfinished) == known
    except AudioDecodeError:
        is_same = False
    if not is_same:
        raise TaggerError(
            f"{path!r} was not written: its audio would not stay the same. The file is"
            " as it was."
        )


def _check_others(path: str, unfinished: Path, change: Change) -> None:
    """Checks that a copy says the rest of what the file says, as FFmpeg reads both."""
    changed = [field.casefold() for field in change.fields] + [MOOD_FRAME]

    def others(place: str | os.PathLike) -> dict[str, str]:
        with open_audio(place) as file:
            said = file.fields
        return {
            name: text
            for name, text in said.items()
            if not any(field in name for field in changed)
        }

    before, after = others(path), others(unfinished)
    if before != after:
        lost = [name for name in before if before[name] != after.get(name)]
        raise TaggerError(
            f"{path!r} was not written: other metadata would not stay the same"
            f" ({', '.join(lost) or 'fields would be added'}). The file is as it was."
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
            yield Result(path, planned(path, wanted))
        except (ValueError, OSError) as error:
            yield Result(path, error=error)
        except Exception as error:  # mutagen raises errors of every kind
            yield Result(path, error=FieldsError(path, f"mutagen says {str(error)!r}"))
