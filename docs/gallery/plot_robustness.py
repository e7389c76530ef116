"""
How robust are the scores?
==========================

`Won et al. (2020) <https://arxiv.org/abs/2006.00751>`_ changed the test clips by time
stretch, pitch shift, compression and noise, and scored them again. ``eval.py
--robustness FILE.png`` does this for any model and data; here for rock and electronic
music in 16 excerpts.
"""

import tempfile

import pandas as pd

from tagger import cli, models, plotting
from tagger.data import pipeline
from tagger.evaluation import robustness, scoring
from tagger.weights import pretrained

folder = tempfile.mkdtemp()
music = pd.read_csv("music/music.csv")
music = music[music["path"].str.startswith(("rock/", "electronic/"))]
music[["path", "tags"]].assign(split="test").to_csv(f"{folder}/music.csv", index=False)
build = "--tags music/shared_tags.txt --sample-rate 16000 --audio-dir music"
cli.main(
    ["build", "csv", f"{folder}/music.csv", "--output-dir", folder, *build.split()]
)
shards = pipeline.open_shards(folder)
model = pretrained.load("musicnn_mtt")
info = models.model_info(model)
predict = scoring.predictor(model, shards)
clean = scoring.evaluate(predict, shards, info, "test")
table = robustness.measure(predict, shards, info, "test")
table.round(3)

# %%
# The dotted line is the score of the unchanged excerpts.

figure = plotting.plot_robustness(
    table, "roc_auc", clean.macro()["roc_auc"], "musicnn_mtt, rock and electronic"
)
