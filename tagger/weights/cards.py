"""Model cards: what a model file says of itself, as Markdown for people and hubs.

name of a pretrained model, or model file ─▶ facts ─▶ text

The front matter is that of Hugging Face's hub
(https://huggingface.co/docs/hub/model-cards). Nothing here loads Keras, and pretrained
models need not be downloaded.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from tagger import validation
from tagger.models import registry
from tagger.models.files import read_info
from tagger.models.metadata import ModelInfo
from tagger.text import TaggerError, printable
from tagger.validation import Name
from tagger.weights import hub
from tagger.weights.pretrained import (
    PRETRAINED,
    ByHand,
    Pretrained,
    Shipped,
    path_of,
)

TITLES = {
    "magnatagatune": "MagnaTagATune",
    "million_song": "Million Song Dataset",
    "million_song (CALS)": "Million Song Dataset, CALS split",
    "mtg_jamendo": "MTG-Jamendo",
    "open music": "openly licensed music, scored by a teacher",
}
VOCABULARIES = {
    "magnatagatune": "instruments, voices, tempo and broad genres",
    "million_song": "genres, decades and moods, as listeners of Last.fm call them",
    "million_song (CALS)": "genres and decades, trained on the cleaned CALS labels",
    "mtg_jamendo": "genres, instruments and moods of independent music",
    "open music": "instruments, voices, genres, decades and moods",
}
MEASURED_PATH = Path(__file__).parent / "measured.csv"
LIMITS = """\
## Limits

The model knows only these tags, from the kind of music that it was trained on; accuracy
on other music can be far lower. Scores of different tags have different scales: compare
songs, not tags."""
_LICENCE_IDS = {"ISC": "isc", "MIT": "mit"}  # of Hugging Face's hub
_MAX_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Score:
    """A macro score in a card.

    Attributes:
        dataset: Data that was scored, such as a key of `datasets.DATASETS`.
        split: Split, and how it was made.
        roc_auc, pr_auc: Macro means over the tags; PR-AUC may be None.
        source: Who measured it.
    """

    dataset: str
    split: str
    roc_auc: float
    pr_auc: float | None
    source: str

    @property
    def dataset_title(self) -> str:
        """Name of the dataset for people."""
        return TITLES.get(self.dataset, self.dataset)


def card(
    model: str | os.PathLike,
    evaluations: Sequence[str | os.PathLike] = (),
    reference: str | None = None,
) -> str:
    """Returns the card of a model.

    Args:
        model: Name of a pretrained model, or a `.keras` file.
        evaluations: Files that `eval.py --output FILE.json` wrote for this model; the
            card then states their scores.
        reference: Repository hf://user/name for which the card is; None: the card is
            for the file.

    Raises:
        ValueError: the file is no model of this project, or no such evaluation.
        OSError: a file cannot be read.
    """
    measured = [_read_evaluation(path) for path in evaluations]
    if model in PRETRAINED:
        facts = _facts_of_pretrained(PRETRAINED[model])
    else:
        facts = _facts_of_file(read_info(path_of(model)), str(model))
    if reference or hub.is_hub_name(model):
        named = reference or str(model)
        title = hub.Repository.of(named).repo_id.rpartition("/")[2]
        facts = dataclasses.replace(facts, name=title, reference=named, origin="")
    facts = dataclasses.replace(facts, scores=(*facts.scores, *measured))
    parts = [
        _front_matter(facts),
        f"# {_cell(facts.name)}",
        facts.summary,
        _table(facts),
        facts.when and f"## Take it when\n\n{facts.when}",
        _usage(facts),
        facts.scores and f"## Scores\n\n{_score_table(facts.scores)}",
        f"## Tags, in the order of the scores\n\n{_tag_table(facts)}",
        LIMITS,
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What a card says of a model; what is empty or None is left out."""

    name: str
    reference: str
    network: str
    paper: str
    sample_rate: int
    num_samples: int
    num_tags: int
    tags: tuple[str, ...]
    licence: str | None
    provenance: dict[str, str]
    hop_samples: int | None = None
    thresholds: tuple[float, ...] | None = None
    summary: str = ""
    dataset_title: str = ""
    commands: Sequence[str] = ()
    origin: str = ""
    when: str = ""
    scores: tuple[Score, ...] = ()


