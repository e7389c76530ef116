"""Fills a library: reads new and changed files, and analyses what no file held before.

paths ──songs.read_song──▶ files, recordings ──engine──▶ scores and embeddings

Everything is stored as soon as it is known, so a scan that is killed resumes.
"""

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

from tagger.data import workers
from tagger.inference.engines import Engine
from tagger.inference.streaming import StreamOptions, progress, stream_files
from tagger.inference.tagger import Tagger
from tagger.library.database import Model, MusicLibrary
from tagger.library.songs import Song, Unreadable, is_gone, read_song, version_of
from tagger.listing import audio_files_in
from tagger.models.metadata import OUTPUTS
from tagger.text import TaggerError

MAX_COPIES = 10  # of a recording that are looked for when one of them was moved
MIN_WORKER_FILES = 200  # for fewer, starting worker processes takes longer than reading


@dataclasses.dataclass
class Report:
    """What a scan did.

    Attributes:
        num_unchanged: Files that were already known.
        num_new: Files at a path that the library did not hold.
        num_changed: Files with another size or time than before.
        num_moved: New files with the audio of a file that is gone.
        num_analysed: Recordings that the model analysed.
        errors: Why files cannot be read or analysed, by path.
        missing: Files in the scanned folders that no longer exist.
        num_pruned: Missing files that were removed from the library.
    """

    num_unchanged: int = 0
    num_new: int = 0
    num_changed: int = 0
    num_moved: int = 0
    num_analysed: int = 0
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: list[str] = dataclasses.field(default_factory=list)
    num_pruned: int = 0


@dataclasses.dataclass(frozen=True)
class Analysis:
    """How songs are analysed.

    Attributes:
        name: Name of the model, as the user gave it.
        digest: Result of `pretrained.digest`.
        open_engine: Function that opens the model; it is called only if there is
            something to analyse.
        settings: What else changes scores, such as {"excerpts": 3}.
        options: How files are read and run.
    """

    name: str
    digest: str
    open_engine: Callable[[], Engine]
    settings: dict[str, int | str] = dataclasses.field(default_factory=dict)
    options: StreamOptions = StreamOptions(num_workers=None)


def find_files(names: Iterable[str]) -> Iterator[str]:
    """Yields the real paths of the given files, and of the audio files in folders.

    Raises:
        FileNotFoundError: there is no such file or folder.
    """
    for name in names:
        check_exists(name)
        if not os.path.isdir(name):
            yield os.path.realpath(name)
            continue
        for path in audio_files_in(name):
            yield os.path.realpath(path)


def check_exists(name: str) -> None:
    """Checks that there is a file or folder.

    Raises:
        FileNotFoundError: there is none.
    """
    if not os.path.exists(name):
        raise FileNotFoundError(
            f"There is no file or folder {name!r}. If it is on another drive, check"
            " that the drive is connected. The library keeps what it holds; if you have"
            " deleted it, scan it with `prune=folders`."
        )


def scan(library: MusicLibrary, names: Sequence[str], analysis: Analysis) -> Report:
    """Adds files to a library and analyses them.

    Args:
        library: Library, open for writing.
        names: Files and folders.
        analysis: Model to run.

    Raises:
        FileNotFoundError: a file or folder does not exist, or vanishes meanwhile.
        ValueError: the model holds no tag names.
        OSError: the library cannot be written.
    """
    listed = tqdm(
        find_files(names), "Listing files", unit="file", disable=None, leave=False
    )
    paths = list(dict.fromkeys(listed))
    tops = [name for name in names if os.path.isdir(name)]
    report = Report()
    changed = [path for path in paths if library.version_of(path) != version_of(path)]
    report.num_unchanged = len(paths) - len(changed)
    for song in _read(changed, analysis.options):
        if isinstance(song, Unreadable):
            _check_not_vanished(song.path, tops)
            _add_error(library, song, report)
        else:
            _add_song(library, song, report)
    _analyse(library, paths, analysis, tops, report)
    folders = [os.path.realpath(name) for name in names]
    held = library.paths(folders)
    report.missing = [path for path in held if is_gone(path)]
    return report


