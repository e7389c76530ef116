"""
Augmentations, seen
===================

``train.py --augment`` changes every training segment at random, so that the network
learns what does not matter: polarity, noise, level, filters, echo, pitch and
reverberation. These are the transforms of `Won, Choi and Serra (2021)
<https://arxiv.org/abs/2111.13457>`_, each applied alone, and the whole chain; *crop* is
the excerpt as it is.
"""

from tagger import audio, augmentations
from tagger.interpretation import figures

SAMPLE_RATE = 16000
waveform = audio.load_audio("music/rock/openclonk_motorway.opus", SAMPLE_RATE)
changed = augmentations.examples(waveform, SAMPLE_RATE, 4 * SAMPLE_RATE, seed=3)
figure = figures.plot_spectrograms(changed, SAMPLE_RATE)

# %%
# Noise fills the quiet places, the filter cuts the highs or the lows, pitch moves all
# lines. Polarity cannot be seen: it turns the waveform upside down.
