"""Two commands at once, full disks and interrupts lose nothing that was made."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import REPOSITORY, build_corpus

from tagger import audio, plotting, storage
from tagger.inference.embedding_files import EmbeddingFile
from tagger.weights import pretrained


@pytest.fixture
def song(tmp_path):
    audio.write_audio(tmp_path / "song.wav", np.sin(np.arange(70000) / 9) / 2, 22050)
    return tmp_path / "song.wav"


@pytest.mark.parametrize(
    ("command", "option", "name"),
    [
        (["tag"], "--output", "scores.csv"),
        (["tag"], "--output", "scores.jsonl"),
        (["embed"], "--output", "rows.npy"),
        (["embed"], "--output", "rows.parquet"),
    ],
)
def test_a_second_command_on_the_same_file_is_refused(
    command, option, name, song, trained, tmp_path, run_script
):
    model = ("--model", trained / "model.keras")
    arguments = ("-m", "tagger", *command, song, *model, option, tmp_path / name)
    with storage.file_lock(tmp_path / name, option):
        done = run_script(*arguments)
    assert done.returncode == 2
    assert f"Another run is writing to {tmp_path / name}. Wait for it" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["song.wav"]


def test_a_second_command_in_the_same_folder_is_refused(song, tmp_path, run_script):
    with storage.writer_lock(tmp_path / "out", "--output"):
        done = run_script("-m", "tagger", "explain", song, "--output", tmp_path / "out")
        assert done.returncode == 2
        assert f"Another run is writing to {tmp_path / 'out'}" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_lock_ends_with_its_process_and_leaves_no_file(tmp_path):
    path = tmp_path / "scores.csv"
    code = (
        "import sys, time; from tagger import storage\n"
        "with storage.file_lock(sys.argv[1], '--output'):\n"
        "    print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, path], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    with process:
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(OSError, match="Another run"):
            with storage.file_lock(path, "--output"):
                pass
        process.kill()
    with storage.file_lock(path, "--output"):
        pass
    assert not list(tmp_path.iterdir())


def _append(path, number):
    with storage.file_lock(path, "--output", waits=True):
        text = path.read_text() if path.exists() else ""
        time.sleep(0.02)
        path.write_text(f"{text}{number}\n")


def test_those_that_wait_for_a_lock_get_it_one_after_the_other(tmp_path):
    path = tmp_path / "numbers"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append, args=(path, n)) for n in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(path.read_text().split()) == list("01234567")


def test_two_first_uses_of_a_pretrained_model_prepare_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv(storage.CACHE_VARIABLE, str(tmp_path))
    prepared = []

    def prepare(found, path):
        prepared.append(path)
        time.sleep(0.2)
        with storage.replacing(path) as unfinished:
            unfinished.write_text("model")

    monkeypatch.setattr(pretrained, "_fill", prepare)
    calls = [
        threading.Thread(target=pretrained.ensure_cached, args=["musicnn_mtt"])
        for _ in range(4)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(prepared) == 1


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for error in (ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            with storage.replacing(path) as unfinished:
                unfinished.write_text("new, but only half")
                raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named_with_the_file_and_the_remedy(tmp_path, monkeypatch):
    message = "Cannot write '.*': no space is left on the disk. Free some space, and"
    with pytest.raises(OSError, match=message):
        with storage.replacing(tmp_path / "a.txt"):
            full()
    with pytest.raises(OSError, match=message):  # as TensorFlow and HDF5 say it
        monkeypatch.setattr(storage, "disk_is_full", lambda folder: True)
        with storage.replacing(tmp_path / "a.txt"):
            raise RuntimeError("write failed")
    figure = plotting.Figure()
    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match=message):
        plotting.save(figure, tmp_path / "a.png")
    with pytest.raises(OSError, match=message):
        library = EmbeddingFile({}, ["a.mp3"], [np.zeros(3)])
        monkeypatch.setattr(np, "save", full)
        library.save(tmp_path / "a.npy")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_worker_leaves_is_removed_when_a_build_is_complete(corpus):
    build_corpus(corpus)
    leftover = corpus / "tfrecord/.tmp-0123456789ab-val-00000-of-00002.tfrecord"
    leftover.write_bytes(b"half a shard")
    build_corpus(corpus)
    assert not leftover.exists()


def test_ctrl_c_during_the_import_of_tensorflow_is_not_swallowed(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    for _ in range(1000): pass\n"
        "except BaseException: pass\n"
    )
    (tmp_path / "song.wav").touch()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tagger", "embed", "song.wav"),
            *("--output", "a.npy"),
        ],
        env=os.environ
        | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "TAGGER_ENGINE": "keras"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130 and "interrupted" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_modules_are_imported_ends_without_a_traceback(tmp_path):
    (tmp_path / "difflib.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", "tagger", "--version"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130 and done.stderr == ""


def test_a_link_or_a_pipe_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    (tmp_path / ".a.csv.lock").symlink_to(tmp_path / "precious.txt")
    os.mkfifo(tmp_path / ".b.csv.lock")
    for name in ("a.csv", "b.csv"):
        with contextlib.suppress(OSError):
            with storage.file_lock(tmp_path / name, "--output"):
                pass
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_the_target_of_a_link_is_replaced_and_a_device_is_written_to(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "real.txt").chmod(0o660)
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with storage.replacing(tmp_path / "link.txt") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "real.txt").stat().st_mode & 0o777 == 0o660
    with storage.replacing("/dev/null") as unfinished:
        unfinished.write_text("gone")
    assert not os.path.isfile("/dev/null")


def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with storage.file_lock(tmp_path / "a.csv", "--output"):
        (tmp_path / "a.csv").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_url_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file:///|Failed|directory"):
        with storage.replacing(storage.location(f"file://{tmp_path}/file/x")) as path:
            path.write_text("x")
