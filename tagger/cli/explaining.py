"""explain, augment, serve: pictures and sounds of one file."""

import argparse
import csv
import importlib.metadata
import importlib.util
from pathlib import Path

from tagger.cli.arguments import above_zero, arguments_of, at_least_one, port
from tagger.cli.process import load_tensorflow
from tagger.cli.tagging import add_tagger, load_tagger


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds this module's commands."""
    _add_explain(commands)
    _add_serve(commands)
    _add_augment(commands)


def _add_explain(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "explain", help="pictures, sounds and a page of why a file is tagged so"
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="audio of any length and format")
    add_tagger(parser)
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
    parser.set_defaults(call=_explain)


def _explain(args: argparse.Namespace) -> int:
    load_tensorflow()
    from tagger.interpretation import report

    tags = None
    if args.tags:
        (tags,) = csv.reader([args.tags], skipinitialspace=True)
    for path in report.explain(
        load_tagger(args),
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


def _add_serve(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "serve", help="a page on this machine that tags, plays and explains songs"
    )
    add_tagger(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="default: %(default)s, this machine alone")
    add("--port", type=port, default=7860, help="default: %(default)s")
    add(
        "--max-minutes",
        type=above_zero,
        default=20.0,
        metavar="X",
        help="longer songs are refused (default: %(default)g)",
    )
    add(
        "--max-megabytes",
        type=above_zero,
        default=200.0,
        metavar="X",
        help="larger files are refused (default: %(default)g)",
    )
    parser.set_defaults(call=_serve)


def _serve(args: argparse.Namespace) -> int:
    found = importlib.util.find_spec("gradio") and importlib.metadata.version("gradio")
    if not found or int(found.split(".")[0]) < 6:
        raise ImportError(
            f"The page needs Gradio 6 or newer, and there is {found or 'none'}: pip"
            " install 'gradio>=6'."
        )
    load_tensorflow()
    from tagger.web import page

    page.serve(load_tagger(args), **arguments_of(page.serve, args))
    return 0
