"""Writes results of `tag` to disk: JSON Lines, a CSV table, or JAMS files.

    results ─▶ x.jsonl
    results ─▶ x.csv.jsonl ─▶ x.csv               when all is done
    results ─▶ DIR/results.jsonl, DIR/….jams      a JAMS file per song

A result is what `Tagger.described` returns, with the real path of the file. JSON Lines
are the store: each result is written before the next file is tagged, so an interrupted
run resumes. Files that have tags are skipped, and those with an error are tried again
(the later result counts). Only the same model with the same settings may add to
existing results.
"""

import contextlib
import csv
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from tagger import storage, validation
from tagger.storage import write_text_atomically
from tagger.text import TaggerError, printable, table_cell

STORE = "results.jsonl"  # in a folder of JAMS files


@dataclasses.dataclass(frozen=True)
class ResultSource:
    """The model and settings that produce results.

    Attributes:
        model: Name of the model.
        tags: Names of all its tags.
        settings: Values of hop, aggregate and threshold; results with other settings
            are not comparable.
    """

    model: str
    tags: Sequence[str]
    settings: dict

    def check(self, path: Path, line: "_Line") -> None:
        """Checks that an existing result has the same model, tags and settings.

        Args:
            path: Path of the results.
            line: The existing result.

        Raises:
            ValueError: they differ; the message names the difference.
        """
        differing = []
        if line.model != self.model:
            differing = [f"of {line.model}, not {self.model}"]
        elif not {*(line.tags or ())} <= {*self.tags}:
            differing = [f"with other tags than those of {self.model} now"]
        else:
            for name in dict.fromkeys([*self.settings, *line.settings]):
                value, own = line.settings.get(name), self.settings.get(name)
                if value != own:
                    differing.append(f"with {name} {value}, not {own}")
        if differing:
            raise TaggerError(
                f"{str(path)!r} holds results {differing[0]}. Choose another"
                " `output=`, or add `force=` to replace it."
            )


def lock(output: str | os.PathLike) -> contextlib.AbstractContextManager[None]:
    """Locks results against a second process.

    Args:
        output: As for `open_results`.

    Raises:
        OSError: another process writes to them, or the place cannot be written.
    """
    output = Path(output)
    if _is_file(output):
        return storage.file_lock(output, "`output=`")
    return storage.writer_lock(output, "`output=`")


def open_results(
    output: str | os.PathLike, source: ResultSource, force: bool = False
) -> "Results":
    """Opens results to append to. Existing results change on the first write.

    Args:
        output: File that ends in .jsonl, .json or .csv; any other path is a folder of
            JAMS files.
        source: Model and settings of the results.
        force: Whether to replace existing results instead: the file on the first
            write, a JAMS file when its song is written.

    Raises:
        ValueError: the path holds something else, or results of another source.
        ImportError: JAMS files need the package jams, which is not installed.
    """
    output = Path(output)
    if not _is_file(output):
        return JamsFolder(output, source, force)
    return (Table if output.suffix == ".csv" else Results)(output, source, force)


def _is_file(output: Path) -> bool:
    return output.suffix in (".jsonl", ".json", ".csv")


def _store_of(output: Path) -> Path:
    """Returns the JSON Lines of an output."""
    if not _is_file(output):
        return output / STORE
    return (
        output.with_name(f"{output.name}.jsonl") if output.suffix == ".csv" else output
    )


