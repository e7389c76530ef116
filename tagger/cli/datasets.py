"""The commands build, verify and demo: audio and annotations -> shards."""

import argparse
import dataclasses
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tagger import storage
from tagger.cli.arguments import (
    add_tag_list,
    arguments_of,
    at_least_one,
    at_least_two,
    not_below_zero,
)
from tagger.data import building, resemul, verification
from tagger.data.manifest import MANIFEST_NAME, SHARD_FOLDER, Manifest
from tagger.data.records import SAMPLE_RATE, SEGMENT_SAMPLES
from tagger.datasets import DATASETS, Dataset, magnatagatune, million_song, mtg_jamendo
from tagger.datasets import demo as demo_music
from tagger.datasets.annotations import Annotations
from tagger.storage import load_tensorflow
from tagger.text import printable


def add_build(parser: argparse.ArgumentParser) -> None:
    """Adds one subcommand per dataset."""
    names = parser.add_subparsers(metavar="DATASET", required=True)
    for dataset in DATASETS.values():
        documentation = sys.modules[dataset.load_annotations.__module__].__doc__
        title, _, _ = documentation.partition("\n")
        one = names.add_parser(
            dataset.short_name,
            help=title.replace("%", "%%"),
            description=documentation.replace("%", "%%"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_build_of(one, dataset.short_name)


def add_build_of(parser: argparse.ArgumentParser, short_name: str) -> None:
    """Adds the arguments that build one dataset."""
    (dataset,) = (d for d in DATASETS.values() if d.short_name == short_name)
    add = parser.add_argument
    if short_name == "csv":
        add(
            "source",
            metavar="SOURCE",
            help="tracks.csv (separated by comma, semicolon or tab), or a folder with"
            " one subfolder per tag",
        )
    else:
        add(
            "--data-dir",
            default="./dataset",
            help="folder with the annotations and the audio (default: ./dataset)",
        )
    add(
        "--output-dir",
        metavar="DIR",
        help="folder or URL (gs://…) for the shards (default: tfrecord, next to the"
        " annotations)",
    )
    add("--audio-dir", metavar="DIR", help="folder with the audio, if it is elsewhere")
    annotations = parser.add_argument_group("annotations")
    _ANNOTATION_OPTIONS.get(short_name, lambda group: None)(annotations)
    _add_shard_options(parser.add_argument_group("shards"), dataset)
    parser.set_defaults(dataset=dataset)


def _add_mtt_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--variant",
        choices=tuple(magnatagatune.VARIANTS),
        default="resemul",
        help="paper or project whose rules for the annotations are used; lee"
        " splits by Lee's lists, multi_scale at random, the others by directory"
        " (default: resemul)",
    )
    add(
        "--num-tags",
        type=at_least_one,
        default=magnatagatune.NUM_TAGS,
        metavar="N",
        help="use the N most frequent tags (default: %(default)s)",
    )
    _add_seed(group, "seed of the random split")


def _add_msd_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--split",
        choices=tuple(million_song.SPLIT_RULES),
        default="classic",
        help="classic (241,889 tracks) or cals (749,562 tracks, two thirds unlabelled);"
        " default: classic",
    )
    group.add_argument(
        "--labelled-only",
        action="store_true",
        help="leave out the unlabelled tracks of cals",
    )


def _add_jamendo_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--subset",
        choices=tuple(mtg_jamendo.PUBLISHED_COUNTS),
        default="top50tags",
        help="set of tags (default: top50tags)",
    )
    add(
        "--split",
        type=int,
        choices=range(5),
        default=0,
        help="number of the published random split (default: 0)",
    )
    add(
        "--low",
        action="store_true",
        help="read the mono files with a lower bit rate (.low.mp3)",
    )


def _add_csv_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add_tag_list(add)
    add(
        "--num-tags",
        type=at_least_one,
        metavar="N",
        help="use the N most frequent tags",
    )
    add(
        "--folds",
        type=at_least_two,
        metavar="K",
        help="also deal the tagged clips to K folds by artist, for cross-validation"
        " with tagger fit and eval",
    )
    _add_seed(
        group, "seed of the random split, if the csv has no split, and of --folds"
    )


_ANNOTATION_OPTIONS = {
    "mtt": _add_mtt_options,
    "msd": _add_msd_options,
    "jamendo": _add_jamendo_options,
    "csv": _add_csv_options,
}


def _add_shard_options(group: argparse._ArgumentGroup, dataset: Dataset) -> None:
    add = group.add_argument
    add(
        "--sample-rate",
        type=at_least_one,
        metavar="HZ",
        help="sample rate of the waveforms (default: that of --features, or"
        f" {SAMPLE_RATE})",
    )
    add(
        "--num-samples",
        dest="segment_samples",
        type=at_least_one,
        metavar="N",
        help="length of a segment in samples (default: that of the models with these"
        f" --features, or {SEGMENT_SAMPLES})",
    )
    add(
        "--num-audios-per-shard",
        type=at_least_one,
        default=100,
        metavar="N",
        help="clips per shard (default: %(default)s)",
    )
    add(
        "--features",
        metavar="NAME",
        help="write log-mel spectrograms of this model or preset (musicnn, won2019 …)"
        " instead of waveforms",
    )
    add(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="data type of log-mel spectrograms (default: float16)",
    )
    add(
        "--num-workers",
        type=at_least_one,
        metavar="N",
        help="number of workers on this machine (default: one per core that"
        " this process may use)",
    )
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="address of a Dask scheduler whose workers build the shards; they must"
        " find the audio and the output folder under the same paths",
    )
    for what, default in (("skipped", 0.01), ("missing", dataset.max_missing)):
        add(
            f"--max-{what}",
            type=float,
            default=default,
            metavar="X",
            help=f"maximum share of clips that may be {what} (default: {default:g})",
        )


