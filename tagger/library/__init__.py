"""A music collection that is scanned once and asked often."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "database",
        "fields",
        "journal",
        "mapping",
        "playlists",
        "queries",
        "scanning",
        "similarity",
        "songs",
        "watching",
        "writing",
    ],
)
