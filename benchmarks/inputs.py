"""Segments per second that training reads, beside reading the same bytes alone.

    python benchmarks/inputs.py --data-dir dataset

raw       reads every train shard with read(), nothing more
training  inputs.training_segments: parsed, cut, shuffled, batched (int16)
evaluation  inputs.evaluation_segments

All run in turn in one process, `--repeats` times, after one pass that warms the page
cache; the table gives medians. Writes inputs.json.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from tagger import cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", default="./dataset", help="folder of the shards, or its parent")
    add("--batch-size", type=int, default=23)
    add("--num-read-threads", type=int, default=8)
    add("--repeats", type=int, default=5)
    add("--output", default="inputs.json")
    args = parser.parse_args()

    cli.load_tensorflow()
    from tagger import inputs, records

    shards = inputs.open_shards(args.data_dir)
    num_samples = shards.manifest.segment_samples
    window = records.Window(num_samples)
    num_segments = shards.manifest.num_segments("train")
    num_batches = num_segments // args.batch_size

    def raw() -> None:
        for path in shards.paths("train"):
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass

    def training() -> None:
        batches = inputs.training_segments(
            shards,
            "train",
            window,
            args.batch_size,
            num_read_threads=args.num_read_threads,
        )
        for _ in batches.take(num_batches):
            pass

    def evaluation() -> None:
        for _ in inputs.evaluation_segments(shards, "train", window, args.batch_size):
            pass

    ways = {way.__name__: way for way in (raw, training, evaluation)}
    rates = {name: [] for name in ways}
    for repeat in range(args.repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if repeat:  # the first warms the cache
                rates[name].append(num_segments / (time.perf_counter() - started))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{'':12}{'segments/s':>12}{'MB/s':>8}{'of raw':>8}")
    for name, rate in middle.items():
        megabytes = rate * num_samples * 2 / 1e6
        print(f"{name:12}{rate:12.0f}{megabytes:8.0f}{rate / middle['raw']:8.2f}")
    content = {"segments": num_segments, "runs": rates, "median": middle}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
