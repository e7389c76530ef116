"""Who is tagged with what: one file per dataset, its facts on top."""

import dataclasses
from collections.abc import Callable

from tagger.datasets import csv_manifest, magnatagatune, million_song, mtg_jamendo
from tagger.datasets.annotations import Annotations


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What the build commands know of a dataset.

    Attributes:
        short_name: On the command line.
        load_annotations: Function(folder or file, …) -> Annotations; its further
            arguments are the command's options.
        command: What builds its shards.
        max_missing: Share of the clips whose audio may be missing, unless another is
            given.
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
