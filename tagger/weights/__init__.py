"""Trained weights: downloads, conversion from the original projects, and new models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "cards",
        "checkpoints",
        "composition",
        "conversion",
        "downloads",
        "filling",
        "hub",
        "pretrained",
        "readers",
        "tables",
    ],
    submod_attrs={"pretrained": ["digest", "load", "path_of"]},
)
