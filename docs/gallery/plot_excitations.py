"""
Excitations over depth
======================

A squeeze-and-excitation block multiplies each channel by a number between 0 and 1, its
*excitation*. In networks trained on MagnaTagATune, excitations hardly depend on the tag
in the first blocks, and strongly in the last (`Kim, Lee and Nam 2018
<https://arxiv.org/abs/1710.10451>`_). This narrow network, trained for a minute on 40
excerpts, has not come that far: its excitations still differ most in the first blocks.
"""

import tempfile

from tagger import cli, interpretation, models, plotting
from tagger.data import pipeline

folder = tempfile.mkdtemp()
cli.main(["build", "csv", "music/music.csv", "--output-dir", f"{folder}/data"])
train = f"train --data-dir {folder}/data --train-dir {folder}/log --block se"
options = "--num-filters 16 --batch-size 16 --lr 0.03 --num-lr-decays 1"
cli.main([*train.split(), *options.split(), "--max-epochs", "8", "--patience", "8"])

# %%
# The standard deviation between tags, block by block:

model = models.load_model(f"{folder}/log/model.keras")
shards = pipeline.open_shards(f"{folder}/data")
table = interpretation.excitations(model, shards, "train")
spread = interpretation.excitation_spread(table)
figure = plotting.plot_spread(spread)
