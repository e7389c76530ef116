"""The commands scan, find, similar and write: a library of many songs."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tagger import library, storage, weights
from tagger.cli.arguments import (
    add_force,
    at_least_one,
    check_outputs,
    model_name,
    playlist_file,
    share,
    share_between,
)
from tagger.cli.process import with_flags
from tagger.cli.tagging import add_engine, reading, stream_options
from tagger.inference import selection
from tagger.models.metadata import DEFAULT_MODEL
from tagger.storage import DiskFullError
from tagger.text import TaggerError, printable

NUM_ERRORS = 10  # that are printed
MIN_SCORE = 0.1  # to be written, where thresholds follow from a share of the library


def _add_library(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--library",
        type=Path,
        metavar="FILE",
        help="SQLite file of the library (default: library.sqlite in the user's data"
        " folder)",
    )


def _path(args: argparse.Namespace) -> Path:
    # The target of a link, so that two names have one lock and one journal.
    return Path(os.path.realpath(args.library or library.database.default_path()))


# --- scan -----------------------------------------------------------------------------


def add_scan(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of scan."""
    parser.add_argument(
        "names",
        nargs="+",
        metavar="FOLDER",
        help="folder of music, with its subfolders; or an audio file",
    )
    _add_library(parser)
    parser.add_argument(
        "--model",
        type=model_name,
        metavar="MODEL",
        help="pretrained model, or model file; a library may hold several (default: the"
        f" pretrained model that the library uses already, or {DEFAULT_MODEL})",
    )
    add_engine(parser)
    add = parser.add_argument
    add(
        "--prune",
        action="store_true",
        help="remove files that no longer exist from the library",
    )
    add("--watch", action="store_true", help="go on as files arrive, until Ctrl-C")
    add(
        "--poll",
        action="store_true",
        help="with --watch: look for new files every 30 s; for network drives, which"
        " do not report them",
    )
    add(
        "--force",
        action="store_true",
        help="with --prune: also if all files of a folder are gone",
    )


def if_scan_interrupted(args: argparse.Namespace) -> str:
    """Returns the message for the user after Ctrl-C; none ends a watch quietly."""
    if args.watch:
        return ""
    return "The library keeps what is done; run the same command again to resume."


def scan(args: argparse.Namespace) -> int:
    """Scans folders; returns exit code 2 if a file cannot be read or analysed."""
    if args.poll and not args.watch:
        raise TaggerError("--poll goes with --watch.")
    if args.force and not args.prune:
        raise TaggerError("--force goes with --prune.")
    if args.watch and not all(map(os.path.isdir, args.names)):
        raise TaggerError("--watch watches folders. Give folders only.")
    if not args.prune or not args.force:
        for name in args.names:
            library.scanning.check_exists(name)
    model = args.model or _usual_model(_path(args))
    analysis = library.scanning.Analysis(
        model,
        weights.pretrained.digest(model),
        lambda: selection.open_engine(model, args.precision),
        reading(args),
        stream_options(args),
    )
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(library.database.writer(_path(args)))
        if model not in weights.pretrained.PRETRAINED:
            # Scans before 2026-11-25 stored the digest of the whole file.
            before = storage.sha256(weights.path_of(model))
            opened.rename_model(before, analysis.digest)
        arriving = None
        if args.watch:  # begins before the scan, which may take hours
            folders = [name for name in args.names if os.path.isdir(name)]
            arriving = stack.enter_context(
                library.watching.arrivals(folders, args.poll)
            )
        present = [name for name in args.names if os.path.exists(name)]
        report = library.scanning.scan(opened, present, analysis)
        if args.prune:
            gone = library.scanning.prune(opened, args.names, args.force)
            report.num_pruned, report.missing = len(gone), []
        _print_report(report, opened)
        if arriving is None:
            return 2 if report.errors else 0
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
            " removes them.",
            file=sys.stderr,
        )


# --- find and similar -----------------------------------------------------------------


