"""The commands tag and embed: audio files -> tags or inference.embeddings."""

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Iterable

from tqdm import tqdm

from tagger import data, inference, listing, storage, weights
from tagger.cli.arguments import (
    above_zero,
    add_force,
    at_least_one,
    check_outputs,
    embedding_file,
    figure_file,
    model_name,
    output_file,
)
from tagger.inference import engines, selection, streaming, writers
from tagger.inference.tagger import AGGREGATES, Tagger
from tagger.models.metadata import DEFAULT_MODEL, ModelInfo
from tagger.storage import load_tensorflow
from tagger.text import TaggerError, printable

HELD = "held"  # --threshold without X
REACHED = "✓"


def add_model(parser: argparse.ArgumentParser, others: str = "") -> None:
    """Adds --model; its help lists `others`, further kinds of model files."""
    parser.add_argument(
        "--model",
        type=model_name,
        default=DEFAULT_MODEL,
        help=f"model file (.keras, {others}or resemul's .hdf5) or name of a pretrained"
        " model, see tagger pretrained (default: %(default)s)",
    )


def add_tagger(parser: argparse.ArgumentParser, others: str = "") -> None:
    """Adds the arguments that `load_tagger` reads."""
    add_model(parser, others)
    parser.add_argument(
        "--data-dir",
        default="./dataset",
        help="shards whose manifest names the tags, for a model without tag names",
    )


def add_files(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """Adds the argument that `list_files` reads."""
    parser.add_argument(
        "files",
        nargs=nargs,
        metavar="FILE",
        help="audio file of any length and format, a folder of audio files, or - for a"
        " list on standard input (one path per line; # starts a comment)",
    )


def list_files(names: list[str]) -> list[str]:
    """Returns the audio files given by name, by folder or on standard input."""
    listed = []
    for name in names:
        listed += _paths_in(sys.stdin) if name == "-" else [name]
    return listing.list_audio(listed)


def _paths_in(lines: Iterable[str]) -> list[str]:
    paths = (line.strip() for line in lines)
    listed = [path for path in paths if path and not path.startswith("#")]
    if any("\0" in path for path in listed):
        raise TaggerError(
            "The list of files holds a zero byte. Give one path per line."
        )
    return listed


def add_hop(parser: argparse.ArgumentParser) -> None:
    """Adds --hop."""
    parser.add_argument(
        "--hop",
        type=above_zero,
        metavar="SECONDS",
        help="time from one segment to the next (default: the model's own hop)",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say how a model runs, and in how many processes."""
    add = parser.add_argument
    add(
        "--precision",
        choices=engines.PRECISIONS,
        default="float32",
        help="bfloat16 is faster on CPUs that have it (pip install openvino); scores"
        " change by up to 0.003 (default: float32)",
    )
    add(
        "--excerpts",
        type=at_least_one,
        metavar="N",
        help="hear N segments of each file, spread evenly and found without decoding"
        " the rest; all of a file that is not longer (default: all of every file)",
    )
    add(
        "--num-workers",
        type=at_least_one,
        metavar="N",
        help="number of worker processes on this machine (default: one per core that"
        " this process may use, and none for a few minutes of music)",
    )
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="address of a Dask scheduler whose workers run the model; they must find"
        " the audio and the cache of models under the same paths",
    )


def reading(args: argparse.Namespace) -> dict[str, str | int]:
    """Returns the arguments of `add_engine` that change results, if they are given."""
    given = {"excerpts": args.excerpts}
    if args.precision != "float32":
        given["precision"] = args.precision
    return {name: value for name, value in given.items() if value}


def stream_options(args: argparse.Namespace) -> streaming.StreamOptions:
    """Returns what the arguments of `add_engine` say of reading files."""
    return streaming.StreamOptions(args.excerpts, args.num_workers, args.scheduler)


def load_tagger(args: argparse.Namespace) -> Tagger:
    """Returns the Tagger of --model in Keras; --data-dir names the tags if it does not.

    Use it for what looks into the layers.
    """
    load_tensorflow()
    engine = engines.KerasEngine(weights.load(args.model))
    engine.source = args.model
    return Tagger(engine, _tags_of(engine.info, args))


def _open_tagger(args: argparse.Namespace) -> Tagger:
    engine = selection.open_engine(args.model, args.precision)
    return Tagger(engine, _tags_of(engine.info, args))


def _tags_of(info: ModelInfo, args: argparse.Namespace) -> tuple[str, ...] | None:
    if info.tags:
        return None
    warnings.warn(
        f"{args.model} holds no tag names; using those of {args.data_dir}.",
        stacklevel=1,
    )
    return data.clips.open_shards(args.data_dir).manifest.tags


# --- tag ------------------------------------------------------------------------------


def add_tag(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of tag."""
    add_files(parser)
    add_tagger(parser, ".onnx of tagger export, ")
    add_engine(parser)
    add = parser.add_argument
    add(
        "--top",
        type=at_least_one,
        default=10,
        help="number of tags to print per file (default: 10)",
    )
    add(
        "--threshold",
        nargs="?",
        type=_threshold,
        const=HELD,
        metavar="X",
        help="keep only tags that score X or more; without X, use the model's own"
        " thresholds",
    )
    add_hop(parser)
    add(
        "--aggregate",
        choices=AGGREGATES,
        default="mean",
        help="how to combine the scores of a file's segments (default: mean)",
    )
    add(
        "--taggram",
        type=figure_file,
        metavar="PICTURE",
        help="plot the scores over time, if only one file is given",
    )
    add(
        "--json",
        action="store_true",
        help="print one line of JSON per file, with all tags (or those of --threshold)",
    )
    add(
        "--output",
        type=_results_path,
        metavar="FILE_OR_DIR",
        help="also write JSON Lines (.jsonl), a table (.csv), or one JAMS file per"
        " audio file (to a folder, DIR/)",
    )
    add(
        "--resume",
        action="store_true",
        help="skip files whose tags --output already holds, and add the others; also"
        " replaces a --taggram",
    )
    add_force(parser)


def _threshold(text: str) -> float | str:
    if text == HELD:
        return text
    try:
        number = float(text)
        if 0 <= number <= 1:
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a number from 0 to 1 (to omit X, put --threshold after the"
        " files)"
    )


def _results_path(text: str) -> str:
    if text.endswith((".jsonl", ".json", ".csv")):
        return output_file(text)
    if not text.endswith("/") and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} must end in .jsonl or .csv, or in / for a folder of JAMS files"
        )
    return text


