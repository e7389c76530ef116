r"""Bounds the speed of every model on an accelerator by its arithmetic and its memory.

    KERAS_BACKEND=jax python benchmarks/roofline.py --batch-size 64 \
        --tera-flops 790 --tera-bytes 4.8 --crops-per-core 5000

XLA counts the floating-point operations and the bytes that the compiled forward pass
and training step of a model take (`cost_analysis`; bytes as the compiler fuses them for
the device that it runs on). A device cannot be faster than

    operations / its operations per second     and     bytes / its bytes per second

The larger time is the bound. Prints it for a stated machine as segments per second, and
the number of CPU cores that `data.batches` needs to feed training at the bound, when
one core reads `--crops-per-core` random crops per second (see benchmarks/inputs.py).
Where JAX finds an accelerator, it also runs the model and prints the share of the bound
that it reaches. Writes roofline.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from tagger.models import registry

PASSES = ("forward", "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--models", nargs="+", default=list(registry.MODELS))
    add("--batch-size", type=int, default=64)
    add("--precision", default="mixed_bfloat16")
    add("--tera-flops", type=float, default=790, help="of the machine, per second")
    add("--tera-bytes", type=float, default=4.8, help="of the machine, per second")
    add("--crops-per-core", type=float, default=5000, help="read per second")
    add("--num-steps", type=int, default=20)
    add("--output", default="roofline.json")
    args = parser.parse_args()

    import keras

    if keras.backend.backend() != "jax":
        raise ValueError("Set KERAS_BACKEND=jax: the counts are XLA's.")
    rows = []
    print(
        f"{'model':26}{'pass':8}{'GFLOP':>8}{'MB':>8}{'bound by':>12}"
        f"{'segments/s':>12}{'cores':>8}{'measured':>10}{'share':>7}"
    )
    for name in args.models:
        for kind in PASSES:
            rows.append(measure(name, kind, args))
            print(line(rows[-1]), flush=True)
    content = {"arguments": vars(args), "rows": rows}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


def line(row: dict) -> str:
    measured = row.get("measured")
    return (
        f"{row['model']:26}{row['pass']:8}{row['flops'] / 1e9:8.2f}"
        f"{row['bytes'] / 1e6:8.0f}{row['bound_by']:>12}{row['bound']:12,.0f}"
        + (f"{row['cores']:8.1f}" if row["cores"] else " " * 8)
        + (f"{measured:10,.0f}{measured / row['bound']:7.0%}" if measured else "")
    )


def measure(name: str, kind: str, args: argparse.Namespace) -> dict:
    """Returns the costs per segment and the bound of one pass of a model."""
    import jax

    function, inputs = pass_of(name, kind, args)
    compiled = jax.jit(function).lower(*inputs).compile()
    cost = compiled.cost_analysis()
    flops = cost["flops"] / args.batch_size
    num_bytes = cost["bytes accessed"] / args.batch_size
    times = {
        "arithmetic": flops / (args.tera_flops * 1e12),
        "memory": num_bytes / (args.tera_bytes * 1e12),
    }
    bound_by = max(times, key=times.get)
    bound = 1 / times[bound_by]
    row = {
        "model": name,
        "pass": kind,
        "flops": flops,
        "bytes": num_bytes,
        "bound_by": bound_by,
        "bound": bound,
        "cores": bound / args.crops_per_core if kind == "train" else None,
    }
    if jax.default_backend() != "cpu":
        jax.block_until_ready(compiled(*inputs))
        started = time.perf_counter()
        for _ in range(args.num_steps):
            found = compiled(*inputs)
        jax.block_until_ready(found)
        seconds = time.perf_counter() - started
        row["measured"] = args.num_steps * args.batch_size / seconds
    return row


def pass_of(name: str, kind: str, args: argparse.Namespace):
    """Returns a function without side effects, and its inputs."""
    import keras

    from tagger import models
    from tagger.training import optimizers

    with optimizers.precision(args.precision):
        model = models.build_model(name, num_tags=50)
    random = np.random.default_rng(0)
    waveforms = random.uniform(-0.3, 0.3, (args.batch_size, model.input_shape[1]))
    waveforms = waveforms.astype(np.float32)
    labels = random.integers(0, 2, (args.batch_size, 50)).astype(np.float32)
    trained = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]
    if kind == "forward":

        def forward(trained, others, waveforms):
            return model.stateless_call(trained, others, waveforms, training=False)[0]

        return forward, (trained, others, waveforms)
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(model.trainable_variables)
    slots = [variable.value for variable in optimizer.variables]

    def step(trained, others, slots, waveforms, labels):
        import jax

        def loss_of(trained):
            scores, changed = model.stateless_call(
                trained, others, waveforms, training=True
            )
            losses = keras.losses.binary_crossentropy(labels, scores)
            return keras.ops.mean(losses), changed

        (loss, changed), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained)
        trained, slots = optimizer.stateless_apply(slots, gradients, trained)
        return loss, trained, changed, slots

    return step, (trained, others, slots, waveforms, labels)


if __name__ == "__main__":
    main()
