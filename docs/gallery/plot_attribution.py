"""
What raised a tag's score
=========================

Integrated gradients (`Sundararajan et al. 2017 <https://arxiv.org/abs/1703.01365>`_)
divide the score of a tag among the times and frequencies of the music: orange raised
the score, violet lowered it. The cells add up to the difference between the score of
the music and that of silence.
"""

from tagger import Tagger, interpretation, weights
from tagger.interpretation import figures

tagger = Tagger(weights.load("musicnn_mtt"))
segment, _ = tagger.segment("music/rock/muldjord_song.opus")
tags = ["drums", "rock"]
found = interpretation.attribute(tagger.model, segment, tagger.tag_numbers(tags))

# %%
# Above is the music alone. Below, the strongest twentieth of the cells is coloured, on
# one scale for both tags. ``tagger explain`` draws this for every tag you name, and
# plays the music filtered by it.

figure = figures.plot_attributions(
    {f"{tag}: {one.summary}": one.values for tag, one in zip(tags, found, strict=True)},
    found[0].spectrogram,
    "What raised drums and rock",
)
