"""What `tag` leaves on disk: lines of JSON, a CSV table, or a JAMS file per audio file.

    {"path", "model", "seconds", "tags": {name: score}}  or  {"path", "model", "error"}

is a result. Each is on disk before the next file is tagged, so that an interrupted run
is gone on with: files that have tags there are left out, those with an error are tried
again (their later result counts). Whoever goes on keeps to the same hop, aggregate and
threshold.
"""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

from tagger.storage import write_text_atomically


def open_results(
    place: str | os.PathLike, paths: Sequence[str], tags: Sequence[str], model: str
) -> "JsonLines | CsvTable | JamsFolder":
    """The results at a place, to write more of them. Nothing there is changed yet.

    Args:
        place: A file that ends in .jsonl, .json or .csv; anything else is a folder.
        paths: The files that are to be tagged.
        tags: Every tag of the model.
        model: Its name.

    Returns:
        An object with `is_new` (nothing is there), `done` (paths that have tags there),
        `write(result)` and `close()`.

    Raises:
        ValueError: the place holds something else, or another model's results.
        ImportError: JAMS files without the package jams.
    """
    place = Path(place)
    if place.suffix in (".jsonl", ".json"):
        return JsonLines(place, model)
    if place.suffix == ".csv":
        return CsvTable(place, tags, model)
    return JamsFolder(place, paths, model)


class _File:
    """A file that is appended to, behind its last whole line."""

    def __init__(self, place: Path):
        self._place, self._file = place, None
        text = place.read_text("utf-8", "surrogateescape") if place.exists() else ""
        self.is_new = not text
        *self.lines, self.half = text.split("\n")

    def write(self, text: str) -> None:
        if self._file is None:
            if self.half:  # a killed run left it
                num_bytes = len(self.half.encode("utf-8", "surrogateescape"))
                os.truncate(self._place, self._place.stat().st_size - num_bytes)
            self._file = open(
                self._place, "a", encoding="utf-8", errors="surrogateescape", newline=""
            )
        self._file.write(text)
        self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()


class JsonLines:
    """A result a line."""

    def __init__(self, place: Path, model: str):
        self._file = _File(place)
        self.is_new, half = self._file.is_new, self._file.half
        try:
            rows = [json.loads(line) for line in self._file.lines]
            self.done = {row["path"] for row in rows if row["path"] and "tags" in row}
            models = {row["model"] for row in rows}
            if half and not half.startswith('{"path": '[: len(half)]):
                raise ValueError(half)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(place)!r} holds no lines of JSON of `tag`. Choose another"
                " --output."
            ) from error
        _check_model(place, models, model)

    def write(self, result: dict) -> None:
        """Appends a result."""
        self._file.write(as_line(result) + "\n")

    def close(self) -> None:
        """No more come."""
        self._file.close()


class CsvTable:
    """A row a file: path, model, a column per tag (empty below a threshold), error."""

    def __init__(self, place: Path, tags: Sequence[str], model: str):
        self._header = ["path", "model", *tags, "error"]
        self._file = _File(place)
        self.is_new = self._file.is_new
        rows = list(csv.reader(line + "\n" for line in self._file.lines))
        if not self.is_new and rows[:1] != [self._header]:
            raise ValueError(
                f"{str(place)!r} is no table of `tag` with this model's tags. Choose"
                " another --output."
            )
        _check_model(place, {row[1] for row in rows[1:]}, model)
        self.done = {row[0] for row in rows[1:] if not row[-1]}
        self._rows = csv.DictWriter(self._file, self._header, lineterminator="\n")

    def write(self, result: dict) -> None:
        """Appends a result."""
        if not self._file.lines:
            self._file.lines.append("")
            self._rows.writeheader()
        row = {**result, **result.get("tags", {})}
        self._rows.writerow({name: row.get(name, "") for name in self._header})

    def close(self) -> None:
        """No more come."""
        self._file.close()


class JamsFolder:
    """A .jams file per audio file: namespace tag_open, confidence the score.

    Files keep their place below the working folder, others below the root.
    """

    def __init__(self, place: Path, paths: Sequence[str], model: str):
        try:
            import jams
        except ImportError as error:
            raise ImportError(
                "JAMS files need the package jams: pip install jams."
            ) from error
        self._jams, self._model, self._place = jams, model, place
        self.is_new, self.done, models = True, set(), set()
        for path in paths:
            target = self._target(path)
            if target.exists():
                self.is_new = False
                self.done.add(path)
                models.add(_model_of(target))
        _check_model(place, models, model)

    def write(self, result: dict) -> None:
        """Writes a result's own file; one with an error has none."""
        if "error" in result:
            return
        jams, seconds = self._jams, result["seconds"]
        annotation = jams.Annotation(
            "tag_open",
            time=0,
            duration=seconds,
            annotation_metadata=jams.AnnotationMetadata(
                annotator={"model": self._model},
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
        target = self._target(result["path"])
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(target, jam.dumps(indent=2))

    def close(self) -> None:
        """No more come."""

    def _target(self, path: str) -> Path:
        full = Path(os.path.abspath(path))
        here = Path.cwd()
        below = here if full.is_relative_to(here) else full.anchor
        relative = full.relative_to(below)
        return self._place / relative.with_name(f"{relative.name}.jams")


def as_line(result: dict) -> str:
    """A result as a line of JSON."""
    return json.dumps(result, ensure_ascii=False)


def _model_of(jam: Path) -> str:
    try:
        (annotation,) = json.loads(jam.read_text("utf-8"))["annotations"]
        return annotation["annotation_metadata"]["annotator"]["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(jam)!r} is no JAMS file of `tag`. Choose another --output."
        ) from error


def _check_model(place: Path, models: set[str], model: str) -> None:
    if models - {model}:
        raise ValueError(
            f"{str(place)!r} holds results of {', '.join(sorted(models - {model}))},"
            f" not {model}. Choose another --output."
        )
