"""Builds, verifies and reads shards of clips: records, index, batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "batches",
        "building",
        "clips",
        "manifest",
        "records",
        "resemul",
        "tfds",
        "verification",
        "workers",
    ],
)
