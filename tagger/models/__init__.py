"""Music tagging models: one file per paper, their shared layers, and model files.

The names below are imported on first use, because only `registry` and `metadata` work
without Keras.
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