def _add_seed(group: argparse._ArgumentGroup, text: str) -> None:
    group.add_argument("--seed", type=not_below_zero, default=0, metavar="N", help=text)


def build(args: argparse.Namespace) -> None:
    """Builds the shards of a dataset."""
    load = args.dataset.load_annotations
    first = next(iter(inspect.signature(load).parameters))
    source = Path(getattr(args, first))
    annotations = load(**arguments_of(load, args))
    if args.audio_dir:
        annotations = dataclasses.replace(annotations, audio_dir=Path(args.audio_dir))
    folder = source if source.is_dir() else source.parent
    args.output_dir = args.output_dir or folder / SHARD_FOLDER
    args.annotations = annotations
    if args.features:
        load_tensorflow()
    if found := resemul.shard_paths(storage.location(args.output_dir)):
        print(
            printable(
                f"{args.output_dir} holds {len(found)} shards of the original resemul,"
                " which every command reads as they are. This build leaves them there"
                " and writes its own beside them; as soon as it has begun, only these"
                " are read."
            )
        )
    if annotations.dataset == "csv":  # others have splits that others have checked
        print(printable(_tag_table(annotations), keep="\n"))
    manifest = building.build(**arguments_of(building.build, args))
    print(printable(building.summary(manifest, args.output_dir), keep="\n"))


def _tag_table(annotations: Annotations) -> str:
    """Returns the number of clips of each tag in each split as text."""
    splits = [split for split in annotations.counts() if split != "student"]
    width = max(map(len, annotations.tags))
    lines = [f"{'clips':{width}}  " + "  ".join(f"{split:>6}" for split in splits)]
    for tag, column in zip(annotations.tags, annotations.labels.T, strict=True):
        counts = [int(column[annotations.splits == split].sum()) for split in splits]
        numbers = "  ".join(f"{count:6,}" for count in counts)
        lines.append(f"{tag:{width}}  {numbers}")
    if annotations.folds is not None:
        counts = np.bincount(annotations.folds[annotations.folds >= 0])
        lines.append(f"clips per fold: {', '.join(map(str, counts))}")
    return "\n".join(lines)


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of verify."""
    parser.add_argument(
        "directory", metavar="DIR", help="folder with the shards, or its parent"
    )


def verify(args: argparse.Namespace) -> int:
    """Checks a folder of shards; returns exit code 2 if something is wrong."""
    directory = storage.location(args.directory)
    folders = [directory, directory / SHARD_FOLDER]
    for folder in folders:
        if (folder / MANIFEST_NAME).exists():
            return _verify_build(folder)
    for folder in folders:
        if resemul.shard_paths(folder):
            return _verify_resemul(folder)
    raise FileNotFoundError(
        f"There is no {MANIFEST_NAME} in {args.directory!r} or its {SHARD_FOLDER}/."
        " Give the folder that a build command wrote."
    )


def _list_faults(
    directory: Path | storage.Remote,
    shards: Iterable[tuple[str, list[str]]],
    total: int,
) -> list[str]:
    """Prints the faults of shards, and returns the names of those that have some."""
    bad = []
    for name, faults in tqdm(shards, "Verifying", total, unit="shard", disable=None):
        for fault in faults:
            tqdm.write(printable(f"{directory / name}: {fault}"))
        bad += [name] * bool(faults)
    return bad


def _verify_resemul(directory: Path) -> int:
    total = len(resemul.shard_paths(directory))
    bad = _list_faults(directory, verification.verify_resemul(directory), total)
    print(
        f"{total} shards of the original resemul, without a manifest; {len(bad)} files"
        " with faults (the checksum of every record was compared)"
    )
    return 2 if bad else 0


def _verify_build(directory: Path | storage.Remote) -> int:
    manifest = Manifest.load(directory)
    total = len(manifest.shards)
    bad = _list_faults(directory, verification.verify(directory, manifest), total)
    if not manifest.complete:
        print(
            f"The build in {directory} is incomplete. Run the build command again to"
            " resume it."
        )
    num_clips = sum(manifest.num_clips(split) for split in manifest.splits)
    print(f"{total} shards, {num_clips:,} clips, {len(bad)} files with faults")
    if bad:
        print(
            "Delete them and run the build command again: it writes only missing files."
        )
    return 2 if bad or not manifest.complete else 0


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of demo."""
    add = parser.add_argument
    add("--data-dir", default="./demo", help="folder to create (default: ./demo)")
    add(
        "--num-clips",
        type=at_least_one,
        default=320,
        help="number of clips (default: %(default)s)",
    )
    add("--seed", type=not_below_zero, default=0, help="random seed of the music")


def demo(args: argparse.Namespace) -> None:
    """Synthesises the demo clips."""
    demo_music.synthesize(args.data_dir, args.num_clips, args.seed)
    print(f"{args.num_clips} demo clips are in {args.data_dir}")
