"""Builds, verifies and reads shards of clips: records, manifest, tf.data pipelines."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "building",
        "crops",
        "manifest",
        "mixing",
        "pipeline",
        "records",
        "resemul",
        "tfds",
        "verification",
        "workers",
    ],
)
