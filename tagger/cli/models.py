"""The commands models, pretrained, convert, average, card, share and export."""

import argparse
from pathlib import Path

from tagger import inference, models, storage, weights
from tagger.cli.arguments import (
    OptionGroup,
    add_force,
    at_least_one,
    check_outputs,
    keras_file,
    model_name,
    model_names,
    model_output,
    output_file,
)
from tagger.datasets.annotations import read_tags
from tagger.models import registry
from tagger.models.metadata import EXPORT_FORMATS, check_export_path
from tagger.storage import load_tensorflow
from tagger.text import printable

_DATASETS = {"magnatagatune": "MTT", "million_song": "MSD", "mtg_jamendo": "Jamendo"}


def add_models(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of models."""
    parser.add_argument(
        "name",
        nargs="?",
        help="model to describe, with its options and results, or a model file",
    )


def list_models(args: argparse.Namespace) -> None:
    """Lists the models, or describes one."""
    if args.name and args.name.endswith((".keras", ".onnx")):
        if not Path(args.name).is_file():
            raise FileNotFoundError(f"There is no model file {args.name!r}.")
        print(printable(_columns(_file_description(args.name)), keep="\n"))
    elif args.name:
        print(_columns(_description(registry.entry(args.name))))
    else:
        print(_columns(_model_rows()))
        print(
            "Published test ROC-AUC and PR-AUC of the best configuration; the splits"
            " differ between papers.\nOptions of a model: tagger models NAME"
        )


def _model_rows() -> list[list[str]]:
    heading = ["model", "Hz", "segment", "frontend", "parameters", *_DATASETS.values()]
    rows = [[*heading, "recipe", "paper"]]
    for name, entry in registry.MODELS.items():
        best, facts = dict.fromkeys(_DATASETS, "–"), entry.facts
        for published in sorted(entry.published, key=lambda scores: scores.roc_auc):
            best[published.dataset] = _scores(published.roc_auc, published.pr_auc)
        rows.append(
            [
                name,
                str(facts.sample_rate),
                f"{facts.num_samples / facts.sample_rate:.2f} s",
                facts.frontend,
                f"{facts.num_parameters:,}",
                *best.values(),
                entry.recipe,
                entry.paper.split(", http")[0],
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
        configuration = [f"{key} {value}" for key, value in published.options.items()]
        scores = _scores(published.roc_auc, published.pr_auc)
        words = [published.dataset, scores, *configuration, published.source]
        rows.append(["published", ", ".join(words)])
    for key, value in registry.default_options(entry.name).items():
        rows.append(["option", f"{key} = {value}"])
    for found in weights.pretrained.PRETRAINED.values():
        if found.model == entry.name:
            rows.append(["pretrained", f"{found.name}, licence {found.licence}"])
    return rows


def _file_description(path: str) -> list[list[str]]:
    """Returns what a model file says of itself, read without Keras."""
    info = models.files.read_info(path)
    segment = info.segmentation
    seconds = segment.num_samples / info.sample_rate
    tags = ", ".join(info.tags) if info.tags else "the file does not name them"
    return [
        [info.name, path],
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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(map("{:<{}}".format, row, widths)).rstrip() for row in rows
    )


def add_pretrained(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of pretrained."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="model to download, for offline use"
    )


def get_pretrained(args: argparse.Namespace) -> None:
    """Lists the pretrained models, or downloads one."""
    if not args.name:
        print(weights.pretrained.listing())
        return
    weights.pretrained.entry(args.name)
    print(weights.path_of(args.name))


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of convert."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help=".pth, .ckpt, .hdf5, .npz, or the folder of a TensorFlow 1 checkpoint",
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="NAME",
        choices=tuple(registry.MODELS),
        help="model that the weights belong to; see tagger models",
    )
    add(
        "--output",
        required=True,
        type=keras_file,
        metavar="FILE.keras",
        help="file to write",
    )
    add(
        "--tags",
        default=None,
        metavar="FILE",
        help="tag names, one per line or as a JSON list; or mtt, msd, cals or jamendo:"
        " the names of that dataset, in the order of the model's authors",
    )
    parser.add_argument("--force", action="store_true", default=False,
                        help="overwrite existing files")  # fmt: skip
    group = parser.add_argument_group(
        "model", "options that names and shapes of the weights do not reveal"
    )
    options = OptionGroup(group)
    options.add(
        "--front-end", choices=["pons", "lee"], help="front end of self_attention"
    )
    options.add(
        "--back-end", choices=["attention", "cnn"], help="back end of self_attention"
    )
    options.add(
        "--num-heads", type=at_least_one, help="number of attention heads (default: 8)"
    )
    parser.set_defaults(options=options)


def convert_weights(args: argparse.Namespace) -> None:
    """Converts the weights of an original project."""
    check_outputs(args, "output")
    load_tensorflow()
    known = list(registry.default_options(args.model))
    options = args.options.values(known, args, f"model {args.model}")
    if args.tags:
        options["tags"] = weights.pretrained.vocabulary(args.tags, args.model)
        options["tags"] = options["tags"] or read_tags(args.tags)
    model = weights.conversion.convert(
        weights.readers.read_weights(args.source), args.model, **options
    )
    models.export.save(model, args.output)
    info = models.model_info(model)
    names = f"named by {args.tags}" if args.tags else "in resemul's order"
    names = names if info.tags else "without names"
    print(
        f"{args.output}: {args.model}, {model.count_params():,} weights,"
        f" {info.num_tags} tags {names}, {info.sample_rate} Hz"
    )


def add_average(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of average."""
    parser.add_argument(
        "members",
        type=model_names,
        metavar="MODEL,MODEL",
        help="model files or pretrained models; a tag that several know gets their mean"
        " score",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=model_output,
        metavar="FILE",
        help="file to write: .onnx, or .keras, such as a teacher of train",
    )
    add_force(parser)


def average(args: argparse.Namespace) -> None:
    """Averages the scores of several models in one."""
    check_outputs(args, "output")
    info = weights.composition.average(args.members, args.output)
    number = len(args.members)
    print(printable(f"{args.output}: {info.num_tags} tags, {number} models"))


def add_card(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of card."""
    parser.add_argument(
        "model",
        type=model_name,
        metavar="MODEL",
        help="pretrained model, or model file",
    )
    add = parser.add_argument
    _add_evaluations(add)
    add(
        "--output",
        type=output_file,
        metavar="FILE",
        help="file to write (default: standard output)",
    )
    add_force(parser)


def write_card(args: argparse.Namespace) -> None:
    """Writes the card of a model."""
    check_outputs(args, "output")
    text = weights.cards.card(args.model, args.evaluation)
    if args.output:
        with storage.replacing(args.output) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        print(printable(f"Card: {args.output}"))
    else:
        print(text, end="")


def add_share(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of share."""
    add = parser.add_argument
    add(
        "model",
        type=model_name,
        metavar="MODEL",
        help="pretrained model, or model file",
    )
    add("name", metavar="hf://USER/NAME", help="repository on Hugging Face's hub")
    _add_evaluations(add)
    add("--private", action="store_true", help="make a new repository private")
    add(
        "--replace-card",
        action="store_true",
        help="replace the card if the repository has one",
    )


def share(args: argparse.Namespace) -> None:
    """Uploads a model to the hub."""
    url = inference.sharing.share(
        args.model, args.name, args.evaluation, args.private, args.replace_card
    )
    print(printable(f"Shared: {url}"))


def _add_evaluations(add) -> None:
    add(
        "--evaluation",
        action="append",
        default=[],
        metavar="FILE",
        help="scores of this model that eval.py --json FILE wrote; may be repeated",
    )


def add_export(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of export."""
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        type=model_name,
        help="model file (.keras, .hdf5) or name of a pretrained model",
    )
    add(
        "--to",
        required=True,
        choices=tuple(EXPORT_FORMATS),
        help="format of the export",
    )
    add(
        "--output",
        metavar="PATH",
        help="path to write (default: the model's name with the ending of the format,"
        " in the working directory)",
    )
    add_force(parser)


def export_model(args: argparse.Namespace) -> None:
    """Exports a model."""
    ending = EXPORT_FORMATS[args.to]
    if args.output is None:
        args.output = Path(args.model).stem + (ending or "_saved_model")
    check_export_path(args.output, args.to)
    check_outputs(args, "output")
    if args.to == "onnx":
        graph = weights.composition.graph_of(args.model)
        models.graphs.save(graph, args.output)
        info = models.graphs.info_of(graph)
    else:
        load_tensorflow()
        model = weights.load(args.model)
        models.export.export(model, args.output, args.to, args.force)
        info = models.model_info(model)
    batch = 1 if args.to == "litert" else "batch"
    print(
        f"{args.output}: waveforms [{batch}, {info.segmentation.num_samples}] at"
        f" {info.sample_rate} Hz -> scores [{batch}, {info.num_tags}]"
    )
