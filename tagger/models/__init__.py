"""The taggers: one file per paper, what they share, and what a model file holds.

A factory returns a Keras model from float32 waveforms [batch, num_samples] at ±1 to
scores [batch, num_tags]. Its own docstring lists its options, except these, which mean
the same in all of them:

Args:
    num_tags: Number of scores.
    tags: Names of the tags, stored in the model.
    num_samples: Length of the waveform in samples.
    sample_rate: Rate of the waveform in Hz.
    log_mel: Log-mel spectrogram to use, a key of PRESETS in presets.py.
    dropout_rate: Dropout rate before the last layer.

Everything here is loaded at its first use: `registry` and `metadata` need no Keras, the
rest does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "blocks",
        "export",
        "files",
        "frontends",
        "graphs",
        "head",
        "layers",
        "metadata",
        "presets",
        "serialization",
    ],
    submod_attrs={
        "derivation": [
            "check_no_average",
            "embedding_network",
            "feature_network",
            "with_embedding",
            "with_head",
            "with_length",
            "with_logits",
            "with_record_inputs",
        ],
        "metadata": ["ModelInfo"],
        "registry": [
            "Architecture",
            "MODELS",
            "build_model",
            "default_options",
            "entry",
        ],
        "serialization": [
            "load_model",
            "load_weights",
            "model_info",
            "save_model",
            "set_thresholds",
        ],
    },
)
