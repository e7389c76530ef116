"""Writes results of `tag` to disk: JSON Lines, a CSV table, or one JAMS file per song.

A result is {"path", "model", "seconds", "tags": {name: score}} or {"path", "model",
"error"}. Each is written before the next file is tagged, so an interrupted run resumes:
files that have tags are skipped, and those with an error are tried again (the later
result counts). Only the same model with the same settings may add to existing results.
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
from tagger.text import printable, table_cell

DEFAULT_SETTINGS = {"precision": "float32"}  # of results that do not say


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

    def check(self, path: Path, model: str, settings: dict | None) -> None:
        """Checks that existing results have the same model and settings.

        Args:
            path: Path of the results.
            model: Name of the model that produced them.
            settings: Settings that produced them; None if they are not stored.

        Raises:
            ValueError: model or settings differ; the message names the difference.
        """
        if model != self.model:
            raise ValueError(
                f"{str(path)!r} holds results of {model}, not {self.model}. Choose"
                " another --output, or add --force to replace it."
            )
        if settings is None:
            return
        for name in dict.fromkeys([*self.settings, *settings]):
            # Results of earlier versions lack the settings that were added later.
            value, own = (
                held.get(name, DEFAULT_SETTINGS.get(name))
                for held in (settings, self.settings)
            )
            if value != own:
                raise ValueError(
                    f"{str(path)!r} holds results with {name} {value}, not {own}."
                    " Choose another --output, or add --force to replace it."
                )


def check_no_results(path: str | os.PathLike, paths: Sequence[str]) -> None:
    """Checks that an output holds no results yet.

    Args:
        path: As for `open_results`.
        paths: Files to be tagged.

    Raises:
        FileExistsError: the file is not empty, or the folder has a JAMS file of one of
            the paths.
    """
    path = Path(path)
    if _is_file(path):
        files = [path] if path.exists() and path.stat().st_size else []
    else:
        files = [file for file in (_jams_path(path, p) for p in paths) if file.exists()]
    if files:
        raise FileExistsError(
            f"{files[0]} exists. Add --resume to continue, --force to overwrite, or"
            " choose another --output."
        )


def lock(path: str | os.PathLike) -> contextlib.AbstractContextManager[None]:
    """Locks results against a second process.

    Args:
        path: As for `open_results`.

    Raises:
        OSError: another process writes to them, or the place cannot be written.
    """
    path = Path(path)
    if _is_file(path):
        return storage.file_lock(path, "--output")
    return storage.writer_lock(path, "--output")


def open_results(
    path: str | os.PathLike,
    paths: Sequence[str],
    source: ResultSource,
    force: bool = False,
) -> "JsonLines | CsvTable | JamsFolder":
    """Opens results to append to. Existing results change on the first write.

    Args:
        path: File that ends in .jsonl, .json or .csv; any other path is a folder of
            JAMS files.
        paths: Files to be tagged.
        source: Model and settings of the results.
        force: Whether to replace existing results instead: the file on the first
            write, a JAMS file when its song is written.

    Returns:
        An object with `has(path)` (whether a file already has tags), `write(result)`
        and `close()`.

    Raises:
        ValueError: the path holds something else, or results of another source.
        ImportError: JAMS files need the package jams, which is not installed.
    """
    path = Path(path)
    if not _is_file(path):
        return JamsFolder(path, paths, source, force)
    return (CsvTable if path.suffix == ".csv" else JsonLines)(path, source, force)


def _is_file(path: Path) -> bool:
    return path.suffix in (".jsonl", ".json", ".csv")


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

    def close(self) -> None:
        """Closes the file if it was opened."""
        if self._file:
            self._file.close()


class JsonLines:
    """JSON Lines: one line per result."""

    def __init__(self, path: Path, source: ResultSource, force: bool):
        self._file, self._settings = _File(path, force), source.settings
        half = self._file.half
        try:
            rows = [json.loads(line) for line in self._file.lines]
            self._done = {row["path"] for row in rows if row["path"] and "tags" in row}
            held = [(row["model"], row.get("settings")) for row in rows]
            if half and not half.startswith('{"path": '[: len(half)]):
                raise ValueError(half)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{str(path)!r} does not hold JSON lines written by `tag`. Choose"
                " another --output."
            ) from error
        for model, settings in held:
            source.check(path, model, settings)

    def write(self, result: dict) -> None:
        """Appends a result."""
        self._file.write(as_line(result | {"settings": self._settings}) + "\n")

    def has(self, path: str) -> bool:
        """Returns whether a file already has tags."""
        return path in self._done

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class CsvTable:
    """One row per file: path, model, settings, seconds, one column per tag, error.

    The cell of a tag below its threshold is empty.
    """

    def __init__(self, path: Path, source: ResultSource, force: bool):
        fixed = ["path", "model", "settings", "seconds"]
        self._header = [*fixed, *map(table_cell, source.tags), "error"]
        earlier = [*fixed, *source.tags, "error"]  # cells as they were before
        self._settings = json.dumps(source.settings)
        self._file = _File(path, force)
        rows = list(csv.reader(line + "\n" for line in self._file.lines))
        if (rows or self._file.half) and rows[:1] not in ([self._header], [earlier]):
            raise ValueError(
                f"{str(path)!r} is not a table written by `tag` with the tags of this"
                " model. Choose another --output."
            )
        for row in rows[1:]:
            if len(row) != len(self._header):
                raise ValueError(
                    f"{str(path)!r} has a row of {len(row)} cells, not"
                    f" {len(self._header)}. Choose another --output."
                )
            try:
                settings = json.loads(row[2])
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{str(path)!r} was not written by `tag`: {row[2]!r} is not"
                    " valid JSON. Choose another --output."
                ) from error
            source.check(path, row[1], settings)
        self._done = {row[0] for row in rows[1:] if not row[-1]}
        self._rows = csv.DictWriter(self._file, self._header, lineterminator="\n")

    def write(self, result: dict) -> None:
        """Appends a result."""
        if not self._file.lines:
            self._file.lines.append("")
            self._rows.writeheader()
        tags = {table_cell(tag): score for tag, score in result.get("tags", {}).items()}
        row = {**result, **tags, "settings": self._settings}
        row |= {name: table_cell(row.get(name, "")) for name in ("path", "error")}
        self._rows.writerow({name: row.get(name, "") for name in self._header})

    def has(self, path: str) -> bool:
        """Returns whether a file already has tags."""
        return table_cell(path) in self._done or path in self._done

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class JamsFolder:
    """One .jams file per audio file: namespace tag_open, with scores as confidence.

    The folder mirrors the paths of audio files relative to the working directory, or to
    the root for files outside of it.
    """

    def __init__(
        self, path: Path, paths: Sequence[str], source: ResultSource, force: bool
    ):
        try:
            import jams
        except ImportError as error:
            raise ImportError(
                "JAMS files need the package jams: pip install jams."
            ) from error
        self._jams, self._source, self._path = jams, source, path
        self._done = set()
        for audio_path in paths:
            target = _jams_path(path, audio_path)
            if target.exists():
                annotator = _annotator_of(target)
                if not force:
                    self._done.add(audio_path)
                    source.check(path, *annotator)

    def write(self, result: dict) -> None:
        """Writes the JAMS file of a result; a result with an error gets none."""
        if "error" in result:
            return
        jams, seconds = self._jams, result["seconds"]
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
        target = _jams_path(self._path, result["path"])
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(target, jam.dumps(indent=2))

    def has(self, path: str) -> bool:
        """Returns whether a file already has tags."""
        return path in self._done

    def close(self) -> None:
        """Does nothing: every file is already complete."""


def _jams_path(folder: Path, path: str) -> Path:
    full = Path(os.path.abspath(path))
    here = Path.cwd()
    below = here if full.is_relative_to(here) else full.anchor
    relative = full.relative_to(below)
    return folder / relative.with_name(f"{relative.name}.jams")


def as_line(result: dict) -> str:
    """Returns a result as a line of JSON without control characters."""
    line = json.dumps(result, ensure_ascii=False)
    return "".join(
        one
        if one == printable(one) or "\udc80" <= one <= "\udcff"
        else f"\\u{ord(one):04x}"
        for one in line
    )


def _annotator_of(jam: Path) -> tuple[str, dict | None]:
    try:
        (annotation,) = json.loads(jam.read_text("utf-8"))["annotations"]
        annotator = annotation["annotation_metadata"]["annotator"]
        return annotator["model"], annotator.get("settings")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(jam)!r} is not a JAMS file written by `tag`. Choose another"
            " --output."
        ) from error
