"""
How robust are the scores?
==========================

`Won et al. (2020) <https://arxiv.org/abs/2006.00751>`_ changed the test clips by time
stretch, pitch shift, compression and noise, and scored them again. ``eval.py
--robustness FILE.png`` does this for any model and data; here for rock and electronic
music in 40 excerpts.
"""

import tempfile

from tagger import cli, models, plotting
from tagger.data import pipeline
from tagger.evaluation import robustness, scoring
from tagger.weights import pretrained

folder = tempfile.mkdtemp()
build = "build csv music/music.csv --tags music/shared_tags.txt --sample-rate 16000"
cli.main(
    [*build.split(), "--audio-dir", "music", "--output-dir", folder, "--seed", "1"]
)
shards = pipeline.open_shards(folder)
model = pretrained.load("musicnn_mtt")
info = models.model_info(model)
predict = scoring.predictor(model, shards)
clean = scoring.evaluate(predict, shards, info, "train")
table = robustness.measure(predict, shards, info, "train")
table.round(3)

# %%
# The dotted line is the score of the unchanged excerpts.

figure = plotting.plot_robustness(
    table, "roc_auc", clean.macro()["roc_auc"], "musicnn_mtt, rock and electronic"
)
