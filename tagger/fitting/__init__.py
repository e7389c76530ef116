"""Tags of one's own on the embeddings of trained models, without training networks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["baseline", "calibration", "fit", "heads", "labelled_clips"]
)
