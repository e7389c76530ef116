"""build, verify, demo: audio and annotations -> shards."""

import argparse
import inspect
import sys
from pathlib import Path

from tagger.cli.arguments import (
    add_options_of,
    argument_docs,
    arguments_of,
    at_least_one,
)
from tagger.cli.process import load_tensorflow


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds this module's commands."""
    _add_build(commands)
    _add_verify(commands)
    _add_demo(commands)


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
    from tagger.data import building
    from tagger.datasets import DATASETS

    (dataset,) = (d for d in DATASETS.values() if d.short_name == short_name)
    first = next(iter(inspect.signature(dataset.load_annotations).parameters))
    text = argument_docs(dataset.load_annotations)[first]
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

    from tagger.data import building, records

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

    from tagger import storage
    from tagger.data import records

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
