"""Tags and embeddings of audio files, and export of models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "embedding_cache",
        "embedding_files",
        "embeddings",
        "engines",
        "export",
        "filling",
        "selection",
        "sharing",
        "streaming",
        "tagger",
        "writers",
    ],
)
