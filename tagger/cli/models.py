"""models, pretrained, convert, export: what there is, and how it gets here."""

import argparse
from pathlib import Path

from tagger.cli.arguments import OptionGroup, at_least_one, keras_file
from tagger.cli.process import load_tensorflow


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds this module's commands."""
    _add_pretrained(commands)
    _add_models(commands)
    _add_convert(commands)
    _add_export(commands)


def _add_models(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("models", help="list the models, or describe one")
    parser.add_argument("name", nargs="?", help="one model: its options and scores")
    parser.set_defaults(call=_models)


def _models(args: argparse.Namespace) -> int:
    load_tensorflow()
    from tagger import models
    from tagger.weights import pretrained

    if args.name:
        options = models.default_options(args.name)
        facts = _facts(args.name, models.entry(args.name), options)
        for name, found in pretrained.PRETRAINED.items():
            if found.model == args.name:
                facts.append(["pretrained", f"{name}, licence {found.licence}"])
        print(_columns(facts))
    else:
        print(_columns(_model_rows(models.MODELS)))
        print(
            "Published test ROC-AUC and PR-AUC of the best configuration; splits differ"
            " between papers.\nOne model's options: python -m tagger models NAME"
        )
    return 0


def _model_rows(table: dict) -> list[list[str]]:
    datasets = {"magnatagatune": "MTT", "million_song": "MSD", "mtg_jamendo": "Jamendo"}
    heading = ["model", "Hz", "window", "frontend", "parameters", *datasets.values()]
    rows = [[*heading, "recipe", "paper"]]
    for name, entry in table.items():
        best = dict.fromkeys(datasets, "–")
        for published in sorted(entry.published, key=lambda scores: scores.roc_auc):
            best[published.dataset] = _scores(published.roc_auc, published.pr_auc)
        rows.append(
            [
                name,
                str(entry.sample_rate),
                f"{entry.num_samples / entry.sample_rate:.2f} s",
                entry.frontend,
                f"{entry.num_parameters:,}",
                *best.values(),
                entry.recipe,
                entry.paper.split(", http")[0],
            ]
        )
    return rows


def _facts(name: str, entry, options: dict) -> list[list[str]]:
    facts = [
        [name, entry.paper],
        ["input", f"{entry.num_samples} samples at {entry.sample_rate} Hz"],
        ["frontend", entry.frontend],
        ["parameters", f"{entry.num_parameters:,} (trainable, with 50 tags)"],
        ["recipe", entry.recipe],
    ]
    for published in entry.published:
        configuration = [f"{key} {value}" for key, value in published.options.items()]
        scores = _scores(published.roc_auc, published.pr_auc)
        words = [published.dataset, scores, *configuration, published.source]
        facts.append(["published", ", ".join(words)])
    for key, value in options.items():
        facts.append(["option", f"{key} = {value}"])
    return facts


def _scores(roc_auc: float, pr_auc: float | None) -> str:
    return f"{roc_auc:.4f}" + (f" {pr_auc:.4f}" if pr_auc else "")


def _columns(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(map("{:<{}}".format, row, widths)).rstrip() for row in rows
    )


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="convert an original's weights",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help=".pth, .ckpt, .hdf5, .npz, or the folder of a TensorFlow 1 checkpoint",
    )
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help="see python -m tagger models")
    add("--output", required=True, type=keras_file, metavar="FILE.keras")
    add("--tags", default=None, metavar="FILE", help="a tag a line, or a JSON list")
    options = OptionGroup(
        parser.add_argument_group(
            "model", "what names and shapes of the weights do not tell, or shall not"
        )
    )
    options.add("--front-end", choices=["pons", "lee"], help="self_attention's")
    options.add("--back-end", choices=["attention", "cnn"], help="self_attention's")
    options.add("--num-heads", type=at_least_one, help="of the attention (default: 8)")
    parser.set_defaults(call=_convert, options=options)


def _convert(args: argparse.Namespace) -> int:
    load_tensorflow()
    from tagger import models
    from tagger.datasets.annotations import read_tags
    from tagger.weights import conversion

    factory = models.entry(args.model).factory
    options = args.options.for_function(factory, args, f"model {args.model}")
    if args.tags:
        options["tags"] = read_tags(args.tags)
    model = conversion.convert(
        conversion.read_weights(args.source), args.model, **options
    )
    models.save_model(model, args.output)
    info = models.model_info(model)
    names = f"named by {args.tags}" if args.tags else "without names"
    print(
        f"{args.output}: {args.model}, {model.count_params():,} weights,"
        f" {info.num_tags} tags {names}, {info.sample_rate} Hz"
    )
    return 0


def _add_pretrained(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "pretrained", help="list trained models to be had, or fetch one"
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="fetch it, for work offline"
    )
    parser.set_defaults(call=_pretrained)


def _pretrained(args: argparse.Namespace) -> int:
    load_tensorflow()
    from tagger.weights import pretrained

    if args.name:
        print(pretrained.prepare(args.name))
        return 0
    print(pretrained.listing())
    return 0


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "export", help="write a model for other runtimes: SavedModel, LiteRT, ONNX"
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=".keras, .hdf5, or a name of `pretrained`")
    add("--to", required=True, choices=("saved-model", "litert", "onnx"))
    add(
        "--output",
        metavar="PATH",
        help="default: the model's name, ending as the format does, in this folder",
    )
    parser.set_defaults(call=_export)


def _export(args: argparse.Namespace) -> int:
    load_tensorflow()
    from tagger import models
    from tagger.inference import export
    from tagger.weights import pretrained

    stem = Path(args.model).stem
    ending = export.FORMATS[args.to] or "_saved_model"
    model = pretrained.load(args.model)
    path = export.export(model, args.output or stem + ending, args.to)
    info = models.model_info(model)
    batch = 1 if args.to == "litert" else "batch"
    print(
        f"{path}: waveforms [{batch}, {info.window.num_samples}] at"
        f" {info.sample_rate} Hz -> scores [{batch}, {info.num_tags}]"
    )
    return 0
