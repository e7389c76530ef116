"""Measures the CPU time per segment of every engine, and how far its scores are off.

    python benchmarks/engines.py --models musicnn_pons fcn --batch-size 16

keras     the Keras model
exported  its export in ONNX Runtime, as the exporter wrote it
onnx      the same after `graph_rewriting.maxima_first`
openvino  the latter in OpenVINO, in float32
bfloat16  the same in bfloat16, where the CPU has it

The models have random weights, with batch norms whose scales have both signs. The
engines take turns, `--repeats` times, in one process. Prints milliseconds of CPU time
per segment (medians) with the largest difference from Keras' scores; writes
engines.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np

from tagger import cli, storage
from tagger.models import registry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="+", default=list(registry.MODELS))
    add("--batch-size", type=int, default=16)
    add("--repeats", type=int, default=5)
    add("--output", default="engines.json")
    args = parser.parse_args()
    storage.load_tensorflow()
    results = {}
    for name in args.models:
        results[name] = measure(name, args)
        cells = [
            f"{engine} {row['cpu_ms']:.1f} ({row['difference']:.0e})"
            for engine, row in results[name].items()
        ]
        print(f"{name:26}{'  '.join(cells)}", flush=True)
    content = {"arguments": vars(args), "results": results}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


def measure(name: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns engine -> CPU milliseconds per segment, and the largest difference."""
    from tagger import models
    from tagger.inference import engines
    from tagger.models import export, graph_rewriting

    model = models.build_model(name, num_tags=50)
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.path.endswith("gamma"):
            weight.assign(random.uniform(-1, 1, weight.shape))
    with tempfile.TemporaryDirectory() as folder:
        path, plain = Path(folder) / "model.onnx", Path(folder) / "plain.onnx"
        export.export(model, path, "onnx")
        with mock.patch.object(graph_rewriting, "maxima_first"):
            export.export(model, plain, "onnx")
        found = {
            "keras": engines.KerasEngine(model),
            "exported": engines.OnnxEngine(plain),
            "onnx": engines.OnnxEngine(path),
            "openvino": engines.OpenVinoEngine(path),
        }
        try:
            found["bfloat16"] = engines.OpenVinoEngine(path, "bfloat16")
        except ValueError as error:
            print(error)
    num_samples = found["keras"].info.segmentation.num_samples
    waveforms = random.uniform(-0.3, 0.3, (args.batch_size, num_samples))
    waveforms = waveforms.astype(np.float32)
    (expected,) = found["keras"].run(waveforms)
    differences = {
        engine: float(np.abs(one.run(waveforms)[0] - expected).max())
        for engine, one in found.items()
    }
    times = {engine: [] for engine in found}
    for _ in range(args.repeats):
        for engine, one in found.items():
            started = time.process_time()
            one.run(waveforms)
            seconds = time.process_time() - started
            times[engine].append(1000 * seconds / args.batch_size)
    return {
        engine: {
            "cpu_ms": statistics.median(times[engine]),
            "difference": differences[engine],
        }
        for engine in found
    }


if __name__ == "__main__":
    cli.run(main)
