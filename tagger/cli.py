"""Command lines: the arguments of `python -m tagger` and what all our scripts share.

Only arguments and printing live here; heavy modules are imported after parsing, so that
`--help` and a wrong argument cost no TensorFlow.
"""

import argparse
import csv
import importlib.util
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import typing
import warnings
from collections.abc import Callable
from pathlib import Path

from tagger import storage

SUPERVISED = "TAGGER_SUPERVISED"  # set in the child of `supervise`
DEFAULT_MODEL = "musicnn_mtt"  # `pretrained.DEFAULT`, which imports Keras
STRATEGIES = ("none", "mirrored", "tpu", "multiworker")  # of `devices.choose`


def run(main: Callable[[], int | None], if_interrupted: str = "") -> None:
    """Calls a script's main; what is wrong ends in one sentence and exit code 2.

    Args:
        main: Returns the exit code, None for 0.
        if_interrupted: What to tell who pressed Ctrl-C.
    """
    name = os.path.basename(sys.argv[0]).replace("__main__.py", "python -m tagger")
    warnings.showwarning = lambda message, *_, **__: print(
        f"Note: {message}", file=sys.stderr
    )
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError) as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        if os.environ.get(SUPERVISED):
            os._exit(2)  # in good order JAX would wait for the other hosts, and crash
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted. {if_interrupted}", file=sys.stderr)
        sys.exit(130)


def supervise() -> None:
    """Runs this same command in a child process and ends as it does.

    JAX aborts a process whose coordinator is gone, with pages of C++; the parent lives
    to say what that means.
    """
    if os.environ.get(SUPERVISED):
        return
    environment = os.environ | {SUPERVISED: "1"}
    child = subprocess.Popen([sys.executable, *sys.argv], env=environment)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:
            pass  # the child got it too, and says so
    if code == -signal.SIGTERM:
        raise OSError("Training was asked to end. The same command goes on.")
    if code < 0:
        raise OSError(
            f"Training on this host was ended by {signal.Signals(-code).name}, most"
            " likely because another host was lost. Start the same command again on"
            " every host; it goes on from the last checkpoint."
        )
    sys.exit(code)


def arguments_of(function: Callable, args: argparse.Namespace) -> dict:
    """The parsed arguments that a function takes, by name."""
    given = vars(args)
    return {n: given[n] for n in inspect.signature(function).parameters if n in given}


class OptionGroup:
    """Options of a function that the command line may give; the rest keeps its default.

    Args:
        group: Where they are shown by `--help`; its arguments must be suppressed when
            they are not given.
    """

    def __init__(self, group: argparse._ArgumentGroup):
        self._group = group
        self.flags = {}  # argument -> flag

    def add(self, flag: str, **kwargs) -> None:
        """Adds an argument as `add_argument` does."""
        self.flags[self._group.add_argument(flag, **kwargs).dest] = flag

    def for_function(
        self, function: Callable, args: argparse.Namespace, whose: str
    ) -> dict:
        """Keyword arguments of a function from what was given.

        Raises:
            ValueError: an option was given that the function does not take.
        """
        values = vars(args)
        known = inspect.signature(function).parameters
        given = [name for name in self.flags if name in values]
        for name in given:
            if name not in known:
                flags = [flag for n, flag in self.flags.items() if n in known]
                raise ValueError(
                    f"{self.flags[name]} is no option of {whose}, which has:"
                    f" {', '.join(flags) or 'none'}."
                )
        return {name: values[name] for name in given}


