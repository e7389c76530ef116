"""The commands explain, augment and serve: pictures and sounds of one file."""

import argparse
import csv
import importlib.metadata
import importlib.util
import os
from pathlib import Path

from tqdm import tqdm

from tagger import audio, interpretation, library, storage, web, weights
from tagger.cli.arguments import (
    above_zero,
    add_force,
    arguments_of,
    at_least_one,
    check_outputs,
    not_below_zero,
    not_negative,
    port,
)
from tagger.cli.tagging import add_hop, add_tagger, load_tagger
from tagger.inference.tagger import Tagger
from tagger.models.metadata import read_graph
from tagger.storage import load_tensorflow
from tagger.text import TaggerError


def add_explain(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of explain."""
    add = parser.add_argument
    add("file", metavar="FILE", help="audio file of any length and format")
    add_tagger(parser)
    add(
        "--tags",
        metavar="A,B",
        help="tags to explain, separated by commas; quote a tag that contains a comma"
        " (default: the 3 highest)",
    )
    add("--second-file", metavar="FILE", help="second clip, shown next to the first")
    add(
        "--start",
        type=not_negative,
        metavar="SECONDS",
        help="start of the segment to explain (default: where the tags score highest)",
    )
    add_hop(parser)
    add(
        "--output",
        metavar="DIR",
        default="explained",
        help="folder to write to (default: ./explained)",
    )
    add_force(parser)


def explain(args: argparse.Namespace) -> None:
    """Writes the pictures, the sounds and the page."""
    check_outputs(args, "output")
    load_tensorflow()
    tags = None
    if args.tags:
        (tags,) = csv.reader([args.tags], skipinitialspace=True)
    with storage.writer_lock(Path(args.output), "`output=`"):
        page, *files = interpretation.report.explain(
            load_tagger(args),
            args.file,
            args.output,
            tags,
            args.second_file,
            args.start,
            args.hop,
        )
    print(*files, f"Open {page}", sep="\n")


def add_augment(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of augment."""
    add = parser.add_argument
    add("file", metavar="FILE", help="audio file of any format")
    add(
        "--output",
        metavar="DIR",
        default="augmented",
        help="folder to write to (default: ./augmented)",
    )
    add(
        "--sample-rate",
        type=at_least_one,
        default=22050,
        help="sample rate in Hz (default: 22050)",
    )
    add(
        "--seconds",
        type=above_zero,
        default=10.0,
        help="length of the crop (default: 10)",
    )
    add("--seed", type=not_below_zero, default=0, help="random seed (default: 0)")
    add_force(parser)


def augment(args: argparse.Namespace) -> None:
    """Writes each transform and the chain as wav, and a plot of their spectrograms."""
    for flag, value, highest in (
        ("--seconds", args.seconds, 3600),
        ("--sample-rate", args.sample_rate, 400_000),
    ):
        if value > highest:
            raise TaggerError(f"{flag} must be at most {highest:,}, not {value:,g}.")
    num_samples = int(args.seconds * args.sample_rate)
    if num_samples < args.sample_rate // 10:
        raise TaggerError(f"--seconds must be at least 0.1, not {args.seconds:g}.")
    check_outputs(args, "output")
    load_tensorflow()
    from tagger import augmentations, plotting

    waveform = audio.load_audio(args.file, args.sample_rate)
    made = augmentations.examples(waveform, args.sample_rate, num_samples, args.seed)
    folder = Path(args.output)
    with storage.writer_lock(folder, "`output=`"):
        for number, (name, noised) in enumerate(tqdm(made.items(), disable=None), 1):
            path = folder / f"{number}_{name}.wav"
            audio.write_audio(path, noised, args.sample_rate)
            print(path)
        figure = interpretation.figures.plot_spectrograms(made, args.sample_rate)
        plotting.save(figure, folder / "spectrograms.png")
        print(folder / "spectrograms.png")


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of serve."""
    add_tagger(parser)
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, only for this machine)",
    )
    add(
        "--port",
        type=port,
        default=7860,
        help="port to listen on (default: %(default)s)",
    )
    add(
        "--max-minutes",
        type=above_zero,
        default=20.0,
        metavar="X",
        help="maximum length of a song in minutes (default: %(default)g)",
    )
    add(
        "--max-megabytes",
        type=above_zero,
        default=200.0,
        metavar="X",
        help="maximum size of a file in MB (default: %(default)g)",
    )
    add(
        "--library",
        nargs="?",
        type=Path,
        const=library.database.default_path(),
        metavar="FILE",
        help="also search the library that tagger scan fills, and play its songs;"
        " without FILE: the library in the user's data folder",
    )
    add(
        "--api-key",
        default=os.environ.get("TAGGER_API_KEY") or None,
        metavar="KEY",
        help="what requests to the HTTP API must send in the header X-API-Key (default:"
        " $TAGGER_API_KEY, or nothing)",
    )


def serve(args: argparse.Namespace) -> None:
    """Serves the page until it is interrupted."""
    found = importlib.util.find_spec("gradio") and importlib.metadata.version("gradio")
    if not found or tuple(map(int, found.split(".")[:2])) < (6, 20):
        raise ImportError(
            f"The page needs Gradio 6.20 or newer; installed: {found or 'none'}. Run"
            " pip install 'gradio>=6.20'."
        )
    if args.api_key == "":
        raise TaggerError("--api-key is empty. Give a key, or omit it.")
    if not importlib.util.find_spec("fastapi_offline"):
        raise ImportError(
            "The HTTP API needs fastapi-offline. Run pip install"
            " 'fastapi-offline>=1.7'."
        )
    collection = web.collection.Collection(args.library) if args.library else None
    load_tensorflow()
    tagger = scorer = load_tagger(args)
    if read_graph(weights.path_of(args.model)) is not None:  # the faster engine
        scorer = Tagger(args.model, tagger.tags)
    given = arguments_of(web.page.serve, args)
    web.page.serve(tagger, scorer, collection=collection, **given)
