"""Shows what a network responds to, in one recording or a whole split.

    excitation_tables   SE blocks: excitations per clip and block (Kim et al. 2018)
    attention_maps      Transformers: attention, and tag-wise contribution (Won et al.
                        2019)
    attributions        any model: which times and frequencies raised a tag's score
    spectrograms        the spectrograms of the music that the pictures show
    report              `python -m tagger explain`: pictures, arrays and one page

The functions return arrays; `figures` draws them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["attention_maps", "figures", "report"],
    submod_attrs={
        "attention_maps": [
            "Attention",
            "attention",
            "contribution",
            "half_and_half",
            "layer_titles",
        ],
        "attributions": ["Attribution", "attribute", "filtered"],
        "excitation_tables": [
            "clip_loudness",
            "excitation_spread",
            "excitations",
            "load_excitations",
            "loudness_regression",
            "most_different_tags",
            "nearest_tags",
            "save_excitations",
            "save_figures",
            "tag_distances",
            "tag_excitations",
        ],
        "spectrograms": ["Spectrogram", "spectrogram"],
    },
)
