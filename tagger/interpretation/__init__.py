"""Shows what a network responds to, in one recording or a whole split.

    excitation_tables   SE blocks: excitations per clip and block (Kim et al. 2018)
    attention_maps      Transformers: attention, and tag-wise contribution (Won et al.
                        2019)
    attributions        any model: which times and frequencies raised a tag's score
    spectrograms        the spectrograms of the music that the pictures show
    report              `python -m tagger explain`: pictures, arrays and one page

The functions return arrays; `plotting` draws them.
"""

import importlib

from tagger.interpretation.attention_maps import (
    Attention,
    attention,
    contribution,
    half_and_half,
)
from tagger.interpretation.attributions import Attribution, attribute, filtered
from tagger.interpretation.spectrograms import Spectrogram, spectrogram

# Imported on first use: excitation_tables needs TensorFlow, which the rest does not.
_OF_TABLES = (
    "clip_loudness",
    "excitation_spread",
    "excitations",
    "load_excitations",
    "loudness_regression",
    "nearest_tags",
    "save_excitations",
    "save_figures",
    "tag_distances",
    "tag_excitations",
)

__all__ = [
    "Attention",
    "Attribution",
    "Spectrogram",
    "attention",
    "attribute",
    "contribution",
    "filtered",
    "half_and_half",
    "spectrogram",
    *_OF_TABLES,
]


def __getattr__(name):
    if name in _OF_TABLES:
        tables = importlib.import_module("tagger.interpretation.excitation_tables")
        return getattr(tables, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
