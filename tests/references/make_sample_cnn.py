"""Makes sample_cnn.npz and rese_multi.hdf5 with the original code of Kim et al.

    pip install tf_keras
    git clone https://github.com/tae-jun/resemul
    python make_sample_cnn.py resemul

The files were made with tae-jun/resemul@f2c2c80, model.py, under tf_keras 2.21.0,
TensorFlow 2.21.0 and NumPy 2.4.6: four stem filters, five tags, random weights, loud
and soft white noise as input.
sample_cnn.npz holds `<block>_<multi>|<original layer>/<weight>:0`, `…|scores` and
`…|excitation<depth>`; tests draw the input again from its seed.
"""

import importlib
import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np
import tf_keras


def original_function(folder):
    """Takes `resemul` from model.py, written for Keras 2.0.5 on TensorFlow 1."""
    for name in ("keras", "keras.layers", "keras.regularizers", "keras.models"):
        sys.modules[name] = importlib.import_module(f"tf_{name}")
    # TensorFlow 2's sizes are plain integers.
    source = (Path(folder) / "model.py").read_text().replace(".value", "")
    namespace = {}
    exec(compile(source, "model.py", "exec"), namespace)
    namespace["Input"] = lambda tensor: tensor  # it wrapped a tensor of the queue
    return namespace["resemul"]


NUM_TAGS = 5


class TFRecordModel(tf_keras.Model):
    """The name under which the original saved its models."""


def draw(name, shape, random):
    if "gamma" in name or "variance" in name:
        return random.uniform(0.5, 1.5, shape)
    if "kernel" in name:
        return random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
    return 0.2 * random.standard_normal(shape)


def from_one(name):
    """conv1d -> conv1d_1, conv1d_1 -> conv1d_2: layers as Keras 2.0.5 counted them."""
    layer, weight = name.split("/")
    kind, _, number = layer.rpartition("_")
    if not number.isdigit():
        kind, number = layer, "0"
    return f"{kind}_{int(number) + 1}/{weight}"


resemul = original_function(sys.argv[1])
waveform = np.random.RandomState(0).standard_normal((2, 59049)).astype(np.float32)
waveform *= [[0.3], [0.02]]
arrays = {}
for seed, block in enumerate(("basic", "se", "res", "rese")):
    for multi in (True, False):
        tf_keras.backend.clear_session()
        inputs = tf_keras.Input((59049,))
        outputs = resemul(inputs, block, multi, init_features=4, num_classes=NUM_TAGS)
        model = TFRecordModel(inputs, outputs)
        random = np.random.RandomState(seed)
        # float16 halves the file and is exact in float32.
        values = [
            draw(w.name, w.shape, random).astype(np.float16) for w in model.weights
        ]
        model.set_weights(values)
        # Scale the last layer to logits of about ±1: saturated scores hide differences.
        features = tf_keras.Model(inputs, model.layers[-2].output).predict(waveform)
        values[-2] = (values[-2] / (features @ values[-2]).std()).astype(np.float16)
        model.set_weights(values)
        for weight, value in zip(model.weights, values, strict=True):
            arrays[f"{block}_{multi}|{from_one(weight.name)}"] = value
        arrays[f"{block}_{multi}|scores"] = model.predict(waveform, verbose=0)
        if block in ("se", "rese"):
            gates = [model.get_layer(f"dense_{i}").output for i in range(1, 18, 2)]
            values = tf_keras.Model(inputs, gates).predict(waveform, verbose=0)
            for depth, value in enumerate(values):
                arrays[f"{block}_{multi}|excitation{depth}"] = value
        if (block, multi) == ("rese", True):
            model.save("rese_multi.hdf5", save_format="h5")
np.savez_compressed("sample_cnn.npz", **arrays)