def if_tag_interrupted(args: argparse.Namespace) -> str:
    """Returns the message for the user after Ctrl-C."""
    if not args.output:
        return "Run the same command again."
    resume = "" if args.resume else " with --resume"
    instead = " instead of --force" if args.force else ""
    return f"Run the same command{resume}{instead} to continue {args.output}."


def tag(args: argparse.Namespace) -> int:
    """Tags files; returns exit code 2 if a file cannot be decoded."""
    paths = list_files(args.files)
    if args.taggram and len(paths) != 1:
        raise TaggerError(
            f"--taggram plots exactly one file, but {len(paths)} were given."
        )
    if args.taggram and args.excerpts:
        raise TaggerError("--taggram plots whole files. Omit --excerpts.")
    if args.resume and not args.output:
        raise TaggerError("--resume needs --output with the results to continue.")
    if args.resume and args.force:
        raise TaggerError("Give --resume or --force, not both.")
    if args.output and not (args.resume or args.force):
        writers.check_no_results(args.output, paths)
    if not args.resume:
        check_outputs(args, "taggram")
    with writers.lock(args.output) if args.output else contextlib.nullcontext():
        return _tag(args, paths)


def _tag(args: argparse.Namespace, paths: list[str]) -> int:
    tagger = _open_tagger(args)
    thresholds = results = None
    if args.threshold is not None:
        is_held = args.threshold == HELD
        thresholds = tagger.thresholds(None if is_held else args.threshold)
    if args.output:
        settings = {
            "hop": args.hop,
            "aggregate": args.aggregate,
            "threshold": args.threshold,
        }
        settings |= reading(args)
        source = writers.ResultSource(args.model, tagger.tags, settings)
        results = writers.open_results(args.output, source, args.force)
        paths = [path for path in paths if not results.has(path)]
        results.check_targets(paths)
        if not paths:
            print(
                f"{args.output} already holds the tags of all files.", file=sys.stderr
            )
    held = tagger.thresholds() if tagger.info.thresholds else {}
    has_error = False
    with (
        contextlib.closing(results) if results else contextlib.nullcontext(),
        streaming.progress(len(paths), "Tagging") as bar,
    ):
        for found in tagger.taggrams(paths, args.hop, bar, stream_options(args)):
            result = tagger.described(found, args.aggregate, thresholds)
            result["model"] = args.model
            has_error |= found.error is not None
            if results:
                results.write(result)
            line = writers.as_line(result) if args.json else None
            tqdm.write(line or _table(result, args.top, held))
            if args.taggram and found.value:
                _draw(tagger, found.value, args, os.path.basename(result["path"]))
    if sys.stdout.isatty() and not args.json:
        print(_legend(tagger.info), file=sys.stderr)
    return 2 if has_error else 0


