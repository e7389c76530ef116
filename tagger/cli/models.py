"""The commands models: list, show, fetch, convert, average, export, share."""

import shutil
import textwrap
from pathlib import Path
from typing import Annotated

from tagger import inference, models, storage, weights
from tagger.cli.kinds import Force, Model, ModelOutput, check_distinct, check_files
from tagger.cli.planning import FLAGS
from tagger.datasets.annotations import read_tags
from tagger.models import registry
from tagger.models.metadata import EXPORT_FORMATS, ExportFormat, check_export_path
from tagger.options import Option, OptionsOf
from tagger.text import printable

_DATASETS = {"magnatagatune": "MTT", "million_song": "MSD", "mtg_jamendo": "Jamendo"}


def list_models() -> None:
    """Lists pretrained models, which tag music at once, and architectures to train."""
    print(_columns(_pretrained_rows()))
    print("✓ converted and run by us; MB of the download\n")
    print(_columns(_model_rows()))
    print(
        "Test ROC-AUC and PR-AUC, macro, as published; the splits differ between"
        " papers.\nMore of each: tagger models show NAME"
    )


def _short_name(dataset: str) -> str:
    name, _, further = dataset.partition(" ")
    return f"{_DATASETS.get(name, name)} {further}".strip()


def _pretrained_rows() -> list[list[str]]:
    rows = [["pretrained", "", "trained on", "tags", "ROC    PR-AUC", "MB"]]
    for name, found in weights.pretrained.PRETRAINED.items():
        rows.append(
            [
                name,
                "✓" if found.is_verified else "",
                _short_name(found.dataset),
                str(len(found.tags)),
                _scores(*found.scores) if found.scores else "–",
                f"{found.num_bytes / 1e6:.0f}",
            ]
        )
    return rows


def show(name: str) -> None:
    """Describes an architecture, a pretrained model or a model file.

    Args:
        name: Architecture or pretrained model, see tagger models list; or model file.
    """
    if name in weights.pretrained.PRETRAINED:
        print(_columns(_pretrained_description(weights.pretrained.entry(name))))
    elif name in registry.MODELS or (":" in name and "://" not in name):
        print(_columns(_description(registry.entry(name))))
    else:
        path = weights.path_of(name)
        print(printable(_columns(_file_description(path)), keep="\n"))


def _model_rows() -> list[list[str]]:
    rows = [["architecture", "segment", "parameters", "MTT", "MSD"]]
    for name, entry in registry.MODELS.items():
        best, facts = dict.fromkeys(_DATASETS, "–"), entry.facts
        for published in sorted(entry.published, key=lambda scores: scores.roc_auc):
            best[published.dataset] = _scores(published.roc_auc, published.pr_auc)
        rows.append(
            [
                name,
                f"{facts.num_samples / facts.sample_rate:.2f} s",
                f"{facts.num_parameters:,}",
                best["magnatagatune"],
                best["million_song"],
            ]
        )
    return rows


def _description(entry: registry.ModelEntry) -> list[list[str]]:
    facts = entry.facts
    rows = [
        [entry.name, entry.paper or "your own"],
        ["input", f"{facts.num_samples} samples at {facts.sample_rate} Hz"],
        ["frontend", facts.frontend],
        ["parameters", f"{facts.num_parameters:,} (trainable, with 50 tags)"],
        ["recipe", entry.recipe],
    ]
    for published in entry.published:
        scores = _scores(published.roc_auc, published.pr_auc)
        where = f"{published.dataset} ({published.split})"
        rows.append(["published", f"{where}, {scores}, {published.described()}"])
    for option in registry.options_of(entry.name).parameters.values():
        rows.append(["option", f"{option.name} = {option.default}: {option.help}"])
    for found in weights.pretrained.PRETRAINED.values():
        if found.model == entry.name:
            rows.append(["pretrained", f"{found.name}, licence {found.licence}"])
    return rows


def _pretrained_description(found: weights.pretrained.Pretrained) -> list[list[str]]:
    scores = _scores(*found.scores) if found.scores else "not published"
    return [
        [found.name, f"{found.model}, trained on {_short_name(found.dataset)}"],
        ["scores", f"{scores} (test ROC-AUC and PR-AUC, macro)"],
        ["tags", f"{len(found.tags)}: {', '.join(found.tags)}"],
        ["licence", found.licence],
        ["source", found.place],
        ["verified", "converted and run by us" if found.is_verified else "no"],
        ["size", f"{found.num_bytes / 1e6:.0f} MB"],
    ]


def _file_description(path: Path) -> list[list[str]]:
    """Returns what a model file says of itself, read without Keras."""
    info = models.files.read_info(path)
    segment = info.segmentation
    seconds = segment.num_samples / info.sample_rate
    tags = ", ".join(info.tags) if info.tags else "the file does not name them"
    return [
        [info.name, str(path)],
        [
            "input",
            f"{segment.num_samples} samples at {info.sample_rate} Hz, {seconds:.2f} s",
        ],
        ["tags", f"{info.num_tags}: {tags}"],
        ["thresholds", "one per tag" if info.thresholds else "none"],
        *([name, text] for name, text in (info.provenance or {}).items()),
    ]


def _scores(roc_auc: float, pr_auc: float | None) -> str:
    return f"{roc_auc:.4f}" + (f" {pr_auc:.4f}" if pr_auc else "")


