"""
Where the Transformer looks
===========================

The Music Tagging Transformer (`Won, Choi and Serra 2021
<https://arxiv.org/abs/2111.13457>`_) compares every moment with every other. The
attention of its class token says which moments the scores are made of. This is its
smaller size after a few steps of training on 40 excerpts: enough for the heads to
differ, not for good scores.
"""

import tempfile

from tagger import Tagger, cli, interpretation, models, plotting

folder = tempfile.mkdtemp()
cli.main(["build", "csv", "music/music.csv", "--output-dir", f"{folder}/data"])
train = f"train --data-dir {folder}/data --train-dir {folder}/log --size student"
options = "--model music_tagging_transformer --num-layers 2 --num-heads 4 --lr 0.001"
cli.main([*train.split(), *options.split(), "--batch-size", "8", "--max-epochs", "2"])

# %%
# One row per head; below it, the music.

tagger = Tagger(models.load_model(f"{folder}/log/model.keras"))
segment, _ = tagger.segment("music/rock/mrrescue_rockerronni.opus")
found = interpretation.attention(tagger.model, segment)
figure = plotting.plot_attention(
    {name: found.heads(name)[:, 1:] for name in found.layers},
    found.seconds,
    interpretation.spectrogram(tagger.model, segment),
    "Attention of the class token",
)