def _facts_of_pretrained(found: Pretrained) -> _Facts:
    scores = _measured(found.name)
    if found.scores:
        source = f"published, {found.repository}"
        dataset = found.dataset.partition(" ")[0]
        scores = (Score(dataset, "test", *found.scores, source), *scores)
    known = {
        "name": found.name,
        "reference": found.name,
        "licence": found.licence,
        "summary": f"A tagger of {VOCABULARIES.get(found.dataset, 'music')}.",
        "dataset_title": TITLES.get(found.dataset, found.dataset),
        "origin": _origin(found),
        "when": _when(found),
        "scores": scores,
    }
    if isinstance(found.source, Shipped):
        facts = _facts_of_file(read_info(found.source.path), found.name)
        return dataclasses.replace(facts, **known)
    if isinstance(found.source, ByHand):
        known |= {"commands": found.source.commands, "reference": found.source.model}
    entry = registry.entry(found.model)
    verified = "converted, run and compared with the original by us"
    unproven = "not converted by us yet: see the limits in the documentation"
    return _Facts(
        network=found.model,
        paper=entry.paper,
        sample_rate=entry.facts.sample_rate,
        num_samples=entry.facts.num_samples,
        num_tags=len(found.tags),
        tags=found.tags,
        provenance={"state": verified if found.is_verified else unproven},
        **known,
    )


def _facts_of_file(info: ModelInfo, path: str) -> _Facts:
    provenance = dict(info.provenance or {})
    licence = provenance.pop("licence", None)
    provenance.pop("network", None)
    network = registry.MODELS.get(info.architecture)
    return _Facts(
        name=Path(path).stem,
        reference=Path(path).name,
        network=info.architecture,
        paper=network.paper if network else "",
        sample_rate=info.sample_rate,
        num_samples=info.segmentation.num_samples,
        hop_samples=info.segmentation.hop_samples,
        num_tags=info.num_tags,
        tags=info.tags or (),
        thresholds=info.thresholds,
        licence=licence,
        provenance=provenance,
    )


def _measured(name: str) -> tuple[Score, ...]:
    """Returns the scores that we measured for a pretrained model."""
    with MEASURED_PATH.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.pop("name") == name]
    aucs = ("roc_auc", "pr_auc")
    return tuple(Score(**row | {key: float(row[key]) for key in aucs}) for row in rows)


def _origin(found: Pretrained) -> str:
    if isinstance(found.source, Shipped):
        return "in this package"
    if found.repository == "PyPI":
        return "in the wheel of the package musicnn"
    return f"https://github.com/{found.repository}"


