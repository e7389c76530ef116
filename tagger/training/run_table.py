"""A table of runs: how good they are, and in which settings they differ.

folders of runs ─▶ settings (runs that differ in the seed alone) ─▶ text, best first
"""

import dataclasses
import json
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tagger.text import TaggerError
from tagger.training.recipes import Stage, TrainingRecipe, settings
from tagger.training.runs import RunFolder, badness, read_description

_NOT_SETTINGS = ("seed", "versions", "git", "arguments")
_TITLES = {"rho": "rho", "roc_auc": "ROC", "pr_auc": "PR"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that a folder holds.

    Attributes:
        folder: Folder of the run.
        record: What run.json says of it, but for the seed, versions and paths.
        facts: The same, flat and shortened for people.
        scores: Macro scores of the best checkpoint, by split and metric; empty until a
            stage is finished.
        progress: How far an unfinished run is; empty if it is finished.
    """

    folder: Path
    record: dict
    facts: dict[str, str]
    scores: dict[tuple[str, str], float]
    progress: str

    @classmethod
    def of(cls, folder: Path) -> "Run":
        """Reads a run.

        Raises:
            ValueError: the folder holds no run.json, or another project's.
        """
        held, place = RunFolder(folder), folder / "run.json"
        if not place.is_file():
            raise TaggerError(f"{folder} holds no run: there is no run.json.")
        record = read_description(place, "Give folders of runs.")
        noted = record.get("arguments", {})
        record = {k: v for k, v in record.items() if k not in _NOT_SETTINGS}
        num_stages = len(record["recipe"]["stages"])
        stages = [held.stage(number) for number in range(num_stages)]
        done = [stage for stage in stages if stage.is_finished]
        scores, scored = {}, [stage for stage in done if stage.checkpoints()]
        if scored:
            best = min(scored, key=lambda stage: min(map(badness, stage.checkpoints())))
            result = json.loads(best.result_path.read_text(encoding="utf-8"))
            scores = {
                (split, name): result[split][name]
                for split in ("val", "test")
                for name in _TITLES
                if result.get(split, {}).get(name) is not None
            }
        progress = ""
        if not held.model_path.exists():
            progress = f"{len(done)} of {num_stages} stages"
        stages = tuple(Stage(**one) for one in record["recipe"]["stages"])
        recipe = settings(TrainingRecipe(**record["recipe"] | {"stages": stages}))
        told = record | {"recipe": {"name": noted.get("recipe", "")} | recipe}
        return cls(folder, record, _flat(told), scores, progress)


def _flat(facts: dict, place: str = "") -> dict[str, str]:
    """Returns nested values by their place, such as recipe.batch_size."""
    found = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{place}{name}.")
        elif name in ("checksum", "digest"):
            found[f"{place}{name}"] = str(value)[:8]
        elif isinstance(value, float):
            found[f"{place}{name}"] = f"{value:.4g}"
        else:
            found[f"{place}{name}"] = str(value)
    return found


def table(folders: Sequence[Path]) -> str:
    """Returns a table of runs, the highest validation score first.

    Args:
        folders: Folders of runs; runs that differ in the seed alone share a row, with
            the mean and the standard deviation of their scores.

    Raises:
        ValueError: see `Run.of`.
    """
    same = {}
    for run in map(Run.of, folders):
        same.setdefault(json.dumps(run.record, sort_keys=True), []).append(run)
    rows = list(same.values())
    names = dict.fromkeys(name for row in rows for name in row[0].facts)
    differing = [n for n in names if len({row[0].facts.get(n) for row in rows}) > 1]
    columns = [
        (split, name)
        for split in ("val", "test")
        for name in _TITLES
        if any((split, name) in run.scores for row in rows for run in row)
    ]
    rows.sort(key=lambda row: [-_mean(row, column) for column in columns])
    facts, shared = rows[0][0].facts, ("model.name", "data.dataset", "data.split_rule")
    told = [facts[name] for name in shared if name not in differing]
    lines = textwrap.wrap(", ".join(told), 80)
    heading = "".join(f"{split} {_TITLES[name]}".ljust(13) for split, name in columns)
    lines.append(f"{heading}runs")
    for row in rows:
        scores = "".join(_spread(row, column).ljust(13) for column in columns)
        of_row = (
            f"{run.folder} ({run.progress})" if run.progress else str(run.folder)
            for run in row
        )
        lines.append(f"{scores}{' '.join(of_row)}")
        facts = [
            f"{_short(name)}={row[0].facts[name]}"
            for name in differing
            if name != "model.num_parameters" and name in row[0].facts
        ]
        indent = "    "
        lines += textwrap.wrap(
            "  ".join(facts), 80, initial_indent=indent, subsequent_indent=indent
        )
    return "\n".join(lines)


def _short(name: str) -> str:
    """Returns a place without the room that says nothing: batch_size, data.dataset."""
    room, _, rest = name.partition(".")
    return rest if room in ("recipe", "model") and rest != "name" else name


def _mean(runs: Sequence[Run], column: tuple[str, str]) -> float:
    found = [run.scores[column] for run in runs if column in run.scores]
    return statistics.fmean(found) if found else 0.0


def _spread(runs: Sequence[Run], column: tuple[str, str]) -> str:
    """Returns .811 ± .004, without the deviation if there is one run."""
    found = [run.scores[column] for run in runs if column in run.scores]
    if not found:
        return "–"
    mean = f"{statistics.fmean(found):.3f}".lstrip("0")
    if len(found) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(found):.3f}".replace("± 0", "± ")