def add_options_of(
    group: argparse._ArgumentGroup,
    function: Callable,
    flags: dict[str, str] | None = None,
    defaults: dict | None = None,
) -> None:
    """Adds an option for every argument of a function that has a default.

    Type, default and help are those of its signature and docstring.

    Args:
        group: Where to add them.
        function: Its docstring has Google's section of arguments.
        flags: Argument -> flag, where that is not its name.
        defaults: Argument -> default, where that is not the function's.
    """
    flags, defaults = flags or {}, defaults or {}
    helps = _argument_docs(function)
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is parameter.empty:
            continue
        default = defaults.get(name, parameter.default)
        kind, text = hints[name], helps[name]
        if type(None) in typing.get_args(kind):  # int | None
            (kind,) = set(typing.get_args(kind)) - {type(None)}
        options = {"default": default, "dest": name}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is typing.Literal:
            options["choices"] = typing.get_args(kind)
        else:
            is_count = kind is int and default != 0  # a seed may be 0
            options["type"] = at_least_one if is_count else kind
            options["metavar"] = {int: "N", float: "X", str: "TEXT"}[kind]
        if default not in (None, False):
            text += f" (default: {default})"
        flag = flags.get(name, f"--{name.replace('_', '-')}")
        group.add_argument(flag, help=text.replace("%", "%%"), **options)


def _argument_docs(function: Callable) -> dict[str, str]:
    """Argument -> what the docstring says of it, without backquotes and last stop."""
    _, _, section = inspect.getdoc(function).partition("\nArgs:\n")
    section = re.split(r"\n\S", section)[0]
    docs = re.findall(r"^    (\w+): ((?:.|\n      )*)", section, re.MULTILINE)
    return {
        name: re.sub(r"\s+", " ", text).replace("`", "").rstrip(". ")
        for name, text in docs
    }


