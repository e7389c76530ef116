"""Tag-wise contribution: ours beside a forward pass per moment.

    python benchmarks/contribution.py

naive   for every moment the whole model, with the last layer's attention set by hand to
        that moment alone, as the paper describes it
layer   `interpretation.contribution` of the first attention layer: the sequence up to
        it once, the rest in batches
ours    the same of the last layer: behind it the class token alone

Self-attention tagger and Transformer, full size, first weights, one segmentation of noise.
The naive loop runs over `--naive-moments` and is scaled up. Prints medians of
`--repeats` in turn and writes contribution.json.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from tagger import cli

MODELS = ("self_attention", "music_tagging_transformer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--naive-moments", type=int, default=8)
    add("--repeats", type=int, default=3)
    add("--output", default="contribution.json")
    args = parser.parse_args()
    cli.load_tensorflow()
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
    """Seconds for all moments of a segmentation, by way."""
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
