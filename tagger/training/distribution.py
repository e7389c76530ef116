"""Where a model trains: one device, several of one machine, several machines.

| `--strategy` | TensorFlow | JAX |
|---|---|---|
| none | one device | one device |
| mirrored | `tf.distribute.MirroredStrategy` | `keras.distribution.DataParallel` |
| tpu | `tf.distribute.TPUStrategy` | the same, over the TPU's cores |
| multiworker | refused: Keras 3 cannot | the same, over the devices of all machines |

Every device takes its share of each batch; gradients and the statistics of batch
normalisation are those of the whole batch, so the weights are one device's but for
rounding. (TensorFlow's devices draw the same dropout and noise, each for its own part.)
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import keras
import numpy as np

from tagger.training.recipes import STRATEGIES


class HostLostError(OSError):
    """Another machine is gone; the ones left cannot go on, nor end in good order."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """What `choose` found.

    Attributes:
        names: Of the devices, for the user.
        num_replicas: Devices that share a batch, those of all hosts.
        host: Number of this machine; 0 writes the files.
        num_hosts: Machines that train together.
        strategy: TensorFlow's strategy, JAX's distribution, or None.
    """

    names: tuple[str, ...]
    num_replicas: int = 1
    host: int = 0
    num_hosts: int = 1
    strategy: object = None

    @property
    def is_chief(self) -> bool:
        """Whether this machine writes the files."""
        return self.host == 0

    def scope(self) -> contextlib.AbstractContextManager:
        """Models made and trained within are shared among the devices."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Models made and used within run on the first device of this machine."""
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

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
        """Refuses a batch that does not divide among the devices.

        Raises:
            ValueError: naming the nearest sizes that do.
        """
        rest = batch_size % self.num_replicas
        if rest:
            near = [batch_size - rest, batch_size - rest + self.num_replicas]
            raise ValueError(
                f"A batch of {batch_size} does not divide among {self.num_replicas}"
                f" devices. Give --batch-size {' or '.join(str(n) for n in near if n)}."
            )

    def share_statistics(self, model: keras.Model) -> None:
        """Lets batch normalisation see the whole batch; JAX does so by itself."""
        if self.strategy and keras.backend.backend() == "tensorflow":
            for layer in model.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True

    def agree(self, answer: bool) -> bool:
        """The first machine's answer, on every machine."""
        answers = [np.float32(answer)]
        return bool(self.from_chief(lambda: answers, answers)[0])

    def from_chief(self, make: Callable[[], list], like: list) -> list[np.ndarray]:
        """Arrays that the first machine makes, on every machine.

        Args:
            make: Called on the first machine.
            like: Arrays of the same shapes and dtypes, for the other ones.

        Returns:
            What `make` returned.
        """
        if self.num_hosts == 1:
            return make()
        from jax.experimental import multihost_utils

        arrays = make() if self.is_chief else like
        with self.alone():
            arrays = multihost_utils.broadcast_one_to_all(list(map(np.asarray, arrays)))
        return [np.asarray(array) for array in arrays]


def choose(
    strategy: str = "none",
    hosts: str | None = None,
    host: int | None = None,
) -> Devices:
    """Finds the devices to train on; call it before anything touches them.

    Args:
        strategy: One of STRATEGIES.
        hosts: For "multiworker": address:port of every machine, comma-separated, the
            same list on each. The first one's port must be free.
        host: For "multiworker": this machine's place in the list, from 0.

    Raises:
        ValueError: the strategy is unknown, the backend does not have it, or
            `hosts` and `host` do not fit.
        OSError: there is no such device, or the other machines do not answer.
    """
    backend = keras.backend.backend()
    if strategy not in STRATEGIES:
        raise ValueError(
            f"Unknown strategy {strategy!r}. Choose one of: {', '.join(STRATEGIES)}."
        )
    if strategy != "multiworker" and (hosts is not None or host is not None):
        raise ValueError("--hosts and --host belong to --strategy multiworker.")
    if strategy == "none":
        if backend == "tensorflow":
            _make_repeatable()
        if backend not in ("tensorflow", "jax"):
            return Devices((f"the default device of {backend}",))
        return Devices(tuple(keras.distribution.list_devices()[:1]))
    if backend not in ("tensorflow", "jax"):
        raise ValueError(
            f"--strategy {strategy} needs KERAS_BACKEND=tensorflow or jax, not"
            f" {backend}."
        )
    if strategy == "multiworker":
        return _join_hosts(backend, hosts, host)
    return (
        _tensorflow(strategy) if backend == "tensorflow" else _data_parallel(strategy)
    )


def _make_repeatable() -> None:
    """Makes TensorFlow's arithmetic on CPUs the same to the last bit, run after run.

    Deterministic operations are not enough: gradients that arrive in another order are
    added in another order. One operation at a time costs a Transformer 10 % on 2 cores.
    """
    import tensorflow as tf

    # Unlike `list_logical_devices`, this leaves the threads to be chosen still.
    if {device.device_type for device in tf.config.list_physical_devices()} != {"CPU"}:
        return
    tf.config.experimental.enable_op_determinism()
    with contextlib.suppress(RuntimeError):  # too late in this process
        tf.config.threading.set_inter_op_parallelism_threads(1)


def _tensorflow(strategy: str) -> Devices:
    import tensorflow as tf

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
        auto_shard_dataset=False,  # `inputs` deals the shards
    )
    return Devices(names, len(names), jax.process_index(), jax.process_count(), shared)


def _no_tpu(install: str) -> str:
    return (
        "There is no TPU on this machine. In Colab choose a TPU runtime and"
        f" {install}; else train with --strategy none or mirrored."
    )


def _join_hosts(backend: str, hosts: str | None, host: int | None) -> Devices:
    if backend != "jax":
        raise ValueError(
            "On TensorFlow, Keras 3 trains on one machine only: set KERAS_BACKEND=jax"
            " for --strategy multiworker, or use --strategy mirrored."
        )
    addresses = hosts.split(",") if hosts else []
    if len(addresses) < 2 or not all(":" in address for address in addresses):
        raise ValueError(
            "--strategy multiworker needs --hosts with the address:port of every"
            f" machine, comma-separated, not {hosts!r}."
        )
    if host is None or not 0 <= host < len(addresses):
        raise ValueError(
            f"--host must be this machine's place in --hosts, 0 to"
            f" {len(addresses) - 1}, not {host}."
        )
    try:
        keras.distribution.initialize(hosts, len(addresses), host)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            f"The {len(addresses)} hosts {hosts} did not come together ({reason})."
            " Start the same command on each within 5 minutes, the first with --host 0."
        ) from error
    return _shared_by_jax(tuple(keras.distribution.list_devices()))


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Layers made within compute in this dtype policy; weights stay float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
