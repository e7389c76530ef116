"""What the network heard, for one recording or for a whole split.

    excitation_tables   SE blocks: excitations per clip and block (Kim et al. 2018)
    attention_maps      Transformers: attention, and tag-wise contribution (Won et al.
                        2019)
    attributions        any model: which times and frequencies raised a tag's score
    report              `python -m tagger explain`: pictures, arrays, a page of a file

Arrays come out; `plotting` draws them.
"""

from tagger.interpretation.attention_maps import (
    Attention,
    attention,
    contribution,
    half_and_half,
)
from tagger.interpretation.attributions import Attribution, attribute, filtered
from tagger.interpretation.excitation_tables import (
    clip_loudness,
    excitation_spread,
    excitations,
    load_excitations,
    loudness_regression,
    nearest_tags,
    save_excitations,
    save_figures,
    tag_distances,
    tag_excitations,
)
from tagger.interpretation.spectrograms import Spectrogram, spectrogram

__all__ = [
    "Attention",
    "Attribution",
    "Spectrogram",
    "attention",
    "attribute",
    "clip_loudness",
    "contribution",
    "excitation_spread",
    "excitations",
    "filtered",
    "half_and_half",
    "load_excitations",
    "loudness_regression",
    "nearest_tags",
    "save_excitations",
    "save_figures",
    "spectrogram",
    "tag_distances",
    "tag_excitations",
]