def _draw(tagger: Tagger, taggram, args: argparse.Namespace, name: str) -> None:
    """Plots the scores of a file over time and saves the figure to --taggram."""
    from tagger import plotting
    from tagger.interpretation import figures

    # The tags of the printed table, and also those below the threshold.
    tags = list(tagger.named(taggram.aggregated(args.aggregate)))[: args.top]
    figure = figures.plot_taggram(
        taggram.scores[:, tagger.tag_numbers(tags)],
        tags,
        taggram.seconds,
        taggram.segment_seconds,
        f"{name}: taggram",
    )
    plotting.save(figure, args.taggram)


def _legend(info: ModelInfo) -> str:
    """Returns what the printed scores mean."""
    if info.thresholds:
        return f"{REACHED} The score reaches the tag's threshold in the model."
    return (
        "Scores rank tags; they are not probabilities. For thresholds from music of"
        " your own: tagger thresholds MODEL --from-music FOLDER --output FILE.onnx."
    )


def _table(row: dict, top: int, thresholds: dict[str, float]) -> str:
    """Returns a file's highest scores as text; a mark means: reaches the threshold."""
    path = printable(row["path"])
    if "error" in row:
        return f"{path}\n  {printable(row['error'])}"
    rows = list(row["tags"].items())[:top]
    width = max((len(printable(tag)) for tag, _ in rows), default=0)
    lines = [path]
    for tag, score in rows:
        line = f"  {printable(tag):{width}}  {score:.3f}"
        if tag in thresholds:
            line += f"  {REACHED if score >= thresholds[tag] else ' '}"
        lines.append(f"{line}  {'█' * round(20 * score)}".rstrip())
    return "\n".join(lines)


# --- embed ----------------------------------------------------------------------------


def add_embed(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of embed."""
    add_files(parser, "+")
    add_model(parser, ".onnx of tagger export, ")
    add_engine(parser)
    add = parser.add_argument
    add(
        "--layer",
        default="penultimate",
        metavar="NAME",
        help="layer whose output is the embedding (default: penultimate, the input of"
        " the last layer)",
    )
    add(
        "--output",
        type=embedding_file,
        required=True,
        metavar="FILE",
        help="file to write: .npy, with a .npy.json beside it, or .parquet; the same"
        " command adds what it does not hold yet",
    )


def embed(args: argparse.Namespace) -> int:
    """Embeds files; returns exit code 2 if decoding fails."""
    paths = list_files(args.files)
    about = {"model": args.model, "layer": args.layer, **reading(args)}
    with storage.file_lock(args.output, "`output=`"):
        held = inference.embedding_files.EmbeddingFile(about)
        if os.path.exists(args.output):
            held = inference.embedding_files.EmbeddingFile.load(args.output)
            if held.about != about:
                raise TaggerError(
                    f"{args.output} holds embeddings with {held.about}, not {about}."
                    " Give the same options, or another --output."
                )
        engine = selection.open_engine(args.model, args.precision, args.layer)
        number, embedder = len(held.rows), inference.embeddings.Embedder(engine)
        failed = False
        try:
            for one in held.extend(embedder, paths, stream_options(args)):
                failed, text = True, printable(str(one.error))
                print(f"{printable(one.path)}\n  {text}", file=sys.stderr)
        finally:  # an interruption loses nothing
            if len(held.rows) > number:
                held.save(args.output)
    count = f"{len(held.rows):,} embedding{'s' * (len(held.rows) != 1)}"
    print(f"{printable(args.output)}: {count}")
    return 2 if failed else 0
