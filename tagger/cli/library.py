"""The commands scan, find, similar and write: a library of many songs."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tqdm import tqdm

from tagger import library, weights
from tagger.cli.kinds import Count, Force, Model, Share, SomeShare, Streaming
from tagger.cli.process import with_flags
from tagger.cli.songs import reading
from tagger.inference import selection
from tagger.inference.engines import Precision
from tagger.models.metadata import DEFAULT_MODEL
from tagger.options import Option
from tagger.storage import DiskFullError
from tagger.text import TaggerError, printable

NUM_ERRORS = 10  # that are printed
MIN_SCORE = 0.1  # to be written, where thresholds follow from a share of the library


LibraryFile = Annotated[
    str | None,
    Option(
        metavar="FILE",
        flag="--library",
        help="SQLite file of the library; None: library.sqlite in the user's data"
        " folder",
    ),
]
# Named as it was given at the scan; the file may be gone.
ScannedModel = Annotated[
    str | None,
    Option(
        metavar="MODEL",
        help="Model whose analyses to use; None: the one with the most",
    ),
]


def _path(given: str | None) -> Path:
    # The target of a link, so that two names have one lock and one journal.
    return Path(os.path.realpath(given or library.database.default_path()))


# --- scan -----------------------------------------------------------------------------


def scan(
    names: Annotated[list[str], Option(metavar="FOLDER")],
    *,
    library_file: LibraryFile = None,
    model: Model | None = None,
    precision: Precision = "float32",
    streaming: Streaming,
    prune: Literal["files", "folders"] | None = None,
    watch: bool = False,
    poll: bool = False,
) -> int:
    """Analyses a collection once; afterwards, only new and changed files.

    With --watch, Ctrl-C ends it with exit code 0.

    Args:
        names: Folders of music, with their subfolders; or audio files.
        model: Pretrained model, or model file; a library may hold several; None: the
            pretrained model that the library uses already, or student.
        prune: Remove files that no longer exist from the library; "folders": also if
            all files of a folder are gone.
        watch: Continue as files arrive, until Ctrl-C.
        poll: With --watch: look for new files every 30 s; for network drives, which do
            not report them.

    Returns:
        Exit code: 2 if a file cannot be read or analysed.
    """
    if poll and not watch:
        raise TaggerError("--poll goes with --watch.")
    if watch and not all(map(os.path.isdir, names)):
        raise TaggerError("--watch watches folders. Give folders only.")
    if prune != "folders":
        for name in names:
            library.scanning.check_exists(name)
    with contextlib.ExitStack() as stack:
        if watch:
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        path = _path(library_file)
        model = model or _usual_model(path)
        if os.path.exists(model) and model not in weights.pretrained.PRETRAINED:
            model = os.path.realpath(model)  # found again from other folders
        analysis = library.scanning.Analysis(
            model,
            weights.pretrained.digest(model),
            lambda: selection.open_engine(model, precision),
            reading(streaming, precision),
            streaming,
        )
        opened = stack.enter_context(library.database.writer(path))
        arriving = None
        if watch:  # begins before the scan, which may take hours
            arriving = stack.enter_context(library.watching.arrivals(names, poll))
        present = [name for name in names if os.path.exists(name)]
        report = library.scanning.scan(opened, present, analysis)
        if prune:
            gone = library.scanning.prune(opened, names, prune == "folders")
            report.num_pruned, report.missing = len(gone), []
        _print_report(report, opened)
        if arriving is None:
            return 2 if report.errors else 0
        _watch(arriving, opened, analysis)
    return 0


def _watch(arriving, opened, analysis) -> None:
    print("Watching for new files (press Ctrl-C to stop)", file=sys.stderr)
    for paths in arriving:
        try:
            if paths:
                found = library.scanning.scan(opened, paths, analysis)
                _print_report(found, opened)
        except FileNotFoundError as error:  # it was moved on at once
            print(f"  {printable(with_flags(str(error)))}", file=sys.stderr)


def _usual_model(path: Path) -> str:
    """Returns the pretrained model that has analysed most of a library.

    Songs that only another model has analysed would not be found together with these.
    """
    if not path.exists():
        return DEFAULT_MODEL
    with library.database.reader(path) as opened:
        name = next((model.name for model in opened.models().values()), DEFAULT_MODEL)
    if name == DEFAULT_MODEL:
        return DEFAULT_MODEL
    if name in weights.pretrained.PRETRAINED:
        model, advice = name, f"--model {DEFAULT_MODEL} changes to the default model"
    else:
        model, advice = DEFAULT_MODEL, f"to continue with {name}, give it with --model"
    print(
        f"Most songs of this library were analysed with {name}. This scan uses {model};"
        f" {advice}.",
        file=sys.stderr,
    )
    return model


def _print_report(report: "library.scanning.Report", opened) -> None:
    parts = [
        f"{number:,} {what}"
        for number, what in (
            (report.num_new, "new"),
            (report.num_changed, "changed"),
            (report.num_moved, "moved"),
            (report.num_unchanged, "unchanged"),
            (report.num_pruned, "removed"),
            (len(report.errors), "with an error"),
        )
        if number
    ]
    print(
        f"{printable(str(opened.path))}: {', '.join(parts) or 'nothing new'};"
        f" {report.num_analysed:,} analysed",
        flush=True,
    )
    _print_errors(list(report.errors.values()))
    if report.missing:
        print(
            f"{len(report.missing):,} files of the library no longer exist; --prune"
            " files removes them.",
            file=sys.stderr,
        )


# --- find and similar -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """Songs that are printed.

    Attributes:
        top: Number of songs.
        json: Print one line of JSON per song.
        playlist: Also write an M3U playlist.
        absolute: Name the files in the playlist by their full paths and not relative to
            it.
    """

    library_file: LibraryFile = None
    model: ScannedModel = None
    top: Count = 20
    json: bool = False
    playlist: Annotated[str | None, Option(endings=(".m3u8", ".m3u"), writes=True)] = (
        None
    )
    absolute: bool = False

    def songs(self, with_embeddings: bool):
        """Returns the analysed songs."""
        with library.database.reader(_path(self.library_file)) as opened:
            return opened.analysed(opened.model(self.model), with_embeddings)

    def show(self, songs, rows: Sequence[int], columns: dict[str, Sequence]) -> None:
        """Prints one line per song, and writes the playlist."""
        if self.json:
            for place, row in enumerate(rows):
                values = {
                    name: round(float(x[place]), 6) for name, x in columns.items()
                }
                print(json.dumps(songs.about(row) | values, ensure_ascii=False))
        elif len(rows):
            names = [printable(name) for name in columns]
            print("  ".join([*(f"{name:>5}" for name in names), "file"]))
            widths = [max(len(name), 5) for name in names]
            for place, row in enumerate(rows):
                numbers = [
                    f"{x[place]:{width}.3f}"
                    for width, x in zip(widths, columns.values(), strict=True)
                ]
                print("  ".join([*numbers, printable(_short(songs.paths[row]))]))
        if self.playlist and not len(rows):
            print(
                f"{self.playlist} was not written: it would be empty.", file=sys.stderr
            )
        elif self.playlist:
            left_out = library.playlists.write_playlist(
                self.playlist, songs, rows, not self.absolute
            )
            for path in left_out:
                print(
                    f"Left out: {printable(path)} contains a line break",
                    file=sys.stderr,
                )


def find(
    expression: str,
    *,
    share: SomeShare | None = None,
    answers: Answers,
    force: Force = False,
) -> None:
    """Finds songs of the library by their tags.

    Args:
        expression: What to find, such as 'rock > .5 and not vocals'; a tag alone means
            that it reaches its threshold.
        share: A tag alone means: the song is among this share of the library with the
            highest scores; None: the thresholds of the model, or 0.1 if it holds none.
        force: Overwrite an existing playlist.
    """
    songs = answers.songs(with_embeddings=False)
    query = library.queries.Query(expression, songs.model.tags)
    if query.needs_thresholds and not (share or songs.model.thresholds):
        print(
            f"{songs.model} holds no thresholds: a tag alone means the"
            f" {library.queries.DEFAULT_RATE:.0%} of the library with its highest"
            " scores.",
            file=sys.stderr,
        )
    rows = library.queries.find(songs, query, share)
    shown = rows[: answers.top]
    tags = [songs.model.tags[tag] for tag in query.mentioned]
    columns = [songs.scores[shown, tag] for tag in query.mentioned]
    answers.show(songs, shown, dict(zip(tags, columns, strict=True)))
    if answers.json:
        return
    said = f"{len(rows):,} of {len(songs.paths):,} songs match"
    if len(shown) < len(rows):
        said += f"; the best {len(shown):,} are shown"
    if not len(rows) and len(songs.paths):
        for tag, number in zip(tags, query.mentioned, strict=True):
            row = int(np.argmax(songs.scores[:, number]))
            score, path = songs.scores[row, number], _short(songs.paths[row])
            said += printable(f"\n  highest {tag}: {score:.2f} ({path})", keep="\n")
        for tag, value, number in library.queries.values_for(songs, query, 10):
            said += printable(f"\n  {tag} > {value:g} finds {number}", keep="\n")
    print(said, file=sys.stderr)


def similar(
    seeds: Annotated[list[str], Option(metavar="SONG")],
    *,
    unlike: Annotated[list[str], Option(metavar="SONG")] = (),
    exclude: Annotated[str | None, Option(metavar="EXPRESSION")] = None,
    max_per_artist: Count | None = None,
    path: bool = False,
    answers: Answers,
    force: Force = False,
) -> None:
    """Finds songs of the library that sound similar to others.

    Args:
        seeds: Songs, of the library or not, or playlists (.m3u8, .m3u); results are
            similar to all of them.
        unlike: Songs, or playlists, to which results should not be similar.
        exclude: Leave out the songs that an expression finds, such as 'vocals or
            loud > .5'.
        max_per_artist: At most N songs of one artist, besides those given.
        path: Find songs that lead from the first song to the second.
        force: Overwrite an existing playlist.
    """
    if path and len(seeds) != 2:
        raise TaggerError(
            f"--path leads from one song to another: give two songs, not {len(seeds)}."
        )
    if path and (unlike or exclude):
        raise TaggerError("--unlike and --exclude do not go with --path.")
    songs = answers.songs(with_embeddings=True)
    neighbours = library.similarity.Neighbours(songs)
    if path:
        rows = [_row_of(songs, seed) for seed in seeds]
        for row, seed in zip(rows, seeds, strict=True):
            if row is None:
                raise TaggerError(
                    f"{seed!r} is not in the library. Add it: tagger scan"
                    f" {os.path.dirname(seed) or '.'}."
                )
        found = neighbours.path(*rows, answers.top, max_per_artist)
    else:
        query = exclude and library.queries.Query(exclude, songs.model.tags)
        (known, near), (others, far) = (_seeds(songs, x) for x in (seeds, unlike))
        found = neighbours.similar(
            near,
            answers.top,
            [*known, *others],
            max_per_artist,
            far,
            query and library.queries.find(songs, query),
        )
    columns = {"similarity": [similarity for _, similarity in found]}
    if path and not answers.json:
        print("Each with its similarity to the song before:", file=sys.stderr)
    answers.show(songs, [row for row, _ in found], columns)


def _seeds(songs, names: Sequence[str]) -> tuple[list[int], np.ndarray]:
    """Returns the rows of songs, and the embeddings of them and of those elsewhere."""
    paths = []
    for name in names:
        is_list = name.lower().endswith((".m3u8", ".m3u"))
        paths += library.playlists.read_playlist(name) if is_list else [name]
    rows = [_row_of(songs, path) for path in paths]
    known = [row for row in rows if row is not None]
    unknown = [path for path, row in zip(paths, rows, strict=True) if row is None]
    return known, np.concatenate([songs.embeddings[known], _embedded(songs, unknown)])


def _short(path: str) -> str:
    """Returns a path relative to the current folder, if there is such a path."""
    try:
        return os.path.relpath(path)
    except (ValueError, OSError):  # another drive, or a folder that was deleted
        return path


def _row_of(songs, path: str) -> int | None:
    real = os.path.realpath(path)
    return songs.paths.index(real) if real in songs.paths else None


def _embedded(songs, paths: Sequence[str]) -> np.ndarray:
    """Returns the embeddings of songs that the library does not hold."""
    if not paths:
        return np.zeros((0, songs.embeddings.shape[1]), np.float32)
    name, settings = songs.model.name, songs.model.settings
    if weights.pretrained.digest(name) != songs.model.digest:
        raise TaggerError(
            f"The model {name} has changed since the scan, so {paths[0]!r} cannot be"
            " compared with the library. Scan again."
        )
    engine = selection.open_engine(name, settings.get("precision", "float32"))
    return library.similarity.embed(engine, paths, settings.get("excerpts"))


# --- write ----------------------------------------------------------------------------


def write(
    names: Annotated[list[str], Option(metavar="FOLDER")] = (),
    *,
    library_file: LibraryFile = None,
    model: ScannedModel = None,
    share: SomeShare | None = None,
    min_score: Share | None = None,
    max_per_field: Count = 3,
    fields: Annotated[str | None, Option(metavar="FILE")] = None,
    show_fields: bool = False,
    yes: bool = False,
    undo: bool = False,
) -> int | None:
    """Writes scores into the metadata of the files of the library, or undoes that.

    Without --yes, it shows what would change and writes nothing.

    Args:
        names: Folders of the library, with their subfolders; or audio files.
        share: Write a tag to this share of the library, the songs with its highest
            scores; None: the thresholds of the model, or 0.1 if it holds none.
        min_score: Never write a tag whose score is lower, even if --share selects the
            song; None: 0.1, or 1.5 times the model's thresholds.
        max_per_field: Maximum number of values to add to a field, those with the
            highest scores relative to their thresholds.
        fields: CSV table with the columns tag, field and value: which tag goes to which
            field.
        show_fields: Print our table, to edit it.
        yes: Write into the files.
        undo: Give the files the content that they had before, byte for byte; without
            FOLDER all of them.

    Returns:
        Exit code: 2 if a file cannot be written.
    """
    if show_fields:
        print(library.mapping.TABLE_PATH.read_text("utf-8"), end="")
        return None
    if undo and yes:
        raise TaggerError("Give --yes or --undo, not both.")
    if not names and not undo:
        raise TaggerError("Give the folder whose files to write to.")
    path, table = _path(library_file), library.mapping.read_mapping(fields)
    real = [os.path.realpath(name) for name in names]
    if undo:
        return _undo(path, real)
    songs = Answers(library_file=library_file, model=model).songs(False)
    inside = set(library.scanning.find_files(names))  # those behind links, too
    rows = [
        row
        for row, song in enumerate(songs.paths)
        if song in inside or _is_below(song, real)
    ]
    if not rows:
        raise TaggerError(
            f"The library holds no song in {', '.join(names)}. Add them: tagger scan"
            f" {names[0]}."
        )
    thresholds = library.queries.thresholds_of(songs, share)
    has_own = songs.model.thresholds and not share
    if has_own:
        thresholds = library.mapping.thresholds_to_write(thresholds)
    if min_score is None:
        min_score = 0.0 if has_own else MIN_SCORE
    thresholds = np.maximum(thresholds, min_score)
    changes = library.writing.plan(songs, rows, table, thresholds, max_per_field)
    if yes:
        number, code = _write(path, changes, len(rows))
        if number:
            where = f" --library {library_file}" if library_file else ""
            print(
                f"To take it back: tagger write --undo{where} {' '.join(names)}.",
                file=sys.stderr,
            )
        return code
    num_changes, errors = 0, []
    for planned in changes:
        if planned.error:
            errors.append(planned.error)
        elif planned.value.fields:
            num_changes += 1
            _print_change(planned.value)
    print(
        f"{num_changes:,} of {len(rows):,} files would change; nothing was written. Add"
        " --yes to write.",
        file=sys.stderr,
    )
    _print_errors(errors)
    return 2 if errors else None


def _is_below(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.startswith(name + os.sep) for name in names)


def _print_change(change) -> None:
    print(printable(_short(change.path)))
    for field, (before, after) in change.fields.items():
        if field == library.mapping.WRITTEN:
            continue
        signed = [f"- {value}" for value in before if value not in after]
        signed += [f"+ {value}" for value in after if value not in before]
        print(f"  {field:<10} {printable('  '.join(signed))}")


def _write(path: Path, changes, number: int) -> tuple[int, int | None]:
    """Returns how many files were written, and the exit code."""
    num_written, errors = 0, []
    with (
        library.database.writer(path) as opened,
        library.journal.open_journal(path) as journal,
    ):
        for planned in tqdm(changes, "Writing", number, unit="file", disable=None):
            change = planned.value
            if planned.error:
                errors.append(planned.error)
            elif change.fields:
                try:
                    library.writing.write(opened, journal, change)
                    num_written += 1
                except DiskFullError:
                    raise
                except (ValueError, OSError) as error:
                    errors.append(error)
    said = f"{num_written:,} of {number:,} files written"
    return num_written, _say_done(said, errors)


def _undo(path: Path, names: Sequence[str]) -> int | None:
    restored, errors, failed = set(), [], set()
    if not path.exists() and not library.journal.path_of(path).exists():
        raise FileNotFoundError(
            f"There is no library {str(path)!r}, and no journal of what was written."
            " Choose another `library=`."
        )
    with (
        library.database.writer(path) as opened,
        library.journal.open_journal(path) as journal,
    ):
        entries = [
            one for one in journal.entries() if not names or _is_below(one.path, names)
        ]
        for entry in tqdm(entries, "Restoring", unit="file", disable=None):
            if entry.path in failed:
                continue  # an earlier change cannot be undone before a later one
            try:
                library.writing.undo(opened, journal, entry)
                restored.add(entry.path)
            except (ValueError, OSError) as error:
                failed.add(entry.path)
                errors.append(error)
    return _say_done(f"{len(restored):,} files restored", errors)


def _say_done(text: str, errors: Sequence[Exception]) -> int | None:
    print(text)
    _print_errors(errors)
    return 2 if errors else None


def _print_errors(errors: Sequence[Exception | str]) -> None:
    for error in errors[:NUM_ERRORS]:
        print(f"  {printable(str(error))}", file=sys.stderr)
    if len(errors) > NUM_ERRORS:
        print(f"  … and {len(errors) - NUM_ERRORS:,} more", file=sys.stderr)
