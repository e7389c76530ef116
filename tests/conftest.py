"""A small corpus and a model trained on it, for all tests that need real files."""

import contextlib
import functools
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # one core for each test process
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import filelock
import pytest

from tagger import cli
from tagger.cli import process
from tagger.text import TaggerError

REPOSITORY = Path(__file__).parent.parent
REFERENCES = Path(__file__).parent / "references"
SHARED = REPOSITORY.parent / "shared"
# XLA optimises little here: our tests compile much and compute little.
XLA_IN_HASTE = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


# TensorFlow decides from the CPU alone whether oneDNN can compute in bfloat16, and
# aborts if ONEDNN_MAX_CPU_ISA forbids it.
needs_bfloat16 = pytest.mark.skipif(
    os.environ.get("ONEDNN_MAX_CPU_ISA", "AVX512").split("_")[0] != "AVX512",
    reason="ONEDNN_MAX_CPU_ISA leaves no bfloat16, but TensorFlow would use it",
)


@pytest.fixture
def shared():
    """Returns the folder of large references, on the developers' machines only."""
    if not SHARED.is_dir():
        pytest.skip("large references (../shared) are not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def _corpus(common):
    from tagger.datasets import demo

    folder = common / "corpus"
    with filelock.FileLock(common / "corpus.lock"):  # one process makes the corpus
        if not (folder / "annotations_final.csv").exists():
            demo.synthesize(folder, num_clips=32)
    return folder


@pytest.fixture
def corpus(_corpus, tmp_path):
    """Returns a folder with 32 demo clips in MTT's layout, a copy for each test."""
    return shutil.copytree(_corpus, tmp_path / "corpus")


def shards_of(folder):
    """Returns the bytes of every shard by its name."""
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")}


def build_corpus(corpus, output_dir=None, **options):
    from tagger.data import building
    from tagger.datasets import magnatagatune

    options = {
        "sample_rate": 22050,
        "segment_samples": 59049,
        "num_audios_per_shard": 4,
        "num_workers": 2,
    } | options
    return building.build(
        magnatagatune.load_annotations(corpus),
        output_dir or corpus / "tfrecord",
        **options,
    )


@pytest.fixture(scope="session")
def built_at(_corpus, common):
    """built_at(16000) returns the demo clips' shards at that rate; read-only."""

    @functools.cache
    def build(sample_rate):
        folder = common / f"built{sample_rate}"
        with filelock.FileLock(common / f"built{sample_rate}.lock"):
            if not (folder / "done").exists():
                build_corpus(_corpus, folder, sample_rate=sample_rate)
                (folder / "done").touch()
        return folder

    return build


@pytest.fixture(scope="session")
def built(built_at):
    """Returns the folder of the demo clips' shards at 22050 Hz; read-only."""
    return built_at(22050)


def call(command, cwd, input=""):
    """Runs a command in this process, as a shell would run it in a new one."""
    name, *arguments = map(str, command)
    if name.endswith(".py"):
        main = importlib.import_module(name.removesuffix(".py")).main
    else:  # -m tagger
        main, (_, *arguments) = cli.main, arguments
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        _in_folder(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
    ):
        patch.setattr(sys, "stdin", io.StringIO(input))
        warnings.resetwarnings()
        for kind in (DeprecationWarning, FutureWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = lambda message, *_, **__: print(
            f"Note: {process.with_flags(str(message))}", file=sys.stderr
        )
        try:
            main(arguments)
        except (TaggerError, OSError, ImportError) as error:
            print(f"{name}: {process.with_flags(str(error))}", file=sys.stderr)
            code = 2
        except SystemExit as ended:
            code = ended.code or 0
    return subprocess.CompletedProcess(command, code, out.getvalue(), errors.getvalue())


@contextlib.contextmanager
def _in_folder(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="session")
def run_script():
    """Runs a command as a user does: run_script("eval.py", …) -> finished process.

    The command runs in this process, which has TensorFlow loaded, unless it is Python
    code or needs its own environment. `run_process` always starts a new process.
    """

    def run(*command, cwd=REPOSITORY, **options):
        if "env" in options or command[0] in ("-c", "-X"):
            return run_process(*command, cwd=cwd, **options)
        return call(command, cwd, **options)

    return run


def run_on_backend(backend, code, *arguments):
    """Runs code in a new process with another Keras backend and returns its output."""
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    environment = os.environ | XLA_IN_HASTE | {"KERAS_BACKEND": backend}
    done = run_process("-c", code, *arguments, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_process(*command, cwd=REPOSITORY, **options):
    """Runs a command in a new process."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture(scope="session")
def common(tmp_path_factory, worker_id):
    """Returns a folder that all test processes of this run share."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def trained(built, common, run_script):
    """Returns a finished training run: two short stages of a narrow SE model."""
    folder = common / "trained"
    # One test process trains; the others wait until it is done.
    with filelock.FileLock(common / "trained.lock"):
        if not (folder / "model.keras").exists():
            done = run_script(
                *("train.py", "--data-dir", built, "--train-dir", folder),
                *("--num-filters", 4, "--alpha", 2, "--batch-size", 8),
                *("--num-lr-decays", 2, "--max-epochs", 2),
            )
            assert done.returncode == 0, done.stderr
    return folder


def fails(done, *words):
    """Checks that a command ended with exit code 2 and these words in the last line."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for word in words:
        assert str(word) in last


def pretrained_or_skip(name):
    """Downloads a pretrained model unless it is in the cache already."""
    from tagger.weights import pretrained

    try:
        pretrained.ensure_cached(name)
    except ConnectionError as error:
        pytest.skip(str(error))


# --- The music library ----------------------------------------------------------------


@pytest.fixture
def music(tmp_path):
    """Returns a folder of five songs in three formats."""
    from collection import make_song

    folder = tmp_path / "music"
    make_song(folder / "a.mp3", 0, artist="Ann", album="One", title="First")
    make_song(folder / "b.flac", 3, artist="Ann", title="Second")
    make_song(folder / "sub" / "c.ogg", 7, artist="Ben", title="Third")
    make_song(folder / "sub" / "d.mp3", 11)
    make_song(folder / "sub" / "e.mp3", 15, artist="Cem", title="Fifth")
    return folder


@pytest.fixture
def scanner(tmp_path):
    """Returns a library to fill with an engine that counts what it hears."""
    from collection import Scanner

    return Scanner(tmp_path / "library.sqlite")


@pytest.fixture
def command(scanner, monkeypatch):
    """Makes the commands use the library and the engine of `scanner`."""
    from tagger.inference import selection
    from tagger.library import database

    monkeypatch.setattr(selection, "open_engine", lambda *_, **__: scanner.engine)
    monkeypatch.setattr(database, "default_path", lambda: scanner.path)
    return scanner
