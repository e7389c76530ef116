"""A table of runs: how good they are, and in which settings they differ.

folders of runs ─▶ settings (runs that differ in the seed alone) ─▶ text, best first
"""

import dataclasses
import json
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tagger.training.recipes import Stage, TrainingRecipe, settings
from tagger.training.runs import RunFolder, badness, read_description

_NOT_SETTINGS = ("seed", "versions", "git", "arguments")
_NOT_TOLD = ("data.checksum", "model.num_parameters")
_TITLES = {"roc_auc": "ROC", "pr_auc": "PR", "rho": "rho"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that a folder holds.

    Attributes:
        folder: Folder of the run.
        facts: Settings of the run but for the seed, by their place in run.json.
        scores: Macro scores of the best checkpoint, by split and metric; empty until a
            stage is finished.
        progress: How far an unfinished run is; empty if it is finished.
    """

    folder: Path
    facts: dict[str, object]
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
            raise ValueError(f"{folder} holds no run: there is no run.json.")
        description = read_description(place)
        num_stages = len(description["recipe"]["stages"])
        stages = [held.stage(number) for number in range(num_stages)]
        done = [stage for stage in stages if stage.is_finished]
        scores = {}
        if done:
            best = min(done, key=lambda stage: min(map(badness, stage.checkpoints())))
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
        facts = {k: v for k, v in description.items() if k not in _NOT_SETTINGS}
        stages = tuple(Stage(**one) for one in facts["recipe"].pop("stages"))
        recipe = TrainingRecipe(**facts["recipe"], stages=stages)
        facts = _flat(facts | {"recipe": settings(recipe)})
        return cls(folder, facts, scores, progress)


def _flat(facts: dict, place: str = "") -> dict[str, object]:
    """Returns nested values by their place, such as recipe.batch_size."""
    found = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{place}{name}.")
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
    settings = {}
    for run in map(Run.of, folders):
        settings.setdefault(json.dumps(run.facts, sort_keys=True), []).append(run)
    rows = list(settings.values())
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
        folders = (f"{r.folder} ({r.progress})" if r.progress else str(r.folder)
                   for r in row)  # fmt: skip
        lines.append(f"{scores}{' '.join(folders)}")
        of_row = [
            f"{name.rpartition('.')[2]}={row[0].facts[name]}"
            for name in differing
            if name not in _NOT_TOLD and name in row[0].facts
        ]
        indent = "    "
        lines += textwrap.wrap(
            "  ".join(of_row), 80, initial_indent=indent, subsequent_indent=indent
        )
    return "\n".join(lines)


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