def _when(found: Pretrained) -> str:
    """Says in a sentence who this model is for."""
    asked = f"You want {VOCABULARIES.get(found.dataset, 'music tags')}"
    if isinstance(found.source, Shipped):
        return f"{asked}, at once and offline: it is small and comes with the package."
    million = registry.entry(found.model).facts.num_parameters / 1e6
    size = f"The network has {million:.1f} million weights."
    if found.is_verified:
        return f"{asked}, from weights that have been checked. {size}"
    return f"{asked}, and can check the scores on your own data first. {size}"


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The part of `Evaluation.as_json` that a card takes."""

    dataset: Name
    split: Name
    split_rule: str
    roc_auc: float
    pr_auc: float | None


def _read_evaluation(path: str | os.PathLike) -> Score:
    then = "Give a file that eval.py --output FILE.json wrote."
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no {str(path)!r}. {then}")
    validation.check_regular(path)
    if os.path.getsize(path) > _MAX_BYTES:
        raise TaggerError(f"{str(path)!r} is too large for an evaluation. {then}")
    found = validation.parse(Path(path).read_bytes(), _Evaluation, path, then)
    split = f"{found.split} ({found.split_rule})"
    return Score(
        found.dataset, split, found.roc_auc, found.pr_auc, "measured with eval.py"
    )


# --- Text -----------------------------------------------------------------------------


def _front_matter(facts: _Facts) -> str:
    """Returns the YAML for the hub. JSON is YAML, so texts cannot break out."""
    licence = _LICENCE_IDS.get(facts.licence, "other")
    held = {"license": licence}
    if licence == "other":
        held["license_name"] = facts.licence or "unknown"
    held |= {
        "library_name": "onnx" if facts.reference.endswith(".onnx") else "keras",
        "pipeline_tag": "audio-classification",
        "tags": ["music", "music-tagging", "audio-classification"],
    }
    if facts.scores:
        results = list(map(_result, facts.scores))
        held["model-index"] = [{"name": facts.name, "results": results}]
    lines = [f"{key}: {json.dumps(value)}" for key, value in held.items()]
    return "\n".join(["---", *lines, "---"])


def _result(score: Score) -> dict:
    metrics = [
        {"type": "roc_auc", "name": "macro ROC-AUC", "value": score.roc_auc},
        {"type": "average_precision", "name": "macro PR-AUC", "value": score.pr_auc},
    ]
    return {
        "task": {"type": "audio-classification", "name": "music auto-tagging"},
        "dataset": {
            "type": score.dataset,
            "name": score.dataset_title,
            "split": score.split,
        },
        "metrics": [metric for metric in metrics if metric["value"]],
        "source": {"name": score.source},
    }


def _table(facts: _Facts) -> str:
    seconds = facts.num_samples / facts.sample_rate
    hop = ""
    if facts.hop_samples not in (None, facts.num_samples):
        hop = f" every {facts.hop_samples}"
    trained_on = facts.dataset_title or facts.provenance.get("data")
    rows = {
        "network": ", ".join(filter(None, (facts.network, facts.paper))),
        "input": f"waveform, {facts.sample_rate} Hz, segments of {facts.num_samples}"
        f" samples ({seconds:.2f} s){hop}",
        "output": f"{len(facts.tags) or facts.num_tags} scores, not probabilities; a"
        " song's score is the mean over its segments",
        "trained on": trained_on or "the file does not say",
        "licence of the weights": facts.licence or "not stated",
        **facts.provenance,
        "published": facts.origin,
    }
    lines = [f"| {_cell(key)} | {_cell(row)} |" for key, row in rows.items() if row]
    return "\n".join(["| | |", "|---|---|", *lines])


def _usage(facts: _Facts) -> str:
    by_hand = "Download the file yourself; we have not tried its address.\n\n"
    commands = [*facts.commands, f"tagger tag song.mp3 --model {facts.reference}"]
    shell = "\n".join(["```", *commands, "```"])
    python = (
        "```python\nfrom tagger import Tagger\n\n"
        f"Tagger.from_pretrained({json.dumps(facts.reference)})"
        '.tag("song.mp3")\n```'
    )
    intro = by_hand if facts.commands else ""
    return f"## Use it\n\n{intro}{shell}\n\n{python}"


def _score_table(scores: Sequence[Score]) -> str:
    lines = ["| dataset | split | ROC-AUC | PR-AUC | source |", "|---|---|---|---|---|"]
    for score in scores:
        pr_auc = f"{score.pr_auc:.4f}" if score.pr_auc else "–"
        cells = (score.dataset_title, score.split, f"{score.roc_auc:.4f}", pr_auc)
        lines.append(f"| {' | '.join(map(_cell, (*cells, score.source)))} |")
    return "\n".join(lines)


def _tag_table(facts: _Facts) -> str:
    if not facts.tags:
        return "The file does not name them."
    heading = "| | tag | threshold |" if facts.thresholds else "| | tag |"
    lines = [heading, "|---" * (heading.count("|") - 1) + "|"]
    for number, tag in enumerate(facts.tags):
        limit = f" {facts.thresholds[number]:.4f} |" if facts.thresholds else ""
        lines.append(f"| {number} | {_cell(tag)} |{limit}")
    return "\n".join(lines)


def _cell(value: object) -> str:
    """Escapes text for a cell of a Markdown table."""
    return printable(str(value)).replace("\\", "\\\\").replace("|", "\\|")
