"""Measures how many examples per second full-size models train on, fed from shards.

    python benchmarks/training.py --data-dir dataset
    KERAS_BACKEND=jax python benchmarks/training.py --precision mixed_bfloat16

Trains an SE sample-level CNN and the Transformer on the shards of a data folder (built
at 22050 Hz), without TensorFlow where Keras runs on another backend. It prints examples
per second and the share of time that steps wait for their batches. On JAX it also
prints the share of the device's matrix-multiplication rate that training reaches (a
step counts as three forward passes, whose operations XLA counts). Writes training.json.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tagger.segmentation import Segmentation

MODELS = {
    "sample_cnn": {"block": "se"},
    "music_tagging_transformer": {"size": "teacher"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", default="./dataset")
    add("--num-read-threads", type=int, help="default: one per core, at most 8")
    add("--batch-size", type=int, default=64)
    add("--num-steps", type=int, default=50)
    add("--precision", default="float32")
    add("--output", default="training.json")
    args = parser.parse_args()
    results = {name: measure(args, name, options) for name, options in MODELS.items()}
    content = {"arguments": vars(args), "results": results}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


def measure(args, name: str, options: dict) -> dict:
    from tagger import models
    from tagger.data.batches import Batches, feed
    from tagger.data.clips import open_shards

    clips = open_shards(args.data_dir).clips("train")
    segmentation = Segmentation(models.entry(name).facts.num_samples)
    source = Batches(clips, segmentation, args.batch_size)
    with feed(source.batch, 0, args.num_read_threads) as batches:
        return train(args, name, options, iter(batches))


def train(args, name: str, options: dict, batches: Iterator) -> dict:
    import keras

    from tagger import models
    from tagger.training import optimizers

    segments, labels = next(batches)
    with optimizers.precision(args.precision):
        model = models.build_model(name, num_tags=labels.shape[1], **options)
        fed = models.with_record_inputs(model, str(np.asarray(segments).dtype))
        fed.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy")
    for _ in range(2):  # compiles
        fed.train_on_batch(segments, labels)
    waited, started = 0.0, time.perf_counter()
    for _ in range(args.num_steps):
        asked = time.perf_counter()
        segments, labels = next(batches)
        waited += time.perf_counter() - asked
        loss = fed.train_on_batch(segments, labels)
    seconds = time.perf_counter() - started
    result = {
        "examples_per_second": args.num_steps * args.batch_size / seconds,
        "share_of_time_waiting": waited / seconds,
        "last_loss": float(loss),
        "devices": keras.distribution.list_devices(),
    }
    if keras.backend.backend() == "jax":
        operations = 3 * forward_operations(model, args.batch_size) * args.num_steps
        result["operations_per_second"] = operations / seconds
        result["share_of_matrix_rate"] = operations / seconds / matrix_rate()
    print(name, json.dumps(result))
    return result


def forward_operations(model, batch_size: int) -> float:
    import jax

    def forward(waveforms):
        return model(waveforms, training=False)

    shape = jax.ShapeDtypeStruct((batch_size, model.input_shape[1]), "float32")
    cost = jax.jit(forward).lower(shape).compile().cost_analysis()
    return cost["flops"]


def matrix_rate(size: int = 4096) -> float:
    """Returns the operations per second of multiplying bfloat16 matrices."""
    import jax
    import jax.numpy as jnp

    one = jnp.ones((size, size), jnp.bfloat16)
    product = jax.jit(lambda a, b: a @ b)
    product(one, one).block_until_ready()
    started = time.perf_counter()
    for _ in range(10):
        result = product(one, one)
    result.block_until_ready()
    return 10 * 2 * size**3 / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
