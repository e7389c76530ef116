"""
Your own tags: how well each is recognised
==========================================

``tagger fit`` learns new tags on the embeddings of a trained network. Its scores come
from cross-validation over artists: every song is scored by a last layer that has heard
neither the song nor anything else by its artist.
"""

from tagger.evaluation import bootstrap, figures, metrics
from tagger.fitting import fit as fitting

options = fitting.FitOptions(has_baselines=False)
fitted = fitting.fit(["student"], "music/music.csv", options)
scores = metrics.per_tag(fitted.scored)
figure = figures.plot_scores(
    scores.join(bootstrap.intervals_per_tag(fitted.scored, 1000)),
    "Five tags from 40 excerpts, fitted on student",
)

# %%
# With 8 to 14 excerpts per tag, most intervals overlap: which tag is recognised better
# cannot be said. More songs narrow the intervals.

scores.round(3)
