"""Compares tag-wise contribution with a forward pass per moment.

    python benchmarks/contribution.py

naive   runs the whole model for every moment, with all attention of the last layer set
        to that moment, as the paper describes
layer   `interpretation.contribution` for the first attention layer: computes the
        sequence up to that layer once, the rest in batches
ours    the same for the last layer, after which only the class token is computed

Runs the self-attention tagger and the Transformer at full size, with initial weights,
on one segment of white noise. The naive loop runs over `--naive-moments`; its time is
scaled up to all moments. Prints medians over `--repeats` and writes contribution.json.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from tagger import cli, storage

MODELS = ("self_attention", "music_tagging_transformer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--naive-moments", type=int, default=8)
    add("--repeats", type=int, default=3)
    add("--output", default="contribution.json")
    args = parser.parse_args()
    storage.load_tensorflow()
    from tagger import models

    results = {}
    for name in MODELS:
        results[name] = measure(models.build_model(name), args)
        naive = results[name]["naive"]
        line = [
            f"{way} {s:.2f} s ({naive / s:.1f}x)" for way, s in results[name].items()
        ]
        print(f"{name}: {', '.join(line)}", flush=True)
    Path(args.output).write_text(json.dumps(results, indent=1) + "\n")


def measure(model, args) -> dict[str, float]:
    """Returns the seconds that each way takes for all moments of a segment."""
    from tagger import interpretation

    rng = np.random.default_rng(0)
    waveform = 0.1 * rng.standard_normal(model.input_shape[1]).astype(np.float32)
    layers = interpretation.attention_maps.attention_layers(model)
    num_moments = interpretation.contribution(model, waveform).shape[1]  # warms up

    def naive() -> float:
        layer, call = layers[-1], layers[-1].call
        started = time.perf_counter()
        for at in range(args.naive_moments):
            one = np.eye(num_moments, dtype=np.float32)[at]
            layer.call = lambda x, training=None, one=one: call(x, attention=one)
            model(waveform[None], training=False)
        layer.call = call
        seconds = time.perf_counter() - started
        return seconds * num_moments / args.naive_moments

    def timed(layer) -> float:
        started = time.perf_counter()
        interpretation.contribution(model, waveform, layer)
        return time.perf_counter() - started

    ways = {
        "naive": naive,
        "layer": lambda: timed(layers[0].name),
        "ours": lambda: timed(None),
    }
    taken = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            taken[name].append(way())
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


if __name__ == "__main__":
    cli.run(main)
