"""Annotations of the datasets: one file per dataset, with its facts at the top."""

import dataclasses
from collections.abc import Callable

from tagger.datasets import csv_manifest, magnatagatune, million_song, mtg_jamendo
from tagger.datasets.annotations import Annotations


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that the build commands can read.

    Attributes:
        short_name: Name on the command line.
        load_annotations: Function(folder or file, …) -> Annotations; its other
            arguments are options of the command.
        command: Command that builds the shards.
        max_missing: Default of --max-missing, the largest share of the clips whose
            audio may be missing.
    """

    short_name: str
    load_annotations: Callable[..., Annotations]
    command: str
    max_missing: float = 0.01


# Key: `Annotations.dataset`.
DATASETS = {
    "magnatagatune": Dataset(
        "mtt", magnatagatune.load_annotations, "python build_mtt.py"
    ),
    "million_song": Dataset(  # few people have all of its audio
        "msd", million_song.load_annotations, "python build_msd.py", max_missing=1.0
    ),
    "mtg_jamendo": Dataset(
        "jamendo", mtg_jamendo.load_annotations, "python -m tagger build jamendo"
    ),
    "csv": Dataset(
        "csv", csv_manifest.load_annotations, "python -m tagger build csv SOURCE"
    ),
}
