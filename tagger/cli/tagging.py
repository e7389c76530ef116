"""tag, embed: files in, tags or vectors out."""

import argparse
import os
import sys
import warnings

from tagger.cli.arguments import at_least_one, figure_file, output_file
from tagger.cli.process import load_tensorflow
from tagger.models.metadata import DEFAULT_MODEL


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds this module's commands."""
    _add_tag(commands)
    _add_embed(commands)


def add_model(parser: argparse.ArgumentParser, others: str = "") -> None:
    """Adds --model, which `pretrained.load` takes; `others` says what else may come."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help=f".keras, {others}a legacy .hdf5 of the original project, or a name that"
        " python -m tagger pretrained lists (default: %(default)s, fetched once)",
    )


def add_tagger(parser: argparse.ArgumentParser, others: str = "") -> None:
    """Adds the arguments that `load_tagger` reads."""
    add_model(parser, others)
    parser.add_argument(
        "--data-dir",
        default="./dataset",
        help="shards whose manifest names the tags of a model that does not",
    )


def add_files(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """Adds the argument that `list_files` reads."""
    parser.add_argument(
        "files",
        nargs=nargs,
        metavar="FILE",
        help="audio of any length and format, folders of it, or - for a list on"
        " standard input",
    )


def list_files(names: list[str]) -> list[str]:
    """The audio files that names, folders and the list on standard input mean."""
    from tagger.inference import tagger as tagging

    listed = []
    for name in names:
        listed += sys.stdin.read().split("\n") if name == "-" else [name]
    return tagging.audio_files(name for name in listed if name)


def load_tagger(args: argparse.Namespace):
    """The Tagger of --model, its tags named by --data-dir if need be."""
    from tagger import models
    from tagger.weights import pretrained

    model = pretrained.load(args.model)
    return _named(model, models.model_info(model), args)


def _load_onnx_tagger(args: argparse.Namespace):
    """The same of an exported --model, without Keras."""
    from tagger.inference import engines

    model = engines.OnnxModel(args.model)
    return _named(model, model.info, args)


def _named(model, info, args: argparse.Namespace):
    from tagger.inference import tagger as tagging

    tags = None
    if not info.tags:
        from tagger.data import pipeline  # imports TensorFlow

        tags = pipeline.open_shards(args.data_dir).manifest.tags
        warnings.warn(
            f"{args.model} holds no tag names; they are those of {args.data_dir}.",
            stacklevel=1,
        )
    return tagging.Tagger(model, tags)


def _add_tag(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("tag", help="tag audio files with a trained model")
    add_files(parser)
    add_tagger(parser, ".onnx that `export` wrote (on the CPU, without TensorFlow), ")
    add = parser.add_argument
    add(
        "--top",
        type=at_least_one,
        default=10,
        help="tags shown in the table (default: 10)",
    )
    add(
        "--threshold",
        nargs="?",
        type=_threshold,
        const="held",
        metavar="X",
        help="only tags that score X and more; without X by the thresholds that the"
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
    add("--json", action="store_true", help="print a line of JSON per file, all tags")
    add(
        "--output",
        type=_results_place,
        metavar="PLACE",
        help="also write there: lines of JSON (.jsonl), a table (.csv), or a JAMS file"
        " per audio file (a folder, FOLDER/)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with --output: files that have tags there are not tagged again",
    )
    parser.set_defaults(call=_tag)


def _threshold(text: str) -> float | str:
    if text == "held":
        return text
    try:
        number = float(text)
        if 0 <= number <= 1:
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r} is not between 0 and 1 (files go before --threshold without X)"
    )


def _results_place(text: str) -> str:
    if text.endswith((".jsonl", ".json", ".csv")):
        return output_file(text)
    if not text.endswith("/") and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} must end in .jsonl or .csv, or in / for a folder of JAMS files"
        )
    return text


def _tag(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from tagger.inference import streaming, writers
    from tagger.inference import tagger as tagging

    paths = list_files(args.files)
    if args.taggram and len(paths) != 1:
        raise ValueError(f"--taggram draws one file, and {len(paths)} were given.")
    if args.resume and not args.output:
        raise ValueError("--resume goes on with results: give their --output too.")
    if args.model.endswith(".onnx"):
        tagger = _load_onnx_tagger(args)
    else:
        load_tensorflow()
        tagger = load_tagger(args)
    results = thresholds = None
    if args.threshold is not None:
        held = args.threshold == "held"
        thresholds = tagger.thresholds(None if held else args.threshold)
    if args.output:
        results = writers.open_results(args.output, paths, tagger.tags, args.model)
        if not results.is_new and not args.resume:
            raise ValueError(
                f"{args.output} holds results. --resume goes on with them; else choose"
                " another --output."
            )
        paths = [path for path in paths if path not in results.done]
        if not paths:
            print(f"All files have tags in {args.output}.", file=sys.stderr)
    has_error = False
    with streaming.progress(len(paths), "Tagging") as bar:
        for result, taggram in tagging.tag_files(
            tagger, paths, args.hop, args.aggregate, thresholds, bar
        ):
            result = {"path": result["path"], "model": args.model, **result}
            has_error |= "error" in result
            if results:
                results.write(result)
            line = writers.as_line(result) if args.json else None
            tqdm.write(line or _table(result, args.top))
            if args.taggram and taggram:
                _draw(tagger, taggram, args, os.path.basename(result["path"]))
    if results:
        results.close()
    return 2 if has_error else 0


def _draw(tagger, taggram, args: argparse.Namespace, name: str) -> None:
    """Draws the taggram of a file to --taggram."""
    from tagger import plotting

    # The tags of the table; those that a threshold keeps from it tell something, too.
    tags = list(tagger.named(taggram.aggregated(args.aggregate)))[: args.top]
    figure = plotting.plot_taggram(
        taggram.scores[:, tagger.tag_numbers(tags)],
        tags,
        taggram.seconds,
        taggram.window_seconds,
        f"{name}: taggram",
    )
    plotting.save(figure, args.taggram)


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


def _add_embed(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "embed", help="audio files -> vectors of what a model hears; which are alike"
    )
    add_files(parser, "*")
    add_model(parser)
    add = parser.add_argument
    add(
        "--layer",
        default="penultimate",
        metavar="NAME",
        help="whose output it is (default: what the last layer makes scores of)",
    )
    add(
        "--library",
        type=_library_file,
        metavar="FILE",
        help="keep the vectors there: .parquet, or .npy with a .json beside it; one"
        " that is there is gone on with",
    )
    add("--similar-to", metavar="SONG", help="list the files that are most like it")
    add("--top", type=at_least_one, default=10, help="of them (default: 10)")
    parser.set_defaults(call=_embed)


def _library_file(text: str) -> str:
    if not text.endswith((".parquet", ".npy")):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .parquet or .npy")
    return output_file(text)


def _embed(args: argparse.Namespace) -> int:
    exists = args.library and os.path.exists(args.library)
    if not args.files and not exists:
        raise ValueError("Give audio files, or a --library that holds some.")
    if not args.library and not args.similar_to:
        raise ValueError(
            "Say what for: --library FILE keeps the vectors, --similar-to"
            " SONG lists the files most like a song."
        )
    load_tensorflow()
    from tagger.inference import embeddings, streaming
    from tagger.weights import pretrained

    paths = list_files(args.files) if args.files else []
    library = embeddings.Library(args.model, args.layer)
    if exists:
        library = embeddings.Library.load(args.library)
        if (library.model, library.layer) != (args.model, args.layer):
            raise ValueError(
                f"{args.library} holds vectors of {library.model}, layer"
                f" {library.layer}. Give those, or another --library."
            )
    embedder = embeddings.Embedder(pretrained.load(args.model), args.layer)
    song = args.similar_to
    if song:
        vector = library.vectors.get(song)
        if vector is None:
            vector = embedder.embed(song)
    with streaming.progress(len(paths), "Embedding") as bar:
        errors = embeddings.extend(library, embedder, paths, args.library, bar)
    for path, error in errors.items():
        print(f"{path}\n  {error}", file=sys.stderr)
    if song and library.vectors:
        nearest = library.nearest(vector, args.top + 1).drop(song, errors="ignore")
        for path, similarity in nearest[: args.top].items():
            print(f"{similarity:.3f}  {path}")
    elif library.vectors:
        print(f"{args.library}: {len(library.vectors):,} vectors")
    return 2 if errors else 0
