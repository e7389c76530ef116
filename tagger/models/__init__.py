"""The taggers: one file per paper, what they share, and what a model file holds.

The functions below are loaded when they are asked for: `registry` and `metadata` need
no Keras, everything else does.
"""

import importlib

_MODULE_OF = {
    "MODELS": "registry",
    "build_model": "registry",
    "default_options": "registry",
    "entry": "registry",
    "feature_network": "serialization",
    "load_model": "serialization",
    "model_info": "serialization",
    "ModelInfo": "metadata",
    "save_model": "serialization",
    "set_thresholds": "serialization",
    "with_record_inputs": "serialization",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    return getattr(module, name)