def prune(library: MusicLibrary, names: Sequence[str], force: bool) -> list[str]:
    """Removes files that no longer exist from a library.

    Args:
        library: Library, open for writing.
        names: Folders, or files, to which this is restricted.
        force: Whether to believe that all files of a folder are gone.

    Returns:
        Paths that were removed.

    Raises:
        ValueError: all files of a folder are gone, or a folder is empty: its drive may
            not be connected.
    """
    gone = []
    for name in names:
        held = library.paths([os.path.realpath(name)])
        missing = [path for path in held if is_gone(path)]
        if len(missing) == len(held) > 0 and not force:
            raise TaggerError(
                f"All {len(held):,} files that the library holds in {name!r} are gone."
                " If its drive is not connected, connect it. If you have deleted or"
                " moved them, use `prune=folders`."
            )
        empty = Counter() if force else Counter(map(_empty_folder_of, missing))
        del empty[None]
        if empty:
            folder, number = empty.most_common(1)[0]
            raise TaggerError(
                f"{folder!r} is empty, but the library holds {number:,} files in it. If"
                " a drive belongs there, connect it. If you have deleted or moved the"
                " files, use `prune=folders`."
            )
        gone += missing
    library.forget(gone)
    return gone


def _empty_folder_of(path: str) -> str | None:
    """Returns the folder that held a missing file if it still exists and is empty.

    The mount point of a drive that is not connected is such a folder.
    """
    folder = os.path.dirname(path)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        if not any(entries):
            return folder
    return None


def _read(paths: Sequence[str], options: StreamOptions) -> Iterator[Song | Unreadable]:
    """Reads files without decoding them; many of them in worker processes."""
    num_workers = options.num_workers or workers.num_cores()
    is_worth_it = num_workers > 1 and len(paths) >= MIN_WORKER_FILES
    with tqdm(
        desc="Reading files", total=len(paths), unit="file", disable=None, leave=False
    ) as bar:
        if is_worth_it or options.scheduler:
            found = workers.stream(
                read_song, paths, num_workers, options.scheduler, num_ahead=16
            )
        else:
            found = ((path, read_song(path)) for path in paths)
        for path, song in found:
            if isinstance(song, workers.WorkersDied):
                reason = f"Cannot read {path!r}: {song}."
                song = Unreadable(path, *(version_of(path) or (None, None)), reason)
            bar.update()
            yield song


def _add_song(library: MusicLibrary, song: Song, report: Report) -> None:
    is_known = library.recording_of(song.path) is not None
    recording = library.add_song(song)
    copies = library.paths_of(recording, MAX_COPIES)
    others = [path for path in copies if path != song.path]
    if is_known:
        report.num_changed += 1
    elif others and all(map(is_gone, others)):
        report.num_moved += 1
        library.forget(others)
    else:
        report.num_new += 1


def _add_error(library: MusicLibrary, song: Unreadable, report: Report) -> None:
    if song.num_bytes is None and is_gone(song.path):
        return  # deleted since it was listed
    library.add_error(song)
    report.errors[song.path] = song.error


def _check_not_vanished(path: str, names: Sequence[str]) -> None:
    """Checks that a missing file does not mean that its whole folder is gone."""
    if is_gone(path):
        for name in names:
            check_exists(name)


def _analyse(
    library: MusicLibrary,
    paths: Sequence[str],
    analysis: Analysis,
    names: Sequence[str],
    report: Report,
) -> None:
    """Runs the model on the recordings among the files that it has not analysed."""
    model = library.number_of(analysis.digest, analysis.settings)
    waiting = library.without_analysis(model)
    pending = {}  # recording -> the first of its files
    for path in paths:
        if path in waiting:
            pending.setdefault(waiting[path], path)
    if not pending:
        return
    engine = analysis.open_engine()
    model = library.add_model(
        Model(
            analysis.digest,
            analysis.name,
            Tagger(engine).tags,
            engine.info.thresholds,
            analysis.settings,
        )
    )
    num_tags = engine.info.num_tags
    recordings = iter(pending)
    versions = {path: library.version_of(path) for path in pending.values()}
    with progress(len(pending), "Analysing") as bar:
        for file in stream_files(
            engine, pending.values(), None, OUTPUTS, analysis.options, bar
        ):
            recording, error = next(recordings), file.error
            if file.error:
                _check_not_vanished(file.path, names)
            version = version_of(file.path)
            if version != versions[file.path]:
                error = error or (
                    f"Cannot analyse {file.path!r}: another program has written it"
                    " meanwhile. Scan again."
                )
            if error:
                song = Unreadable(file.path, *(version or (None, None)), str(error))
                _add_error(library, song, report)
                continue
            mean = file.value.rows.mean(axis=0)
            library.add_analysis(model, recording, *np.split(mean, [num_tags]))
            report.num_analysed += 1
