"""Evaluation of scores: metrics, confidence intervals, robustness, comparisons."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "agreement",
        "alignment",
        "bootstrap",
        "figures",
        "metrics",
        "published",
        "rates",
        "reliability",
        "robustness",
        "scoring",
    ],
)
