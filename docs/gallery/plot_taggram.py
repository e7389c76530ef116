"""
Scores over time
================

A *taggram* shows what a song sounds like, moment by moment: one row per tag, one column
per segment of three seconds.
"""

from tagger import Tagger
from tagger.interpretation import figures

tagger = Tagger.from_pretrained()
song = "music/orchestral/openclonk_urbanbolero.opus"
taggram = tagger.taggram(song, hop_seconds=0.5)
highest = list(tagger.named(taggram.aggregated()))[:12]
numbers = tagger.tag_numbers(highest)
figure = figures.plot_taggram(
    taggram.scores[:, numbers],
    highest,
    taggram.seconds,
    taggram.segment_seconds,
    "Urban Bolero",
)

# %%
# The tags are those with the highest means over all segments. Drums lead
# throughout; *electronic* and *ambient* rise in the first half.
