"""Trained weights: conversion from the original projects, and downloads."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "cards",
        "checkpoints",
        "conversion",
        "downloads",
        "hub",
        "pretrained",
        "readers",
        "tables",
    ],
    submod_attrs={"pretrained": ["digest", "load", "path_of"]},
)
