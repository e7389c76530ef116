"""
A map of similar songs
======================

The input of a tagger's last layer is an embedding: similar songs have similar
embeddings. Here principal components lay 40 excerpts out on a plane. The tags that
colour them were not used.
"""

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tagger import Embedder

music = pd.read_csv("music/music.csv")
embedder = Embedder.from_pretrained()
embeddings = embedder.transform([f"music/{path}" for path in music["path"]])
embeddings.shape  # songs, channels

# %%
# Nature sounds lie apart from the rest, and orchestral music below rock; electronic and
# ambient music are everywhere.

places = make_pipeline(StandardScaler(), PCA(2)).fit_transform(embeddings)
figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
folders = music["path"].str.split("/").str[0].str.replace("_", " ")
for tag in folders.unique():
    chosen = (folders == tag).to_numpy()
    axes.scatter(*places[chosen].T, s=60, label=tag)
axes.set(xlabel="first component", ylabel="second component")
axes.legend()
axes.spines[["top", "right"]].set_visible(False)
