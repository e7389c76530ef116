"""tag: files in, tags out."""

import argparse
import json
import os
import sys
import warnings

from tagger.cli.arguments import at_least_one, figure_file, output_file
from tagger.cli.process import load_tensorflow

DEFAULT_MODEL = "musicnn_mtt"  # `pretrained.DEFAULT`, which imports Keras


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds this module's commands."""
    _add_tag(commands)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that `load_tagger` reads."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help=".keras, a legacy .hdf5 of the original project, or a name that python -m"
        " tagger pretrained lists (default: %(default)s, fetched once)",
    )
    parser.add_argument(
        "--data-dir",
        default="./dataset",
        help="shards whose manifest names the tags of a model that does not",
    )


def load_tagger(args: argparse.Namespace):
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
    add_model(parser)
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
    tagger, rows = load_tagger(args), []
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
