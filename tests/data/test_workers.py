"""Workers, builders and clusters that die lose nothing; the same bytes come out."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, build_corpus, shards_of

from tagger import containers
from tagger.data import workers
from tagger.data.manifest import Manifest

# Worker processes import this script too, so they are slowed down as well.
SLOW_BUILD = """
import time
from tagger import cli
from tagger.data import building

decode = building.stream_audio
def slowly(path, sample_rate):
    time.sleep(0.1)
    return decode(path, sample_rate)
building.stream_audio = slowly

if __name__ == "__main__":
    cli.run(cli.main_of("build mtt", "build_mtt.py"))
"""


@pytest.fixture
def start_build(corpus, tmp_path):
    """Returns a function that starts a build and waits for its first shard."""
    script = tmp_path / "slow_build.py"
    script.write_text(SLOW_BUILD)

    def start(*options):
        command = [sys.executable, str(script), "--data-dir", str(corpus)]
        command += ["--num-audios-per-shard", "4", "--num-workers", "1", *options]
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A test run in the background ignores SIGINT, and so do its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.time() + 60
        while not any((corpus / "tfrecord").glob("*.tfrecord.json")):
            assert process.poll() is None and time.time() < deadline
            time.sleep(0.005)
        return process, command

    return start


def test_kill_9_loses_no_listed_shard_and_the_same_bytes_come_out(
    corpus, built, start_build
):
    process, command = start_build()
    state = corpus / "tfrecord"
    while not Manifest.load(state).shards and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    listed = Manifest.load(state)
    assert listed.shards and not listed.complete, "the build was not caught at work"
    modified = {name: (state / name).stat().st_mtime_ns for name in listed.shards}
    build_corpus(corpus)
    for name, time_ns in modified.items():
        assert (state / name).stat().st_mtime_ns == time_ns, (
            "a listed shard was rebuilt"
        )
    assert shards_of(state) == shards_of(built)
    assert Manifest.load(state) == Manifest.load(built)
    assert not list(state.glob(".tmp*"))


def test_ctrl_c_keeps_every_finished_shard_and_says_how_to_go_on(corpus, start_build):
    process, _ = start_build()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "To continue: python slow_build.py" in said
    assert "Traceback" not in said
    manifest = Manifest.load(corpus / "tfrecord")
    # A worker may have been stopped between a shard and its sidecar.
    assert len(set(shards_of(corpus / "tfrecord")) - set(manifest.shards)) <= 1
    assert manifest.shards and not manifest.complete


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads children from /proc")
def test_workers_end_when_their_parent_is_killed(start_build):
    process, _ = start_build()
    session = process.pid

    def alive():
        """Returns the processes of the build's session, without zombies."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    yield int(folder.name)

    assert len(list(alive())) >= 2, "the build was not caught at work"
    process.kill()
    process.communicate()
    deadline = time.time() + 20
    while list(alive()) and time.time() < deadline:
        time.sleep(0.05)
    assert not list(alive())


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds workers in /proc")
@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_the_same_bytes_come_out(
    corpus, built, start_build
):
    process, _ = start_build()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    for child in children.split():
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
    listed = Manifest.load(corpus / "tfrecord")
    assert not listed.complete, "the build was not caught at work"
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert shards_of(corpus / "tfrecord") == shards_of(built)
    assert not list((corpus / "tfrecord").glob(".*"))


@pytest.mark.slow
def test_a_file_that_crashes_the_decoder_is_skipped(corpus, run_script, tmp_path):
    """Every process of the build dies of one file, as with eight channels once."""
    clip = next((corpus / "mp3/1").iterdir())
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "from tagger import audio\n"
        "decode = audio.stream_audio\n"
        "def crashing(path, sample_rate):\n"
        f"    if os.fspath(path).endswith({clip.name!r}):\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return decode(path, sample_rate)\n"
        "audio.stream_audio = crashing\n"
    )
    done = run_script(
        *("build_mtt.py", "--data-dir", corpus, "--num-audios-per-shard", 4),
        *("--num-workers", 1, "--max-skipped", 1),
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
    )
    assert done.returncode == 0, done.stderr
    manifest = Manifest.load(corpus / "tfrecord")
    (skip,) = manifest.skipped
    assert skip["path"].endswith(clip.name)
    assert skip["reason"] == "it killed the process that worked on it"
    assert sum(manifest.num_clips(split) for split in manifest.splits) == 31


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        yield cluster


