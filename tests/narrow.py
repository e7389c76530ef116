"""Every model of the registry, narrow enough to be built and run quickly."""

import keras
import numpy as np
from drawn import draw_music

from tagger import models

TAGS = ("rock", "slow", "ünïcode")
FILTERS, UNITS = 2, 8
SMALL = {"alpha": 2, "channels": 16, "num_heads": 2, "num_layers": 2}


def narrow_options(name):
    """Returns small values for all options that set the width of a model."""
    small = {}
    for option, default in models.default_options(name).items():
        if option.endswith("filters"):
            is_many = isinstance(default, tuple)
            small[option] = len(default) * (FILTERS,) if is_many else FILTERS
        elif option.endswith("units"):
            small[option] = UNITS
        elif option in SMALL:
            small[option] = SMALL[option]
    return small


def narrow_model(name):
    keras.utils.set_random_seed(0)
    model = models.build_model(name, num_tags=3, tags=TAGS, **narrow_options(name))
    for layer in model.layers:
        if layer.name == "input_norm":  # as if it had been trained on decibels
            layer.moving_mean.assign(0 * layer.moving_mean - 20)
            layer.moving_variance.assign(0 * layer.moving_variance + 400)
    return model


def scores_of(model, x):
    """What `predict` returns, without the second that compiling a graph takes."""
    return np.asarray(model(x, training=False))


def music(model, batch_size=2):
    """Draws waveforms [batch_size, num_samples] for a model."""
    info = models.model_info(model)
    x = draw_music(info.segmentation.num_samples, info.sample_rate)
    return np.resize(x, (batch_size, x.shape[1]))


def drawn_norms(model):
    """Draws the scales of batch norms, of which half are negative."""
    random = np.random.RandomState(0)
    for weight in model.weights:
        if weight.path.endswith("gamma"):
            weight.assign(random.uniform(-1, 1, weight.shape))
    return model
