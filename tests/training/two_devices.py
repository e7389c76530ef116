"""Trains a narrow model for three steps on one device or two.

    python two_devices.py STRATEGY FILE.npz

test_devices.py runs this script.
"""

import sys
import types

import keras
import numpy as np
import tensorflow as tf

from tagger import models
from tagger.training import devices, recipes, tasks


def main(strategy: str, path: str) -> None:
    if keras.backend.backend() == "tensorflow":
        (cpu,) = tf.config.list_physical_devices("CPU")
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [half, half])
    found = devices.choose(strategy)
    assert found.num_replicas == (1 if strategy == "none" else 2)
    rng = np.random.default_rng(0)
    segments = rng.integers(-9000, 9000, (3, 8, 59049)).astype("int16")
    targets = (rng.random((3, 8, 10 + 16)) < 0.3).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((segments, targets)).repeat()
    keras.utils.set_random_seed(0)
    with found.scope():
        model = models.build_model(
            "sample_cnn", num_tags=10, num_filters=4, dropout_rate=0.0
        )
        found.sharing(model)
        task = types.SimpleNamespace(  # a `tasks.Distillation` without data
            shards=types.SimpleNamespace(manifest=types.SimpleNamespace(tags="a" * 10)),
            temperature=2.0,
            embedding_weight=1.0,
        )
        outputs = models.with_logits(model).output
        embedding = models.embedding_network(model).output
        both = keras.ops.concatenate([outputs, embedding], axis=-1)
        fed = models.with_record_inputs(keras.Model(model.input, both), "int16")
        recipe = recipes.RECIPES["distillation"]
        loss = tasks.Distillation.loss(task, recipe, found.gather)
        fed.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=False)
        before = {weight.path: weight.numpy() for weight in model.weights}
        history = fed.fit(batches, steps_per_epoch=3, shuffle=False, verbose=0).history
    changes = {w.path: w.numpy() - before[w.path] for w in model.weights}
    np.savez(path, loss=history["loss"], **changes)


if __name__ == "__main__":
    main(*sys.argv[1:])
