"""The devices that train: one, several of one machine, or those of several machines.

| `--strategy` | TensorFlow | JAX |
|---|---|---|
| none | one device | one device |
| mirrored | `tf.distribute.MirroredStrategy` | `keras.distribution.DataParallel` |
| tpu | `tf.distribute.TPUStrategy` | the same, over the TPU's cores |
| multiworker | not supported by Keras 3 | the same, over the devices of all machines |

Each device computes an equal share of every batch. Gradients and the statistics of
batch normalisation are those of the whole batch, so the weights equal those of training
on one device except for rounding. (TensorFlow's devices all draw the same dropout and
augmentation, each for its own share.)

Several processes run the same code side by side: each has a folder of the run, the
first one the real one and the others a temporary copy, and the first one's validation
scores are everybody's.
"""

import contextlib
import dataclasses
import functools
import pickle
import tempfile
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf

from tagger.options import Option
from tagger.text import TaggerError
from tagger.training.recipes import Strategy


class ProcessLostError(OSError):
    """Another process was lost; the others can neither continue nor shut down."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a training run, from `choose`.

    Attributes:
        names: Names of the devices, to show to the user.
        num_replicas: Number of devices that share a batch, over all processes.
        process_id: Index of this process, from 0.
        num_processes: Number of processes that train together.
        strategy: TensorFlow's strategy, JAX's distribution, or None.
    """

    names: tuple[str, ...]
    num_replicas: int = 1
    process_id: int = 0
    num_processes: int = 1
    strategy: object = None

    @property
    def is_chief(self) -> bool:
        """Whether this is the first process, the one that writes files."""
        return self.process_id == 0

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns a context in which models are built and trained on all devices."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @contextlib.contextmanager
    def one_local_device(self) -> Iterator[None]:
        """Returns a context in which models run on this process's first device."""
        if keras.backend.backend() == "tensorflow":
            tpus = tf.config.list_logical_devices("TPU") if self.strategy else []
            with tf.device(tpus[0].name) if tpus else contextlib.nullcontext():
                yield
            return
        shared = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(shared)

    def check_batch(self, batch_size: int) -> None:
        """Checks that a batch can be divided evenly among the devices.

        Raises:
            ValueError: it cannot; the message names the nearest sizes that can.
        """
        rest = batch_size % self.num_replicas
        if rest:
            near = [batch_size - rest, batch_size - rest + self.num_replicas]
            raise TaggerError(
                f"A batch of {batch_size} cannot be divided evenly among"
                f" {self.num_replicas} devices. Give `batch_size=`"
                f" {' or '.join(str(n) for n in near if n)}."
            )

    def sharing(self, model: keras.Model) -> keras.Model:
        """Lets batch normalisation use the whole batch, as it always does on JAX."""
        if self.strategy and keras.backend.backend() == "tensorflow":
            for layer in model.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True
        return model

    def gather(self, rows):
        """Returns the rows of all devices, of those of this device [batch, …]."""
        if keras.backend.backend() != "tensorflow" or not self.strategy:
            return rows  # JAX computes on the whole batch
        replica = tf.distribute.get_replica_context()  # None while Keras builds
        return replica.all_gather(rows, axis=0) if replica else rows

    def fitting(self) -> contextlib.AbstractContextManager:
        """Returns a context for `fit`: JAX's distribution holds while it is set."""
        is_jax = keras.backend.backend() == "jax"
        return self.scope() if is_jax else contextlib.nullcontext()

    def share(self, make: Callable[[], object]) -> object:
        """Returns what the first process makes, on every process.

        Args:
            make: Function that returns what `pickle` stores; only the first process
                calls it.
        """
        if self.num_processes == 1:
            return make()
        from jax.experimental import multihost_utils

        content = pickle.dumps(make()) if self.is_chief else b""
        with self.one_local_device():
            broadcast = multihost_utils.broadcast_one_to_all
            num_bytes = int(broadcast(np.int32(len(content))))
            held = np.frombuffer(content.ljust(num_bytes, b"\0"), np.uint8)
            return pickle.loads(np.asarray(broadcast(held)).tobytes())

    @contextlib.contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        """Yields the folder of a run in which this process works.

        Args:
            path: The first process's folder; the others get a temporary copy of what a
                run resumes from.

        Raises:
            ProcessLostError: another process was lost.
        """
        if self.num_processes == 1:
            yield path
            return
        with tempfile.TemporaryDirectory() as copy, _naming_lost_processes():
            held = self.share(lambda: _read_files(path))
            if not self.is_chief:
                path = Path(copy)
                _write_files(path, held)
            yield path
            self.share(lambda: None)  # JAX kills a process whose partners exited


# What a run resumes from, see `runs`.
_KEPT = ("run.json", "model.keras", "*/ckpt-*.keras", "*/result.json", "*/resume.npz")


