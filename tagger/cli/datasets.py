"""The commands build and verify: audio and annotations -> shards."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from tqdm import tqdm

from tagger import storage
from tagger.cli.kinds import Count, Folder, Index
from tagger.data import building, resemul, verification
from tagger.data.manifest import MANIFEST_NAME, SHARD_FOLDER, Manifest
from tagger.datasets import DATASETS
from tagger.datasets import demo as demo_music
from tagger.datasets.annotations import Annotations
from tagger.options import Option, OptionsOf
from tagger.text import printable

ShardOptions = Annotated[dict, OptionsOf("tagger.data.building:build", title="shards")]
AudioFolder = Annotated[
    str | None,
    Option(metavar="DIR", help="Folder with the audio, if it is elsewhere"),
]
Place = Annotated[
    str | None,
    Option(
        metavar="DIR",
        help="Folder or URL (gs://…) for the shards; None: tfrecord, next to the"
        " annotations",
    ),
]


def build_mtt(
    *,
    data_dir: Folder = "./dataset",
    output: Place = None,
    audio_dir: AudioFolder = None,
    annotations: Annotated[
        dict,
        OptionsOf(
            "tagger.datasets.magnatagatune:load_annotations", title="annotations"
        ),
    ],
    shards: ShardOptions,
) -> None:
    """Builds MagnaTagATune: mp3 files and annotations_final.csv -> sharded TFRecords.

    The same command resumes an interrupted build.

    Args:
        data_dir: Folder with the annotations and mp3/.
    """
    _build("magnatagatune", data_dir, annotations, audio_dir, output, shards)


def build_msd(
    *,
    data_dir: Folder = "./dataset",
    output: Place = None,
    audio_dir: AudioFolder = None,
    annotations: Annotated[
        dict,
        OptionsOf("tagger.datasets.million_song:load_annotations", title="annotations"),
    ],
    shards: Annotated[
        dict,
        OptionsOf(
            "tagger.data.building:build",
            defaults={"max_missing": 1.0},  # few people have all of its audio
            title="shards",
        ),
    ],
) -> None:
    """Builds the Million Song Dataset with tags of Last.fm: lists, audio -> TFRecords.

    The same command resumes an interrupted build.

    Args:
        data_dir: Folder with the lists of a split and audio/.
    """
    _build("million_song", data_dir, annotations, audio_dir, output, shards)


def build_jamendo(
    *,
    data_dir: Folder = "./dataset",
    output: Place = None,
    audio_dir: AudioFolder = None,
    annotations: Annotated[
        dict,
        OptionsOf("tagger.datasets.mtg_jamendo:load_annotations", title="annotations"),
    ],
    shards: ShardOptions,
) -> None:
    """Builds MTG-Jamendo: TSV files and audio -> sharded TFRecords.

    The same command resumes an interrupted build.

    Args:
        data_dir: Folder with the TSV files and audio/.
    """
    _build("mtg_jamendo", data_dir, annotations, audio_dir, output, shards)


def build_csv(
    source: str,
    *,
    output: Place = None,
    audio_dir: AudioFolder = None,
    annotations: Annotated[
        dict,
        OptionsOf("tagger.datasets.csv_manifest:load_annotations", title="annotations"),
    ],
    shards: ShardOptions,
) -> None:
    """Builds your own music: a csv of paths and tags, or a folder -> sharded TFRecords.

    The same command resumes an interrupted build.

    Args:
        source: A csv of tracks (separated by comma, semicolon or tab), or a folder with
            one subfolder per tag.
    """
    _build("csv", source, annotations, audio_dir, output, shards)


def _build(
    dataset: str,
    source: str,
    annotations: dict,
    audio_dir: str | None,
    output: str | None,
    shards: dict,
) -> None:
    """Builds the shards of a dataset."""
    found = DATASETS[dataset].load_annotations(source, **annotations)
    if audio_dir:
        found = dataclasses.replace(found, audio_dir=Path(audio_dir))
    folder = Path(source) if Path(source).is_dir() else Path(source).parent
    output = output or folder / SHARD_FOLDER
    if shards.get("features"):
        storage.load_tensorflow()
    if old := resemul.shard_paths(storage.location(output)):
        print(
            printable(
                f"{output} holds {len(old)} shards of the original resemul, which every"
                " command reads as they are. This build leaves them there and writes"
                " its own beside them; as soon as it has begun, only these are read."
            )
        )
    if found.dataset == "csv":  # others have splits that others have checked
        print(printable(_tag_table(found), keep="\n"))
    manifest = building.build(found, output, **shards)
    print(printable(building.summary(manifest, output), keep="\n"))


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


def build_demo(
    *,
    data_dir: Folder = "./demo",
    num_clips: Count = 320,
    seed: Index = 0,
) -> None:
    """Synthesises a small dataset in MagnaTagATune's layout, for build mtt.

    Args:
        data_dir: Folder to create.
        num_clips: Number of clips.
        seed: Random seed of the music.
    """
    demo_music.synthesize(data_dir, num_clips, seed)
    print(f"{num_clips} demo clips are in {data_dir}")


def verify(directory: Annotated[str, Option(metavar="DIR")]) -> int:
    """Checks every checksum and record in a folder of shards.

    Args:
        directory: Folder with the shards, or its parent.

    Returns:
        Exit code: 2 if something is wrong.
    """
    place = storage.location(directory)
    folders = [place, place / SHARD_FOLDER]
    for folder in folders:
        if (folder / MANIFEST_NAME).exists():
            return _verify_build(folder)
    for folder in folders:
        if resemul.shard_paths(folder):
            return _verify_resemul(folder)
    raise FileNotFoundError(
        f"There is no {MANIFEST_NAME} in {directory!r} or its {SHARD_FOLDER}/."
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
