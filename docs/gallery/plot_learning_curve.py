"""
How many songs does a tag need?
===============================

Fits the same tags with one to four songs per tag, in 30 random draws, and scores the
songs that were left out.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tagger import Embedder

music = pd.read_csv("music/music.csv")
labels = music["tags"].str.get_dummies(";")
embedder = Embedder.from_pretrained()
embeddings = embedder.transform([f"music/{path}" for path in music["path"]])

# %%
# Half of the artists are always left out, so that no artist is both learned from and
# scored.

rng = np.random.default_rng(0)
sizes, curve = [1, 2, 3, 4], []
for _draw in range(30):
    artists = rng.permutation(music["artist"].unique())
    is_train = music["artist"].isin(artists[: len(artists) // 2]).to_numpy()
    aucs = {size: [] for size in sizes}
    for tag in labels:
        given = labels[tag].to_numpy()
        positives = rng.permutation(np.flatnonzero(is_train & (given == 1)))
        negatives = np.flatnonzero(is_train & (given == 0))
        if len(positives) < max(sizes) or len(np.unique(given[~is_train])) < 2:
            continue
        for size in sizes:
            rows = np.concatenate([positives[:size], negatives])
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced")
            ).fit(embeddings[rows], given[rows])
            scores = model.decision_function(embeddings[~is_train])
            aucs[size].append(roc_auc_score(given[~is_train], scores))
    curve += [(size, np.mean(found)) for size, found in aucs.items() if found]
curve = pd.DataFrame(curve, columns=["songs per tag", "ROC-AUC"])
curve.groupby("songs per tag")["ROC-AUC"].agg(["mean", "std"]).round(3)

# %%
# One song per tag is already better than chance (.5). Single draws (grey) differ by
# more than the means: with so few songs, it matters which ones you take.

figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
means = curve.groupby("songs per tag")["ROC-AUC"].mean()
axes.plot(curve["songs per tag"], curve["ROC-AUC"], ".", color="lightgrey")
axes.plot(means.index, means, "o-")
axes.set(xlabel="songs per tag", ylabel="macro ROC-AUC on other artists", xticks=sizes)
axes.spines[["top", "right"]].set_visible(False)
