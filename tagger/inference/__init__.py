"""Tags and embeddings of audio files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "embedding_cache",
        "embedding_files",
        "embeddings",
        "engines",
        "selection",
        "sharing",
        "streaming",
        "tagger",
        "writers",
    ],
)