def _read_files(folder: Path) -> dict[str, bytes]:
    paths = [path for pattern in _KEPT for path in folder.glob(pattern)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _write_files(folder: Path, held: dict[str, bytes]) -> None:
    for name, content in held.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


@contextlib.contextmanager
def _naming_lost_processes() -> Iterator[None]:
    """Replaces the errors of operations across processes by ProcessLostError."""
    try:
        yield
    except Exception as error:
        # JAX raises Gloo's errors as JaxRuntimeError or as ValueError.
        is_shared = type(error).__name__ == "JaxRuntimeError" or "Gloo" in str(error)
        if not is_shared or "RESOURCE_EXHAUSTED" in str(error):  # such as memory
            raise
        raise ProcessLostError(
            "Another process was lost. Start the same command again on every host; it"
            " resumes from the last checkpoint."
        ) from error


def locally(method: Callable) -> Callable:
    """Lets a method of an object run on one device of this process: `_devices`' first.

    Otherwise, what `fit` calls would run on all devices.
    """

    @functools.wraps(method)
    def run(self, *args):
        with self._devices.one_local_device():
            return method(self, *args)

    return run


def choose(
    strategy: Strategy = "none",
    hosts: Annotated[str | None, Option(metavar="A:P,B:P")] = None,
    process_id: Annotated[int | None, Option(ge=0)] = None,
) -> Devices:
    """Returns the devices to train on. Call it before anything uses a device.

    Args:
        strategy: How to use several devices; "none" uses only the first one.
        hosts: For "multiworker": address:port of every process, comma-separated, the
            same list on each. The port of the first one must be free.
        process_id: For "multiworker": position of this process in `hosts`, from 0.

    Raises:
        ValueError: the strategy is unknown or the backend does not support it, or
            `hosts` and `process_id` do not match.
        OSError: the device does not exist, or the other processes do not answer.
    """
    backend = keras.backend.backend()
    strategies = typing.get_args(Strategy)
    if strategy not in strategies:
        raise TaggerError(
            f"Unknown strategy {strategy!r}. Choose one of: {', '.join(strategies)}."
        )
    if strategy != "multiworker" and (hosts is not None or process_id is not None):
        raise TaggerError("`hosts=` and `process_id=` need `strategy=multiworker`.")
    if strategy == "none":
        if backend == "tensorflow":
            _make_repeatable()
        if backend not in ("tensorflow", "jax"):
            return Devices((f"the default device of {backend}",))
        return Devices(tuple(keras.distribution.list_devices()[:1]))
    if backend not in ("tensorflow", "jax"):
        raise TaggerError(
            f"`strategy={strategy}` needs KERAS_BACKEND=tensorflow or jax, not"
            f" {backend}."
        )
    if strategy == "multiworker":
        return _join_processes(backend, hosts, process_id)
    return (
        _tensorflow(strategy) if backend == "tensorflow" else _data_parallel(strategy)
    )


def _make_repeatable() -> None:
    """Makes TensorFlow's results on CPUs identical to the last bit in every run.

    Deterministic operations are not enough: gradients are added in the order in which
    they arrive, so operations run one at a time. That slows a Transformer down by 10 %
    on 2 cores.
    """
    # Unlike `list_logical_devices`, this does not fix the number of threads yet.
    if {device.device_type for device in tf.config.list_physical_devices()} != {"CPU"}:
        return
    tf.config.experimental.enable_op_determinism()
    with contextlib.suppress(RuntimeError):  # this process has already used TensorFlow
        tf.config.threading.set_inter_op_parallelism_threads(1)


def _tensorflow(strategy: str) -> Devices:
    if strategy == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver("")
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            raise OSError(_no_tpu("pip install tensorflow-tpu")) from error
        names = [device.name for device in tf.config.list_logical_devices("TPU")]
        shared = tf.distribute.TPUStrategy(resolver)
    else:
        list_devices = tf.config.list_logical_devices
        names = [d.name for d in list_devices("GPU") or list_devices("CPU")]
        shared = tf.distribute.MirroredStrategy(names)
    names = tuple(name.removeprefix("/device:") for name in names)
    return Devices(names, shared.num_replicas_in_sync, strategy=shared)


def _data_parallel(strategy: str) -> Devices:
    names = tuple(keras.distribution.list_devices())
    if strategy == "tpu" and not all(name.startswith("tpu") for name in names):
        raise OSError(_no_tpu('pip install "jax[tpu]"'))
    return _shared_by_jax(names)


def _shared_by_jax(names: tuple[str, ...]) -> Devices:
    import jax

    shared = keras.distribution.DataParallel(
        devices=list(names),
        auto_shard_dataset=False,  # `data.batches` deals the segments
    )
    return Devices(names, len(names), jax.process_index(), jax.process_count(), shared)


def _no_tpu(install: str) -> str:
    return (
        "There is no TPU on this machine. In Colab, choose a TPU runtime and"
        f" {install}. Elsewhere use `strategy=none` or mirrored."
    )


def _join_processes(backend: str, hosts: str | None, process_id: int | None) -> Devices:
    if backend != "jax":
        raise TaggerError(
            "On TensorFlow, Keras 3 trains on one machine only. Set KERAS_BACKEND=jax"
            " for `strategy=multiworker`, or use `strategy=mirrored`."
        )
    addresses = hosts.split(",") if hosts else []
    if len(addresses) < 2 or not all(":" in address for address in addresses):
        raise TaggerError(
            "`strategy=multiworker` needs `hosts=` with the address:port of every"
            f" process, comma-separated, not {hosts!r}."
        )
    if process_id is None or not 0 <= process_id < len(addresses):
        raise TaggerError(
            "`process_id=` must be the position of this process in `hosts=`, 0 to"
            f" {len(addresses) - 1}, not {process_id}."
        )
    try:
        keras.distribution.initialize(hosts, len(addresses), process_id)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"The {len(addresses)} processes {hosts} did not connect ({reason}). Start"
            " the same command on each within 5 minutes, the first with `process_id=0`."
        ) from error
    return _shared_by_jax(tuple(keras.distribution.list_devices()))