def _columns(rows: list[list[str]]) -> str:
    """Returns a table; the last column wraps at the width of the terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    *fixed, _ = widths
    start = sum(fixed) + 2 * len(fixed)
    space = max(shutil.get_terminal_size().columns - start, 30)
    lines = []
    for *row, last in rows:
        cells = "".join(map("{:<{}}  ".format, row, fixed))
        wrapped = textwrap.wrap(last, space) or [""]
        lines.append(f"{cells}{wrapped[0]}".rstrip())
        lines += [" " * start + more for more in wrapped[1:]]
    return "\n".join(lines)


def fetch(name: Annotated[str, Option(metavar="NAME")]) -> None:
    """Downloads a pretrained model, for use without a network.

    Args:
        name: Pretrained model, see tagger models list.
    """
    weights.pretrained.entry(name)
    print(weights.path_of(name))


def convert(
    source: str,
    *,
    architecture: Annotated[
        str, Option(metavar="NAME", check="tagger.cli.planning:own_architecture")
    ],
    output: Annotated[str, Option(endings=(".keras",), writes=True)],
    tag_file: Annotated[str | None, Option(metavar="FILE")] = None,
    options: Annotated[
        dict,
        OptionsOf(
            "tagger.cli.planning:options_of_architecture",
            chosen=True,
            flags=FLAGS,
            owner="tagger.cli.planning:owner_of_model",
        ),
    ],
    force: Force = False,
) -> None:
    """Converts the weights of an original project.

    Args:
        source: .pth, .ckpt, .hdf5, .npz, or the folder of a TensorFlow 1 checkpoint.
        architecture: Model that the weights belong to; see tagger models list. Its
            options are needed only where names and shapes of the weights do not reveal
            them, such as --num-heads.
        output: File to write.
        tag_file: Tag names, one per line or as a JSON list; or mtt, msd, cals or
            jamendo: the names of that dataset, in the order of the model's authors.
    """
    storage.load_tensorflow()
    if tag_file:
        named = weights.pretrained.vocabulary(tag_file, architecture)
        options = options | {"tags": named or read_tags(tag_file)}
    model = weights.conversion.convert(
        weights.readers.read_weights(source), architecture, **options
    )
    models.export.save(model, output)
    info = models.model_info(model)
    names = f"named by {tag_file}" if tag_file else "in resemul's order"
    names = names if info.tags else "without names"
    print(
        f"{output}: {architecture}, {model.count_params():,} weights,"
        f" {info.num_tags} tags {names}, {info.sample_rate} Hz"
    )


def average(
    members: Annotated[list[Model], Option(metavar="MODEL")],
    *,
    output: ModelOutput,
    force: Force = False,
) -> None:
    """Averages the scores of several models in one, such as a teacher.

    Args:
        members: Model files or pretrained models; a tag that several know gets their
            mean score.
        output: File to write: .onnx, or .keras, such as a teacher of train.
    """
    check_distinct(members)
    info = weights.composition.average(members, output)
    print(printable(f"{output}: {info.num_tags} tags, {len(members)} models"))


def export(
    model: Annotated[Model, Option(metavar="MODEL")],
    *,
    to: ExportFormat,
    output: Annotated[str | None, Option(metavar="PATH", writes=True)] = None,
    force: Force = False,
) -> None:
    """Exports a model as SavedModel, LiteRT or ONNX.

    Args:
        to: Format of the export.
        output: Path to write; None: the model's name with the ending of the format, in
            the working directory.
    """
    if output is None:
        output = Path(model).stem + (EXPORT_FORMATS[to] or "_saved_model")
        named = [("--output", Option(writes=True), output), ("MODEL", Option(), model)]
        check_files(named, force)
    check_export_path(output, to)
    if to == "onnx":
        graph = weights.composition.graph_of(model)
        models.graphs.save(graph, output)
        info = models.graphs.info_of(graph)
    else:
        storage.load_tensorflow()
        loaded = weights.load(model)
        models.export.export(loaded, output, to, force)
        info = models.model_info(loaded)
    batch = 1 if to == "litert" else "batch"
    print(
        f"{output}: waveforms [{batch}, {info.segmentation.num_samples}] at"
        f" {info.sample_rate} Hz -> scores [{batch}, {info.num_tags}]"
    )


def share(
    model: Annotated[Model, Option(metavar="MODEL")],
    name: Annotated[str, Option(metavar="hf://USER/NAME")],
    *,
    evaluation: Annotated[tuple[str, ...], Option(metavar="FILE", repeats=True)] = (),
    private: bool = False,
    replace_card: bool = False,
    dry_run: bool = False,
) -> None:
    """Uploads a model with its card to Hugging Face's hub.

    Args:
        model: Model file or pretrained model.
        name: Repository on the hub.
        evaluation: Scores of this model that eval.py --output FILE.json wrote; may be
            repeated.
        private: Make a new repository private.
        replace_card: Replace the card if the repository has one.
        dry_run: Print the card, and upload nothing.
    """
    if dry_run:
        print(weights.cards.card(model, evaluation), end="")
        return
    url = inference.sharing.share(model, name, evaluation, private, replace_card)
    print(printable(f"Shared: {url}"))