# Dask closes its own sockets later, in its threads.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_whose_worker_dies_makes_the_same_bytes(corpus, built, cluster):
    output_dir, at_death = corpus / "tfrecord", []
    victim = next(iter(cluster.workers.values()))

    def kill():
        while not any(output_dir.glob("*.tfrecord")):
            time.sleep(0.002)
        os.kill(victim.pid, signal.SIGKILL)
        at_death.append(len(shards_of(output_dir)))

    killer = threading.Thread(target=kill)
    killer.start()
    manifest = build_corpus(corpus, scheduler=cluster.scheduler_address)
    killer.join()
    assert at_death[0] < len(manifest.shards), "the build was not caught at work"
    assert shards_of(output_dir) == shards_of(built)
    assert manifest == Manifest.load(built)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_scheduler_that_does_not_answer_is_named(corpus, monkeypatch):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with pytest.raises(
            OSError, match="No Dask scheduler answers at 'tcp://127.0.0"
        ):
            build_corpus(corpus, scheduler="tcp://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match="needs Dask: pip install"):
        build_corpus(corpus, scheduler="tcp://127.0.0.1:1")


# --- Results in order -----------------------------------------------------------------


def double(number):
    """Returns twice the number; the first takes longest."""
    time.sleep(0.3 if number == 0 else 0)
    return 2 * number


def die_at_seven(number):
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_order_and_few_tasks_are_read_ahead():
    read, found = [], []

    def numbers():
        for number in range(40):
            read.append(number)
            yield number

    for task, result in workers.stream(double, numbers(), 2, num_ahead=3):
        found.append((task, result))
        assert len(read) <= len(found) + 2 * 3
    assert found == [(number, 2 * number) for number in range(40)]


def test_a_task_that_kills_its_worker_is_named_and_no_other_is_lost():
    found = dict(workers.stream(die_at_seven, range(20), 2))
    assert isinstance(found.pop(7), workers.WorkersDied)
    assert found == {number: number for number in range(20) if number != 7}


def hang_at_two(number):
    containers.WORKER_SECONDS = 0.5
    if number == 2:
        containers._watched(sum, range(10**12))  # one call that does not return
    return containers._watched(double, number)


def test_a_worker_whose_decoder_does_not_return_is_killed():
    started = time.monotonic()
    found = list(workers.stream(hang_at_two, range(4), 2))
    assert time.monotonic() - started < 40
    assert [result for _, result in found if isinstance(result, int)] == [0, 2, 6]
    assert isinstance(found[2][1], workers.WorkersDied)


def fill_memory(num_bytes):
    try:
        return len(bytearray(num_bytes))
    except MemoryError:
        return "too much"


@pytest.mark.skipif(sys.platform != "linux", reason="others do not limit memory")
def test_the_memory_of_a_worker_is_limited():
    found = dict(workers.stream(fill_memory, [10, containers.WORKER_BYTES], 1))
    assert found == {10: 10, containers.WORKER_BYTES: "too much"}


def test_a_machine_that_kills_every_worker_ends_the_run():
    sentence = "died 3 times in a row without finishing a"
    with pytest.raises(workers.WorkersDied, match=sentence):
        list(workers.stream(die, range(20), 2))


def test_the_number_of_cores_heeds_what_the_process_may_use():
    code = "from tagger.data import workers; print(workers.num_cores())"
    command = [sys.executable, "-c", code]
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system binds no process to cores")
    bound = {min(os.sched_getaffinity(0))}
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, bound),
    )
    assert done.stdout == "1\n", done.stderr