def _add_answers(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that find and similar share."""
    _add_library(parser)
    add = parser.add_argument
    add(
        "--model",
        metavar="MODEL",
        help="model whose analyses to use (default: the one with the most)",
    )
    add(
        "--top",
        type=at_least_one,
        default=20,
        metavar="N",
        help="number of songs (default: 20)",
    )
    add("--json", action="store_true", help="print one line of JSON per song")
    add(
        "--playlist",
        type=playlist_file,
        metavar="FILE",
        help="also write an M3U playlist (.m3u8)",
    )
    add(
        "--absolute",
        action="store_true",
        help="name the files in the playlist by their full paths (default: relative to"
        " the playlist)",
    )
    add_force(parser)


def add_find(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of find."""
    parser.add_argument(
        "expression",
        help="what to find, such as 'rock > .5 and not vocals'; a tag alone means that"
        " it reaches its threshold",
    )
    _add_answers(parser)
    parser.add_argument(
        "--rate",
        type=share_between,
        metavar="R",
        help="a tag alone means: the song is among this share of the library with the"
        " highest scores (default: the thresholds of the model; 0.1 if it holds none)",
    )


def find(args: argparse.Namespace) -> None:
    """Prints the songs whose scores match an expression."""
    check_outputs(args, "playlist")
    songs = _songs(args, with_embeddings=False)
    query = library.queries.Query(args.expression, songs.model.tags)
    if query.needs_thresholds and not (args.rate or songs.model.thresholds):
        print(
            f"{songs.model} holds no thresholds: a tag alone means the"
            f" {library.queries.DEFAULT_RATE:.0%} of the library with its highest"
            " scores.",
            file=sys.stderr,
        )
    rows = library.queries.find(songs, query, args.rate)
    shown = rows[: args.top]
    tags = [songs.model.tags[tag] for tag in query.mentioned]
    columns = [songs.scores[shown, tag] for tag in query.mentioned]
    _print_songs(args, songs, shown, dict(zip(tags, columns, strict=True)))
    if not args.json:
        print(
            f"{len(rows):,} of {len(songs.paths):,} songs match"
            + (
                f"; the best {len(shown):,} are shown" if len(shown) < len(rows) else ""
            ),
            file=sys.stderr,
        )


def add_similar(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of similar."""
    parser.add_argument(
        "seeds",
        nargs="+",
        metavar="SONG",
        help="songs, of the library or not; results are similar to all of them",
    )
    _add_answers(parser)
    add = parser.add_argument
    add(
        "--max-per-artist",
        type=at_least_one,
        metavar="N",
        help="at most N songs of one artist",
    )
    add(
        "--path",
        action="store_true",
        help="find songs that lead from the first song to the second",
    )


def similar(args: argparse.Namespace) -> None:
    """Prints the songs that are similar to others."""
    check_outputs(args, "playlist")
    if args.path and len(args.seeds) != 2:
        raise TaggerError(
            f"--path leads from one song to another: give two songs, not"
            f" {len(args.seeds)}."
        )
    songs = _songs(args, with_embeddings=True)
    neighbours = library.similarity.Neighbours(songs)
    rows = [_row_of(songs, seed) for seed in args.seeds]
    if args.path:
        for row, seed in zip(rows, args.seeds, strict=True):
            if row is None:
                raise TaggerError(
                    f"{seed!r} is not in the library. Add it: tagger scan"
                    f" {os.path.dirname(seed) or '.'}."
                )
        found = neighbours.path(*rows, args.top, args.max_per_artist)
    else:
        known = [row for row in rows if row is not None]
        unknown = [s for s, row in zip(args.seeds, rows, strict=True) if row is None]
        seeds = [songs.embeddings[known], _embedded(songs, unknown)]
        found = neighbours.similar(
            np.concatenate([part for part in seeds if len(part)]),
            args.top,
            known,
            args.max_per_artist,
        )
    columns = {"similarity": [similarity for _, similarity in found]}
    _print_songs(args, songs, [row for row, _ in found], columns)


def _short(path: str) -> str:
    """Returns a path relative to the current folder, if there is such a path."""
    try:
        return os.path.relpath(path)
    except (ValueError, OSError):  # another drive, or a folder that was deleted
        return path


def _songs(args: argparse.Namespace, with_embeddings: bool):
    with library.database.reader(_path(args)) as opened:
        return opened.analysed(opened.model(args.model), with_embeddings)


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


def _print_songs(
    args: argparse.Namespace, songs, rows: Sequence[int], columns: dict[str, Sequence]
) -> None:
    """Prints one line per song, and writes --playlist."""
    if args.json:
        for place, row in enumerate(rows):
            values = {name: round(float(x[place]), 6) for name, x in columns.items()}
            about = {"path": songs.paths[row], "artist": songs.artists[row]}
            about |= {"title": songs.titles[row], **values}
            print(json.dumps(about, ensure_ascii=False))
    else:
        if len(rows):
            names = [printable(name) for name in columns]
            print("  ".join(f"{name:>5}" for name in names))
            widths = [max(len(name), 5) for name in names]
        for place, row in enumerate(rows):
            numbers = [
                f"{x[place]:{width}.3f}"
                for width, x in zip(widths, columns.values(), strict=True)
            ]
            print("  ".join([*numbers, printable(_short(songs.paths[row]))]))
    if args.playlist and not len(rows):
        print(f"{args.playlist} was not written: it would be empty.", file=sys.stderr)
    elif args.playlist:
        left_out = library.playlists.write_playlist(
            args.playlist, songs, rows, not args.absolute
        )
        for path in left_out:
            print(f"Left out: {printable(path)} contains a line break", file=sys.stderr)


# --- write ----------------------------------------------------------------------------


def add_write(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of write."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="FOLDER",
        help="folder of the library, with its subfolders; or an audio file",
    )
    _add_library(parser)
    add = parser.add_argument
    add(
        "--model",
        metavar="MODEL",
        help="model whose analyses to use (default: the one with the most)",
    )
    add(
        "--rate",
        type=share_between,
        metavar="R",
        help="write a tag to this share of the library, the songs with its highest"
        " scores (default: the thresholds of the model; 0.1 if it holds none)",
    )
    add(
        "--min-score",
        type=share,
        metavar="X",
        help="never write a tag whose score is lower, even if --rate selects the song"
        " (default: 0.1, or 0 with the model's thresholds)",
    )
    add(
        "--max-per-field",
        type=at_least_one,
        default=3,
        metavar="N",
        help="maximum number of values to add to a field, those with the highest"
        " scores relative to their thresholds (default: 3)",
    )
    add(
        "--map",
        type=Path,
        metavar="FILE",
        help="CSV table with the columns tag, field and value: which tag goes to which"
        " field",
    )
    add("--show-map", action="store_true", help="print our table, to edit it")
    add(
        "--dry-run",
        action="store_true",
        help="show what would change and write nothing (the default)",
    )
    add("--yes", action="store_true", help="write into the files")
    add(
        "--undo",
        action="store_true",
        help="give the files the content that they had before, byte for byte; without"
        " FOLDER all of them",
    )


def if_write_interrupted(args: argparse.Namespace) -> str:
    """Returns the message for the user after Ctrl-C."""
    return "Every file is whole; run the same command again to continue."


def write(args: argparse.Namespace) -> int | None:
    """Writes scores into files; returns exit code 2 if a file cannot be written."""
    if args.show_map:
        print(library.mapping.TABLE_PATH.read_text("utf-8"), end="")
        return None
    if args.undo + args.yes + args.dry_run > 1:
        raise TaggerError("Give one of --dry-run, --yes and --undo.")
    if not args.names and not args.undo:
        raise TaggerError("Give the folder whose files to write to.")
    table = library.mapping.read_mapping(args.map)
    names = [os.path.realpath(name) for name in args.names]
    if args.undo:
        return _undo(args, names)
    songs = _songs(args, with_embeddings=False)
    rows = [row for row, path in enumerate(songs.paths) if _is_below(path, names)]
    if not rows:
        raise TaggerError(
            f"The library holds no song in {', '.join(args.names)}. Add them: tagger"
            f" scan {args.names[0]}."
        )
    thresholds = library.queries.thresholds_of(songs, args.rate)
    min_score = args.min_score
    if min_score is None:
        has_own = songs.model.thresholds and not args.rate
        min_score = 0.0 if has_own else MIN_SCORE
    thresholds = np.maximum(thresholds, min_score)
    changes = library.writing.plan(songs, rows, table, thresholds, args.max_per_field)
    if args.yes:
        return _write(args, changes, len(rows))
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


def _write(args: argparse.Namespace, changes, number: int) -> int | None:
    num_written, errors = 0, []
    with (
        library.database.writer(_path(args)) as opened,
        library.journal.open_journal(_path(args)) as journal,
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
    return _say_done(f"{num_written:,} of {number:,} files written", errors, args)


def _undo(args: argparse.Namespace, names: Sequence[str]) -> int | None:
    restored, errors, failed = set(), [], set()
    with (
        library.database.writer(_path(args)) as opened,
        library.journal.open_journal(_path(args)) as journal,
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
    return _say_done(f"{len(restored):,} files restored", errors, args)


def _say_done(text: str, errors: Sequence[Exception], args) -> int | None:
    print(text)
    _print_errors(errors)
    if args.yes:
        where = f" --library {args.library}" if args.library else ""
        print(f"To take it back: tagger write --undo{where}.", file=sys.stderr)
    return 2 if errors else None


def _print_errors(errors: Sequence[Exception | str]) -> None:
    for error in errors[:NUM_ERRORS]:
        print(f"  {printable(str(error))}", file=sys.stderr)
    if len(errors) > NUM_ERRORS:
        print(f"  … and {len(errors) - NUM_ERRORS:,} more", file=sys.stderr)
