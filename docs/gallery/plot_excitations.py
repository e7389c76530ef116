"""
Excitations over depth
======================

A squeeze-and-excitation block multiplies each channel by a number between 0 and 1, its
*excitation* (`Kim, Lee and Nam 2018 <https://arxiv.org/abs/1710.10451>`_). Here are the
mean excitations of each tag's clips in the network of ``make demo``, which has a tenth
of the paper's filters and hears ten tags of synthetic music.
"""

import numpy as np
import pandas as pd

from tagger.interpretation import figures

stored = np.load("demo_excitations.npz")
blocks = {
    number: pd.DataFrame(stored[f"block{number}"], stored["tags"])
    for number in range(1, 10)
}
shown = ["loud", "quiet", "synth bass"]  # those that differ most from all tags
figure = figures.plot_excitations(blocks[1], "Excitations at block 1", shown)

# %%
# At the first block, loud and quiet clips lie far apart, and all others between them:
# it follows the level of the music. In the middle, the lines lie closest together.

figure = figures.plot_excitations(blocks[5], "Excitations at block 5", shown)

# %%
# At the last block, each channel separates other tags.

figure = figures.plot_excitations(blocks[9], "Excitations at block 9", shown)

# %%
# The standard deviation between tags, block by block. As in the paper, the tags differ
# most in the first block and least in the middle. There, in a full-size network on
# MagnaTagATune, the curve rises again to the last block (.055 at the first, .018 at the
# fifth, .042 at the last); this narrow network hardly has that rise.

spread = {n - 1: block.std(ddof=0).mean() for n, block in blocks.items()}
figure = figures.plot_spread(pd.Series(spread))

# %%
# ``extract_excitations.py MODEL --plots DIR`` draws these pictures, and more, for a
# model and a data set of yours.
