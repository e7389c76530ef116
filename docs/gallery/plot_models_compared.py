"""
A tag compared across models
============================

Four pretrained networks have a tag *rock*: two architectures, each trained on two
datasets. Do they agree on which excerpts are rock?
"""

import matplotlib.pyplot as plt
import pandas as pd
from scipy.stats import spearmanr

from tagger import Tagger, plotting

music = pd.read_csv("music/music.csv")
paths = [f"music/{path}" for path in music["path"]]
names = ["musicnn_mtt", "vgg_mtt", "musicnn_msd", "vgg_msd"]
scores = pd.DataFrame(
    {
        name: [tags["rock"] for tags in Tagger.from_pretrained(name).tag(paths)]
        for name in names
    },
    index=music["path"],
)
is_rock = scores.index.str.startswith("rock/")
ranks = scores.rank(ascending=False)
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for number, name in enumerate(names):
    for chosen, colour in ((~is_rock, "0.8"), (is_rock, plotting.COLOURS[1])):
        axes.plot(ranks.loc[chosen, name], chosen[chosen] * 0 + number, "|",
                  color=colour, markersize=20, markeredgewidth=2)  # fmt: skip
axes.set_yticks(range(4), names)
axes.set_ylim(3.6, -0.6)
axes.set_xlabel("rank of the score of rock (1: highest); orange: tagged rock")
axes.spines[["top", "right"]].set_visible(False)

# %%
# All four put most of the eight rock excerpts first. Scores of different models have
# different scales, so compare the order, not the values. The rank correlations over all
# 40 excerpts:

pd.DataFrame(spearmanr(scores).statistic, names, names).round(2)
