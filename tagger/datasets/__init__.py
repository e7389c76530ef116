"""Annotations of the datasets: one file per dataset, with its facts at the top."""

import dataclasses
from collections.abc import Callable

from tagger.datasets import csv_manifest, magnatagatune, million_song, mtg_jamendo
from tagger.datasets.annotations import Annotations


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that the build commands can read.

    Attributes:
        load_annotations: Function(folder or file, …) -> Annotations; its other
            arguments are options of the command.
        command: Command that builds the shards.
    """

    load_annotations: Callable[..., Annotations]
    command: str


# Key: `Annotations.dataset`.
DATASETS = {
    "magnatagatune": Dataset(magnatagatune.load_annotations, "python build_mtt.py"),
    "million_song": Dataset(million_song.load_annotations, "python build_msd.py"),
    "mtg_jamendo": Dataset(
        mtg_jamendo.load_annotations, "python -m tagger build jamendo"
    ),
    "csv": Dataset(csv_manifest.load_annotations, "python -m tagger build csv SOURCE"),
}