class _File:
    """A file to which lines are appended after its last complete line.

    Args:
        path: Path of the file.
        replace: Whether to ignore existing lines and remove them on the first write.
    """

    def __init__(self, path: Path, replace: bool):
        self._path, self._file, self._mode = path, None, "w" if replace else "a"
        text = ""
        validation.check_regular(path)
        if path.exists() and not replace:
            # Without translating line breaks, which names may hold.
            text = path.read_bytes().decode("utf-8", "surrogateescape")
        *self.lines, self.half = text.split("\n")

    def write(self, text: str) -> None:
        """Appends text; removes the incomplete line before the first one."""
        if self._file is None:
            if self.half:  # an incomplete line of a killed run
                num_bytes = len(self.half.encode("utf-8", "surrogateescape"))
                os.truncate(self._path, self._path.stat().st_size - num_bytes)
            self._file = open(
                self._path,
                self._mode,
                encoding="utf-8",
                errors="surrogateescape",
                newline="",
            )
        self._file.write(text)
        self._file.flush()

    @property
    def is_opened(self) -> bool:
        """Whether something was written."""
        return self._file is not None

    def close(self) -> None:
        """Closes the file if it was opened."""
        if self._file:
            self._file.close()


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line of the store."""

    path: str
    model: str
    settings: dict
    tags: dict[str, float] | None = None


class Results:
    """JSON Lines: one line per result.

    Args:
        output: See `open_results`.
        source: Model and settings of the results.
        force: Whether to replace existing results.
    """

    def __init__(self, output: Path, source: ResultSource, force: bool):
        self._output, self._source, self._force = output, source, force
        path = _store_of(output)
        self._file = _File(path, force)
        half, then = self._file.half, "Choose another `output=`."
        rows = [validation.parse(one, _Line, path, then) for one in self._file.lines]
        if half and not half.startswith('{"path": '[: len(half)]):
            raise TaggerError(f"{str(path)!r} was not written by `tag`. {then}")
        self._done = {
            os.path.realpath(row.path) for row in rows if row.tags is not None
        }
        for row in rows:
            source.check(path, row)

    def has(self, path: str) -> bool:
        """Returns whether a file already has tags."""
        return os.path.realpath(path) in self._done

    def write(self, result: dict) -> None:
        """Appends a result of `Tagger.described`."""
        place = {"path": os.path.realpath(result["path"])}
        settings = {"settings": self._source.settings}
        self._file.write(as_line(result | place | settings) + "\n")

    def check_targets(self, paths: Sequence[str]) -> None:
        """Checks that no file of others would be replaced.

        Args:
            paths: Files to be tagged.

        Raises:
            ValueError: one would.
        """

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class Table(Results):
    """A CSV table, made of the JSON Lines when these are closed.

    One row per file: path, model, settings, seconds, one column per tag, error. The
    cell of a tag below its threshold is empty.
    """

    def __init__(self, output: Path, source: ResultSource, force: bool):
        super().__init__(output, source, force)
        store = _store_of(output)
        if (
            not force
            and not store.exists()
            and output.exists()
            and os.stat(output).st_size
        ):
            raise TaggerError(
                f"{str(output)!r} was made without {store.name!r}, so it cannot be"
                " continued. Choose another `output=`, or add `force=` to replace it."
            )

    def close(self) -> None:
        """Closes the JSON Lines, and writes the table unless nothing has changed."""
        super().close()
        store = _store_of(self._output)
        if self._file.is_opened or (not self._force and self._is_behind(store)):
            self._write_table(store)

    def _is_behind(self, store: Path) -> bool:
        """Returns whether a killed run has left lines that the table lacks."""
        if not store.exists() or not self._output.exists():
            return store.exists()
        return os.stat(store).st_mtime_ns >= os.stat(self._output).st_mtime_ns

    def _write_table(self, store: Path) -> None:
        lines = store.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]
        rows = {row["path"]: row for row in map(json.loads, lines)}  # the later counts
        fixed = ["path", "model", "settings", "seconds"]
        column_of = {tag: table_cell(tag) for tag in self._source.tags}
        columns = [*fixed, *column_of.values(), "error"]
        with (
            storage.replacing(self._output) as unfinished,
            open(
                unfinished,
                "w",
                encoding="utf-8",
                errors="surrogateescape",
                newline="",
            ) as file,
        ):
            table = csv.DictWriter(file, columns, lineterminator="\n")
            table.writeheader()
            for row in rows.values():
                cells = {name: row.get(name, "") for name in ("model", "seconds")}
                cells["settings"] = json.dumps(row.get("settings"))
                for name in ("path", "error"):
                    cells[name] = table_cell(row.get(name) or "")
                tags = row.get("tags") or {}
                cells |= {column_of[tag]: score for tag, score in tags.items()}
                table.writerow(cells)


class JamsFolder(Results):
    """One .jams file per audio file: namespace tag_open, with scores as confidence.

    The folder mirrors the paths of audio files relative to the working directory, or to
    the root for files outside of it.
    """

    def __init__(self, output: Path, source: ResultSource, force: bool):
        try:
            import jams
        except ImportError as error:
            raise ImportError(
                "JAMS files need the package jams: pip install jams."
            ) from error
        self._jams = jams
        super().__init__(output, source, force)

    def check_targets(self, paths: Sequence[str]) -> None:
        """Checks that no JAMS file of others, or of another model, is replaced."""
        for target in (_jams_path(self._output, path) for path in paths):
            model = _model_of(target) if target.exists() else self._source.model
            if model is None or (model != self._source.model and not self._force):
                holds = f"is of {model}" if model else "was not written by `tag`"
                raise TaggerError(f"{str(target)!r} {holds}. Choose another `output=`.")

    def write(self, result: dict) -> None:
        """Writes the JAMS file of a result, unless it is an error, and its line."""
        if "tags" in result:
            self._write_jams(result)
        self._output.mkdir(parents=True, exist_ok=True)
        super().write(result)

    def _write_jams(self, result: dict) -> None:
        jams, seconds = self._jams, result["seconds"]
        target = _jams_path(self._output, result["path"])
        annotation = jams.Annotation(
            "tag_open",
            time=0,
            duration=seconds,
            annotation_metadata=jams.AnnotationMetadata(
                annotator={
                    "model": self._source.model,
                    "settings": self._source.settings,
                },
                annotation_tools="tagger",
                data_source="program",
            ),
        )
        for tag, score in result["tags"].items():
            annotation.append(time=0, duration=seconds, value=tag, confidence=score)
        jam = jams.JAMS(annotations=[annotation])
        jam.file_metadata.duration = seconds
        jam.file_metadata.title = Path(result["path"]).stem
        jam.validate()
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(target, jam.dumps(indent=2))


def _jams_path(folder: Path, path: str) -> Path:
    full = Path(os.path.abspath(path))
    here = Path.cwd()
    below = here if full.is_relative_to(here) else full.anchor
    relative = full.relative_to(below)
    return folder / relative.with_name(f"{relative.name}.jams")


def _model_of(jam: Path) -> str | None:
    """Returns the model of a JAMS file; None: `tag` did not write it."""
    try:
        (annotation,) = json.loads(jam.read_text("utf-8"))["annotations"]
        return annotation["annotation_metadata"]["annotator"]["model"]
    except (ValueError, KeyError, TypeError):
        return None


def as_line(result: dict) -> str:
    """Returns a result as a line of JSON without control characters."""
    line = json.dumps(result, ensure_ascii=False)
    return "".join(
        one
        if one == printable(one) or "\udc80" <= one <= "\udcff"
        else f"\\u{ord(one):04x}"
        for one in line
    )
