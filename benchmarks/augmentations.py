"""Compares augmentation inside the model with augmentation in the input pipeline.

    python benchmarks/augmentations.py --data-dir dataset

plain      training steps without augmentation
model      with the chain as a layer of the model, as in `train.py --augment`
tf.data    with the chain mapped over the batches by tf.data, in parallel
chain      only the chain, without a model

The first three train an SE sample-level CNN on the same batches. All run in turn in one
process, `--repeats` times after a first run that compiles. Each run has an iterator of
its own, which is freed before the next run begins. Prints median segments per second
and writes augmentations.json.
"""

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tagger import cli, storage
from tagger.segmentation import INT16_SCALE, Segmentation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", default="./dataset", help="folder of the shards, or its parent")
    add("--num-filters", type=int, default=32, help="width of the model")
    add("--batch-size", type=int, default=23)
    add("--num-steps", type=int, default=20)
    add("--repeats", type=int, default=5)
    add("--output", default="augmentations.json")
    args = parser.parse_args()

    storage.load_tensorflow()
    import tensorflow as tf

    from tagger import augmentations, models
    from tagger.data.batches import Batches, feed
    from tagger.data.clips import open_shards

    shards = open_shards(args.data_dir)
    sample_rate, tags = shards.manifest.sample_rate, shards.manifest.tags
    model = models.build_model(
        "sample_cnn", num_tags=len(tags), num_filters=args.num_filters
    )
    segmentation = Segmentation(shards.manifest.segment_samples)
    source = Batches(shards.clips("train"), segmentation, args.batch_size)
    feeding = contextlib.ExitStack()
    batches = feeding.enter_context(feed(source.batch))

    def chain() -> augmentations.Augmentation:
        return augmentations.Augmentation(sample_rate, seed=0)

    def timed(batches, step) -> Callable[[], float]:
        def seconds() -> float:
            examples = iter(batches)
            step(*next(examples))
            started = time.perf_counter()
            for _ in range(args.num_steps):
                step(*next(examples))
            return time.perf_counter() - started

        return seconds

    def training(fed, batches) -> Callable[[], float]:
        fed.compile("sgd", "binary_crossentropy")
        return timed(batches, fed.train_on_batch)

    def noise_alone() -> Callable[[], float]:
        layer = chain()
        noise = tf.function(lambda x: layer(_floats(x), training=True))
        return timed(batches, lambda segments, _: noise(segments).numpy())

    mapped_chain = chain()
    mapped = batches.map(
        lambda segments, labels: (
            mapped_chain(_floats(segments), training=True),
            labels,
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(tf.data.AUTOTUNE)
    ways = {
        "plain": training(models.with_record_inputs(model, "int16"), batches),
        "model": training(
            models.with_record_inputs(model, "int16", augmentation=chain()), batches
        ),
        "tf.data": training(models.with_record_inputs(model, "float32"), mapped),
        "chain": noise_alone(),
    }
    rates = {name: [] for name in ways}
    for repeat in range(args.repeats + 1):
        for name, way in ways.items():
            seconds = way()
            if repeat:
                rates[name].append(args.num_steps * args.batch_size / seconds)
    feeding.close()
    middle = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{'':8}{'segments/s':>12}{'of plain':>10}")
    for name, rate in middle.items():
        print(f"{name:8}{rate:12.1f}{rate / middle['plain']:10.2f}")
    content = {"arguments": vars(args), "runs": rates, "median": middle}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


def _floats(segments):
    import tensorflow as tf

    return tf.cast(segments, tf.float32) / INT16_SCALE


if __name__ == "__main__":
    cli.run(main)
