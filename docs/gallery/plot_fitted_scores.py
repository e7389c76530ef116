"""
Your own tags: how well each is recognised
==========================================

``tagger fit`` learns new tags on the embeddings of a trained network. Its scores come
from cross-validation over artists: every song is scored by a model that has heard
neither the song nor anything else by its artist.
"""

from tagger import plotting
from tagger.training import transfer

options = transfer.FitOptions(has_baselines=False)
fitted = transfer.fit(["student"], "music/music.csv", options)
fitted.table()

# %%
# With 8 to 14 excerpts per tag, the differences between tags may be chance. More songs
# narrow the intervals.

figure = plotting.plot_scores(fitted.scored.per_tag(), "Five tags from 40 excerpts")