def at_least_one(text: str) -> int:
    """Argument type: a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def output_file(text: str) -> str:
    """Argument type: a file that can be written, checked before hours of work."""
    folder = os.path.dirname(os.path.abspath(text))
    if not os.path.isdir(folder) or os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: no such folder")
    if text.endswith(".parquet") and not importlib.util.find_spec("pyarrow"):
        raise argparse.ArgumentTypeError("Parquet needs pyarrow: pip install pyarrow")
    return text


def figure_file(text: str) -> str:
    """Argument type: an `output_file` that ends as a picture does."""
    if not text.endswith((".png", ".svg", ".pdf")):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png, .svg or .pdf")
    return output_file(text)


def keras_file(text: str) -> str:
    """Argument type: an `output_file` that ends in .keras."""
    if not text.endswith(".keras"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .keras")
    return output_file(text)


def load_tensorflow() -> None:
    """After parsing, before our heavy modules; models need none on other backends."""
    if importlib.util.find_spec("tensorflow"):
        storage.tensorflow()


def main() -> int:
    """`python -m tagger COMMAND`."""
    parser = argparse.ArgumentParser(
        prog="python -m tagger", description="Music auto-tagging."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_command in (
        _add_tag, _add_pretrained, _add_explain, _add_build, _add_verify, _add_models,
        _add_convert, _add_augment, _add_demo,
    ):  # fmt: skip
        add_command(commands)
    args = parser.parse_args()
    return args.call(args)


# --- build, verify --------------------------------------------------------------------


def build(short_name: str, description: str) -> int:
    """The script that builds one dataset."""
    parser = argparse.ArgumentParser(description=description)
    _add_build_arguments(parser, short_name)
    return _build(parser.parse_args())


def _add_build(commands: argparse._SubParsersAction) -> None:
    from tagger.datasets import DATASETS

    parser = commands.add_parser("build", help="audio and annotations -> shards")
    names = parser.add_subparsers(metavar="DATASET", required=True)
    for dataset in DATASETS.values():
        module = sys.modules[dataset.load_annotations.__module__]
        title, _, _ = module.__doc__.partition("\n")
        one = names.add_parser(
            dataset.short_name,
            help=title,
            description=module.__doc__.replace("%", "%%"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_build_arguments(one, dataset.short_name)
        one.set_defaults(call=_build)


def _add_build_arguments(parser: argparse.ArgumentParser, short_name: str) -> None:
    from tagger import building
    from tagger.datasets import DATASETS

    (dataset,) = (d for d in DATASETS.values() if d.short_name == short_name)
    first = next(iter(inspect.signature(dataset.load_annotations).parameters))
    text = _argument_docs(dataset.load_annotations)[first]
    if first == "data_dir":
        parser.add_argument(
            "--data-dir", default="./dataset", help=f"{text} (default: ./dataset)"
        )
    else:
        parser.add_argument(first, metavar=first.upper(), help=text)
    parser.add_argument(
        "--output-dir",
        metavar="DIR",
        help="folder of the shards, or a URL (gs://…); default: tfrecord beside the"
        " annotations",
    )
    parser.add_argument(
        "--audio-dir", metavar="DIR", help="where the audio is, if elsewhere"
    )
    group = parser.add_argument_group("annotations")
    add_options_of(group, dataset.load_annotations)
    group = parser.add_argument_group("shards")
    add_options_of(
        group,
        building.build,
        flags={"segment_samples": "--num-samples"},
        defaults={"max_missing": dataset.max_missing},
    )
    parser.set_defaults(
        load_annotations=dataset.load_annotations, source_argument=first
    )


def _build(args: argparse.Namespace) -> int:
    import dataclasses

    from tagger import building, records

    annotations = args.load_annotations(**arguments_of(args.load_annotations, args))
    if args.audio_dir:
        annotations = dataclasses.replace(annotations, audio_dir=Path(args.audio_dir))
    source = Path(getattr(args, args.source_argument))
    folder = source if source.is_dir() else source.parent
    args.output_dir = args.output_dir or folder / records.SHARD_FOLDER
    args.annotations = annotations
    if args.features:
        load_tensorflow()
    manifest = building.build(**arguments_of(building.build, args))
    print(building.summary(manifest, args.output_dir))
    return 0


def _add_verify(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "verify", help="check every checksum and record of a folder of shards"
    )
    parser.add_argument("directory", metavar="DIR", help="of the shards, or its parent")
    parser.set_defaults(call=_verify)


def _verify(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from tagger import records, storage

    directory = storage.location(args.directory)
    if not (directory / records.MANIFEST_NAME).exists():
        directory = directory / records.SHARD_FOLDER
    if not (directory / records.MANIFEST_NAME).exists():
        raise FileNotFoundError(
            f"There is no {records.MANIFEST_NAME} in {args.directory!r} or its"
            f" {records.SHARD_FOLDER}/. Give the folder that a build command wrote."
        )
    manifest = records.Manifest.load(directory)
    bad = []
    shards = records.verify(directory, manifest)
    total = len(manifest.shards)
    for name, faults in tqdm(shards, "Verifying", total, unit="shard", disable=None):
        for fault in faults:
            tqdm.write(f"{directory / name}: {fault}")
        bad += [name] * bool(faults)
    if not manifest.complete:
        print(f"The build in {directory} is unfinished; the build command goes on.")
    num_clips = sum(manifest.num_clips(split) for split in manifest.splits)
    print(f"{total} shards, {num_clips:,} clips, {len(bad)} files with faults")
    if bad:
        print("Delete them and run the build again: it makes only what is missing.")
    return 2 if bad or not manifest.complete else 0


def _add_tags_of(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        default="./dataset",
        help="shards whose manifest names the tags of a model that does not",
    )


def _load_tagger(args: argparse.Namespace):
    """The Tagger of --model, its tags named by --data-dir if need be."""
    from tagger import inputs, models, pretrained, tagging

    model, tags = pretrained.load(args.model), None
    if not models.model_info(model).tags:
        tags = inputs.open_shards(args.data_dir).manifest.tags
        warnings.warn(
            f"{args.model} holds no tag names; they are those of {args.data_dir}.",
            stacklevel=1,
        )
    return tagging.Tagger(model, tags)


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
    from tagger import pretrained

    if args.name:
        print(pretrained.prepare(args.name))
        return 0
    print(pretrained.listing())
    return 0


# --- tag ------------------------------------------------------------------------------


def _add_tag(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("tag", help="tag audio files with a trained model")
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help="audio of any length and format, folders of it, or - for a list on"
        " standard input",
    )
    add(
        "--model",
        default=DEFAULT_MODEL,
        help=".keras, a legacy .hdf5 of the original project, or a name that python -m"
        " tagger pretrained lists (default: %(default)s, fetched once)",
    )
    add(
        "--top",
        type=at_least_one,
        default=10,
        help="tags shown in the table (default: 10)",
    )
    add(
        "--threshold",
        nargs="?",
        type=float,
        const=-1.0,
        metavar="X",
        help="show tags that score X and more; without X by the thresholds that the"
        " model holds",
    )
    add("--hop", type=float, metavar="SECONDS", help="from one window to the next")
    add(
        "--aggregate",
        choices=("mean", "max"),
        default="mean",
        help="of a file's windows (default: mean)",
    )
    add(
        "--taggram",
        type=figure_file,
        metavar="PICTURE",
        help="draw the scores over time of the one file given",
    )
    add("--json", action="store_true", help="one line of JSON per file, all tags")
    add(
        "--output",
        type=output_file,
        metavar="FILE",
        help="write the lines of JSON there, one after the other",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with --output: files that it holds are not tagged again",
    )
    add(
        "--csv",
        type=output_file,
        metavar="FILE",
        help="also write a row per file and a column per tag",
    )
    _add_tags_of(parser)
    parser.set_defaults(call=_tag)


def _tag(args: argparse.Namespace) -> int:
    load_tensorflow()
    from tqdm import tqdm

    from tagger import plotting, tagging

    names = sys.stdin.read().splitlines() if args.files == ["-"] else args.files
    paths = list(tagging.audio_files(name for name in names if name))
    if args.taggram and len(paths) != 1:
        raise ValueError(f"--taggram draws one file, and {len(paths)} were given.")
    if args.resume and not args.output:
        raise ValueError("--resume goes on with a file of results: give --output too.")
    if args.resume and args.csv:
        raise ValueError("--resume knows what --output holds, not --csv. Leave it out.")
    exists = args.output and os.path.exists(args.output)
    if exists and os.path.getsize(args.output) and not args.resume:
        raise ValueError(
            f"{args.output} exists. --resume goes on with it; else choose another"
            " --output."
        )
    if args.resume and exists:
        done = tagging.read_lines(args.output)
        paths = [path for path in paths if path not in done]
    tagger, rows = _load_tagger(args), []
    output = open(args.output, "a", encoding="utf-8") if args.output else None
    thresholds = tagger.thresholds(args.threshold)
    tagged = tagging.tag_files(tagger, paths, args.hop, args.aggregate)
    for row in tqdm(tagged, "Tagging", len(paths), unit="file", disable=None):
        rows.append(row)
        shown = row
        if thresholds and "tags" in row:
            tags = row["tags"].items()
            shown = {"tags": {tag: x for tag, x in tags if x >= thresholds[tag]}}
        shown = {"path": row["path"], "model": args.model, **row, **shown}
        line = json.dumps(shown, ensure_ascii=False)
        if output:
            output.write(line + "\n")
            output.flush()
        tqdm.write(line if args.json else _table(shown, args.top))
    if output:
        output.close()
    if args.csv:
        tagging.scores_table(rows, tagger.tags).to_csv(args.csv, index=False)
    if args.taggram and rows and "tags" in rows[0]:
        taggram = tagger.taggram(paths[0], args.hop)
        name = os.path.basename(paths[0])
        table = tagging.taggram_table(
            taggram, list(rows[0]["tags"])[: args.top], tagger
        )
        figure = plotting.plot_taggram(
            table, taggram.seconds, taggram.window_seconds, f"{name}: taggram"
        )
        plotting.save(figure, args.taggram)
    return 2 if any("error" in row for row in rows) else 0


def _table(row: dict, top: int) -> str:
    if "error" in row:
        return f"{row['path']}\n  {row['error']}"
    rows = list(row["tags"].items())[:top]
    width = max((len(tag) for tag, _ in rows), default=0)
    return "\n".join(
        [row["path"]]
        + [
            f"  {tag:{width}}  {score:.3f}  {'█' * round(20 * score)}"
            for tag, score in rows
        ]
    )


# --- models, convert, demo ------------------------------------------------------------


def _add_models(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("models", help="list the models, or describe one")
    parser.add_argument("name", nargs="?", help="one model: its options and scores")
    parser.set_defaults(call=_models)


def _models(args: argparse.Namespace) -> int:
    load_tensorflow()
    from tagger import models

    if args.name:
        options = models.default_options(args.name)
        print(_description(args.name, models.entry(args.name), options))
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


def _description(name: str, entry, options: dict) -> str:
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
    return _columns(facts)


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
    from tagger import conversion, models
    from tagger.datasets.annotations import read_tags

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


def _add_explain(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "explain", help="pictures, sounds and a page of why a file is tagged so"
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="audio of any length and format")
    add("--model", default=DEFAULT_MODEL, help="as for tag (default: %(default)s)")
    add(
        "--tags",
        metavar="A,B",
        help="what to explain, a tag with a comma in quotes; default: the 3 highest",
    )
    add("--with", dest="second", metavar="FILE", help="a second clip beside the first")
    add(
        "--start",
        type=float,
        metavar="SECONDS",
        help="of the window to explain; default: where the tags score highest",
    )
    add("--hop", type=float, metavar="SECONDS", help="of the scores over time")
    add("--output", metavar="DIR", default="explained", help="default: ./explained")
    _add_tags_of(parser)
    parser.set_defaults(call=_explain)


def _explain(args: argparse.Namespace) -> int:
    load_tensorflow()
    from tagger.interpretation import report

    tags = None
    if args.tags:
        (tags,) = csv.reader([args.tags], skipinitialspace=True)
    for path in report.explain(
        _load_tagger(args),
        args.file,
        args.output,
        tags,
        args.second,
        args.start,
        args.hop,
    ):
        print(path)
    return 0


def _add_augment(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "augment", help="write what --augment does to a file, to listen to"
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="audio of any format")
    add("--output", metavar="DIR", default="augmented", help="default: ./augmented")
    add("--sample-rate", type=at_least_one, default=22050, help="default: 22050")
    add("--seconds", type=float, default=10.0, help="of the crop (default: 10)")
    add("--seed", type=int, default=0, help="of all that is drawn")
    parser.set_defaults(call=_augment)


def _augment(args: argparse.Namespace) -> int:
    num_samples = int(args.seconds * args.sample_rate)
    if num_samples < args.sample_rate // 10:
        raise ValueError(f"--seconds must be at least 0.1, not {args.seconds:g}.")
    load_tensorflow()
    from tqdm import tqdm

    from tagger import audio, augmentations, plotting

    waveform = audio.load_audio(args.file, args.sample_rate)
    made = augmentations.examples(waveform, args.sample_rate, num_samples, args.seed)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, noised) in enumerate(tqdm(made.items(), disable=None), 1):
        path = folder / f"{number}_{name}.wav"
        audio.write_audio(path, noised, args.sample_rate)
        print(path)
    figure = plotting.plot_spectrograms(made, args.sample_rate)
    plotting.save(figure, folder / "spectrograms.png")
    print(folder / "spectrograms.png")
    return 0


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("demo", help="synthesise a small corpus in MTT layout")
    add = parser.add_argument
    add("--data-dir", default="./demo", help="folder to make (default: ./demo)")
    add("--num-clips", type=at_least_one, default=320)
    add("--seed", type=int, default=0)
    parser.set_defaults(call=_demo)


def _demo(args: argparse.Namespace) -> int:
    from tagger.datasets import demo

    demo.synthesize(args.data_dir, args.num_clips, args.seed)
    print(f"{args.num_clips} demo clips are in {args.data_dir}")
    return 0
