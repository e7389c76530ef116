"""
A tag compared across models
============================

Four pretrained networks have a tag *rock*: two architectures, each trained on two
datasets. Do they agree on which excerpts are rock?
"""

import matplotlib.pyplot as plt
import pandas as pd
from scipy.stats import spearmanr

from tagger import Tagger

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
pd.DataFrame(spearmanr(scores).statistic, names, names).round(2)  # rank correlations

# %%
# Scores of different models have different scales: compare the order, not the values.
# Each line is an excerpt; those tagged rock are red.

ranks = scores.rank()
figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
for path, line in ranks.iterrows():
    is_rock = path.startswith("rock/")
    axes.plot(names, line, color="crimson" if is_rock else "lightgrey", zorder=is_rock)
axes.set(ylabel="rank of the score of rock, of 40 excerpts")
axes.spines[["top", "right"]].set_visible(False)
