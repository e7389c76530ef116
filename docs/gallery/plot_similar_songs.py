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

from tagger import Embedder, plotting

music = pd.read_csv("music/music.csv")
embedder = Embedder.from_pretrained()
embeddings = embedder.transform([f"music/{path}" for path in music["path"]])
components = PCA(2)
places = make_pipeline(StandardScaler(), components).fit_transform(embeddings)
folders = music["path"].str.split("/").str[0]
figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
for folder, colour, marker in zip(
    folders.unique(), plotting.COLOURS, "osD^v", strict=False
):
    chosen = (folders == folder).to_numpy()
    name = folder.replace("_", " ")
    axes.scatter(*places[chosen].T, 40, colour, marker=marker, label=name)
    first = chosen.argmax()  # one song of each folder is named
    name = music["path"][first].split("/")[1].removesuffix(".opus")
    axes.annotate(name, places[first], (5, 5), textcoords="offset points", size=7)
first, second = components.explained_variance_ratio_
axes.set(
    xlabel=f"first component ({first:.0%} of the variance)",
    ylabel=f"second component ({second:.0%})",
)
figure.legend(loc="outside lower center", ncols=3, frameon=False)
axes.spines[["top", "right"]].set_visible(False)

# %%
# Nature sounds lie apart from the rest, and most orchestral music apart from rock;
# electronic and ambient music are everywhere. A plane shows only part of what separates
# songs: ``tagger similar`` compares all 128 channels.
