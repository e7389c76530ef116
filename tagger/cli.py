"""Command lines: the arguments of `python -m tagger` and what all our scripts share.

Only arguments and printing live here; heavy modules are imported after parsing, so that
`--help` and a wrong argument cost no TensorFlow.
"""

import argparse
import importlib.util
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable

# TensorFlow's own start-up notes say nothing to a user of ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


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
    except (ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted. {if_interrupted}", file=sys.stderr)
        sys.exit(130)


def arguments_of(function: Callable, args: argparse.Namespace) -> dict:
    """The parsed arguments that a function takes, by name."""
    given = vars(args)
    return {n: given[n] for n in inspect.signature(function).parameters if n in given}


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


def load_tensorflow() -> None:
    """Imports TensorFlow without its notes; after parsing, before our heavy modules.

    They are written to file descriptor 2 before its logging starts, so no setting holds
    them back. An import that fails still raises.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow  # noqa: F401 (for its side effect)
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def main() -> int:
    """`python -m tagger COMMAND`."""
    parser = argparse.ArgumentParser(
        prog="python -m tagger", description="Music auto-tagging."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_command in (_add_tag, _add_demo):
        add_command(commands)
    args = parser.parse_args()
    return args.call(args)


def _add_tag(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("tag", help="tag audio files with a trained model")
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="audio of any length and format")
    add(
        "--model",
        required=True,
        help=".keras, or a legacy .hdf5 of the original project",
    )
    add(
        "--top",
        type=at_least_one,
        default=10,
        help="tags shown in the table (default: 10)",
    )
    add("--json", action="store_true", help="one line of JSON per file, all tags")
    add(
        "--csv",
        type=output_file,
        metavar="FILE",
        help="also write a row per file and a column per tag",
    )
    add(
        "--data-dir",
        default="./dataset",
        help="shards whose manifest names the tags of a model that does not",
    )
    parser.set_defaults(call=_tag)


def _tag(args: argparse.Namespace) -> int:
    load_tensorflow()
    from tqdm import tqdm

    from tagger import conversion, inputs, models, tagging

    model, tags = conversion.load_model(args.model), None
    if not models.model_info(model).tags:
        tags = inputs.open_shards(args.data_dir).manifest.tags
        warnings.warn(
            f"{args.model} holds no tag names; they are those of {args.data_dir}.",
            stacklevel=1,
        )
    tagger, rows = tagging.Tagger(model, tags), []
    files = tqdm(args.files, "Tagging", unit="file", disable=None)
    for row in tagging.tag_files(tagger, files):
        line = {"path": row["path"], "model": args.model, **row}
        tqdm.write(
            json.dumps(line, ensure_ascii=False) if args.json else _table(row, args.top)
        )
        rows.append(row)
    if args.csv:
        tagging.scores_table(rows, tagger.tags).to_csv(args.csv, index=False)
    return 2 if any("error" in row for row in rows) else 0


def _table(row: dict, top: int) -> str:
    if "error" in row:
        return f"{row['path']}\n  {row['error']}"
    rows = list(row["tags"].items())[:top]
    width = max(len(tag) for tag, _ in rows)
    return "\n".join(
        [row["path"]]
        + [
            f"  {tag:{width}}  {score:.3f}  {'█' * round(20 * score)}"
            for tag, score in rows
        ]
    )


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
