"""What `tag` leaves on disk: lines of JSON, a CSV table, or a JAMS file per audio file.

    {"path", "model", "seconds", "tags": {name: score}}  or  {"path", "model", "error"}

is a result. Each is on disk before the next file is tagged, so that an interrupted run
is gone on with: files that have tags there are left out, those with an error are tried
again (their later result counts).
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
    """The results at a place, to write more of them.

    Args:
        place: A file that ends in .jsonl, .json or .csv; anything else is a folder.
        paths: All files that are to be tagged, those done before too.
        tags: Every tag of the model.
        model: Its name.

    Raises:
        ValueError: the place holds something else.
        ImportError: JAMS files without the package jams.
    """
    place = Path(place)
    if place.suffix in (".jsonl", ".json"):
        return JsonLines(place, model)
    if place.suffix == ".csv":
        return CsvTable(place, tags)
    return JamsFolder(place, paths, model)


class JsonLines:
    """A result a line.

    Attributes:
        done: Paths of the files that have tags.
    """

    def __init__(self, place: Path, model: str):
        *lines, half = _lines(place)
        try:
            rows = [json.loads(line) for line in lines]
            self.done = {row["path"] for row in rows if row["path"] and "tags" in row}
            models = {row["model"] for row in rows}
            if half and not half.startswith('{"path": '[: len(half)]):
                raise ValueError(half)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(place)!r} holds no lines of JSON of `tag`. Choose another"
                " --output."
            ) from error
        if models - {model}:
            raise ValueError(
                f"{str(place)!r} holds results of {', '.join(sorted(models))}, not"
                f" {model}. Choose another --output."
            )
        self._file = _open_behind(place, half)

    def write(self, result: dict) -> None:
        """Appends a result."""
        self._file.write(as_line(result) + "\n")
        self._file.flush()

    def close(self) -> None:
        """No more come."""
        self._file.close()


class CsvTable:
    """A row a file: path, a column per tag (empty below a threshold), error.

    Attributes:
        done: Paths of the files that have tags.
    """

    def __init__(self, place: Path, tags: Sequence[str]):
        header = ["path", *tags, "error"]
        *lines, half = _lines(place)
        rows = list(csv.reader(line + "\n" for line in lines))
        if rows[:1] not in ([], [header]) or (half and not rows and place.exists()):
            raise ValueError(
                f"{str(place)!r} is no table of `tag` with this model's tags. Choose"
                " another --output."
            )
        self.done = {row[0] for row in rows[1:] if not row[-1]}
        self._file = _open_behind(place, half)
        self._rows = csv.DictWriter(self._file, header, lineterminator="\n")
        if not rows:
            self._rows.writeheader()

    def write(self, result: dict) -> None:
        """Appends a result."""
        error = result.get("error", "")
        row = {"path": result["path"], **result.get("tags", {}), "error": error}
        self._rows.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """No more come."""
        self._file.close()


class JamsFolder:
    """A .jams file beside none of the music: namespace tag_open, confidence the score.

    Files keep their place below the folder that they have in common.

    Attributes:
        done: Paths of the files that have tags.
    """

    def __init__(self, place: Path, paths: Sequence[str], model: str):
        try:
            import jams
        except ImportError as error:
            raise ImportError(
                "JAMS files need the package jams: pip install jams."
            ) from error
        self._jams, self._model = jams, model
        common = os.path.commonpath(
            [os.path.dirname(os.path.abspath(p)) for p in paths]
        )
        self._targets = {
            path: place / (os.path.relpath(os.path.abspath(path), common) + ".jams")
            for path in paths
        }
        self.done = {path for path, target in self._targets.items() if target.exists()}

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
        target = self._targets[result["path"]]
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(target, jam.dumps(indent=2))

    def close(self) -> None:
        """No more come."""


def as_line(result: dict) -> str:
    """A result as a line of JSON."""
    return json.dumps(result, ensure_ascii=False)


def _lines(place: Path) -> list[str]:
    """The file's lines; the last is what stands behind the last line's end."""
    return (
        place.read_text("utf-8", "surrogateescape").split("\n")
        if place.exists()
        else [""]
    )


def _open_behind(place: Path, half: str):
    """The file, to be appended to, without a half line that a killed run left."""
    if half:
        os.truncate(
            place, place.stat().st_size - len(half.encode("utf-8", "surrogateescape"))
        )
    return open(place, "a", encoding="utf-8", errors="surrogateescape", newline="")
