"""Several devices or machines reach the same weights as one device."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPOSITORY, XLA_IN_HASTE
from test_trainer import weights_of

from tagger.training import devices


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match="Unknown strategy 'all'. Choose one of: none"):
        devices.choose("all")
    with pytest.raises(
        ValueError, match="On TensorFlow, Keras 3 trains on one machine"
    ):
        devices.choose("multiworker", "a:1,b:1", 0)
    with pytest.raises(ValueError, match="`hosts=` and `process_id=` need `strategy="):
        devices.choose("mirrored", "a:1,b:1")


def test_hosts_are_checked_before_anything_waits_for_them():
    for hosts in (None, "a:1", "a,b"):
        with pytest.raises(ValueError, match="needs `hosts=` with the address:port of"):
            devices._join_processes("jax", hosts, 0)
    for process_id in (None, 2, -1):
        with pytest.raises(ValueError, match="`process_id=` must be the position of "):
            devices._join_processes("jax", "a:1,b:1", process_id)


def test_a_batch_must_divide_among_the_devices():
    devices.Devices(("cpu:0",) * 4, 4).check_batch(24)
    with pytest.raises(ValueError, match="batch of 23 .* 4 devices. .* 20 or 24"):
        devices.Devices(("cpu:0",) * 4, 4).check_batch(23)
    with pytest.raises(ValueError, match="Give `batch_size=` 4."):
        devices.Devices(("cpu:0",) * 4, 4).check_batch(3)


def test_one_process_shares_with_itself():
    one = devices.choose()
    assert one.share(lambda: {"a": 1}) == {"a": 1}


def difference(one, other):
    """Returns the largest relative difference between two runs' changes of an array.

    Changes below 1e-6 are ignored: before batch normalisation, a bias has no gradient
    except rounding.
    """
    assert one.keys() == other.keys()
    parts = {
        name: np.linalg.norm(one[name] - other[name]) / np.linalg.norm(one[name])
        for name in one
        if np.linalg.norm(one[name]) > 1e-6
    }
    return max(parts.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.nightly)]
)
def test_mirrored_over_two_cpus_equals_one(backend, tmp_path):
    if backend == "jax":
        pytest.importorskip("jax")
    environment = XLA_IN_HASTE | {"KERAS_BACKEND": backend}
    environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"
    environment["PYTHONPATH"] = str(REPOSITORY)
    # Each device waits for the other in one of XLA's threads, so two are too few.
    environment["NPROC"] = "4"
    results = []
    for strategy in ("none", "mirrored"):
        path = tmp_path / f"{strategy}.npz"
        script = REPOSITORY / "tests/training/two_devices.py"
        subprocess.run(
            [sys.executable, script, strategy, path],
            env=os.environ | environment,
            check=True,
            timeout=240,
        )
        with np.load(path) as arrays:
            results.append(dict(arrays))
    np.testing.assert_allclose(*(found["loss"] for found in results), rtol=1e-4)
    # Rounding, through ReLUs and poolings. Statistics of half a batch give over .5, and
    # cosines of half a batch over 1.
    assert difference(*results) < 0.1


def free_ports(number):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


ARGUMENTS = ["--block", "basic", "--no-multi", "--num-filters", "2"]
ARGUMENTS += ["--batch-size", "8", "--dropout", "0", "--num-lr-decays", "1"]


@pytest.fixture(scope="session")
def jax_environment(common):
    """Returns the environment for training on JAX, with a shared compilation cache."""
    pytest.importorskip("jax")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(common / "compiled")}
    return os.environ | XLA_IN_HASTE | cache | {"KERAS_BACKEND": "jax"}


def start_processes(built, folder, environment, *options):
    hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    command = [sys.executable, "train.py", "--data-dir", built, "--train-dir", folder]
    command += [*ARGUMENTS, *options, "--strategy", "multiworker", "--hosts", hosts]
    return [
        subprocess.Popen(
            [*map(str, command), "--process-id", str(number)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # groups the supervising process and its child
        )
        for number in range(2)
    ]


@pytest.mark.slow
def test_two_processes_reach_the_weights_of_one(built, tmp_path, jax_environment):
    options = ["--max-epochs", 1, "--lr", 1e-3]
    hosts = start_processes(built, tmp_path / "two", jax_environment, *options)
    for process in hosts:
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors
    done = subprocess.run(
        [
            *(sys.executable, "train.py", "--data-dir", built),
            *("--train-dir", tmp_path / "one", *map(str, [*ARGUMENTS, *options])),
        ],
        cwd=REPOSITORY,
        env=jax_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    one, two = (weights_of(tmp_path / name / "model.keras") for name in ("one", "two"))
    for name in one:  # these steps change weights by about 1e-2
        np.testing.assert_allclose(one[name], two[name], atol=5e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_when_a_process_is_lost_the_other_stops_and_the_same_command_goes_on(
    built, tmp_path, jax_environment, lost
):
    endless = ["--max-epochs", 200, "--patience", 200, "--checkpoint-minutes", 0]
    hosts = start_processes(built, tmp_path / "log", jax_environment, *endless)
    deadline = time.time() + 200
    while not (tmp_path / "log/0/training.csv").exists():  # the first epoch is done
        assert time.time() < deadline and hosts[0].poll() is None
        time.sleep(0.1)
    os.killpg(hosts[lost].pid, signal.SIGKILL)
    started = time.time()
    _, errors = hosts[1 - lost].communicate(timeout=130)
    assert hosts[1 - lost].returncode == 2
    assert time.time() - started < 110  # JAX's heartbeat, if no socket breaks
    # JAX's threads may log a line of their own after ours.
    advice = "Start the same command again on every host"
    said = [line for line in errors.splitlines() if advice in line]
    assert len(said) == 1 and "lost" in said[0], errors
    hosts[lost].communicate()
    assert (tmp_path / "log/0/resume.npz").exists()
    if lost == 0:
        return  # the restart does not depend on which one died, and takes minutes
    table = tmp_path / "log/0/training.csv"
    before = table.read_text().splitlines()
    hosts = start_processes(built, tmp_path / "log", jax_environment, *endless)
    deadline = time.time() + 200
    while len(after := table.read_text().splitlines()) < len(before) + 1:
        assert time.time() < deadline and hosts[0].poll() is None
        time.sleep(0.1)
    for host in hosts:
        os.killpg(host.pid, signal.SIGKILL)
        host.communicate()
    # The earlier epochs are unchanged: they were not trained again.
    assert after[: len(before)] == before
    assert [row.split(",")[0] for row in after[1:]] == [
        *map(str, range(len(after) - 1))
    ]


@pytest.mark.slow
def test_a_run_computes_one_operation_at_a_time_on_cpus():
    """Needs a new process: TensorFlow takes this setting only before it computes."""
    code = "from tagger.training import devices; devices.choose()"
    code += "; import tensorflow as tf"
    code += "; assert tf.config.threading.get_inter_op_parallelism_threads() == 1"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
