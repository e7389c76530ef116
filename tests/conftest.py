"""A small corpus, built and trained once, for every test that needs real files."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes: a core to each
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import filelock
import pytest

REPOSITORY = Path(__file__).parent.parent
REFERENCES = Path(__file__).parent / "references"
SHARED = REPOSITORY.parent / "shared"
# Compiled in haste: our tests compile much and compute little.
XLA_IN_HASTE = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


@pytest.fixture
def shared():
    """Folder of large references that only the developers' machines have."""
    if not SHARED.is_dir():
        pytest.skip("large references (../shared) are not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def _corpus(tmp_path_factory):
    from tagger.datasets import demo

    folder = tmp_path_factory.mktemp("corpus")
    demo.synthesize(folder, num_clips=32)
    return folder


@pytest.fixture
def corpus(_corpus, tmp_path):
    """32 demo clips in MTT layout, this test's own copy."""
    return shutil.copytree(_corpus, tmp_path / "corpus")


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
def built_at(_corpus, tmp_path_factory):
    """built_at(16000) -> folder of the demo clips' shards at a rate; read only."""

    @functools.cache
    def build(sample_rate):
        folder = tmp_path_factory.mktemp(f"built{sample_rate}")
        build_corpus(_corpus, folder, sample_rate=sample_rate)
        return folder

    return build


@pytest.fixture(scope="session")
def built(built_at):
    """Folder of the demo clips' shards at 22050 Hz; read only."""
    return built_at(22050)


@pytest.fixture(scope="session")
def run_script():
    """Runs a command as a user does: run_script("eval.py", …) -> finished process."""

    def run(*command, cwd=REPOSITORY, **options):
        return subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def common(tmp_path_factory, worker_id):
    """Folder that all test processes of this run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def trained(built, common, run_script):
    """Folder of a finished training run: two short stages of a narrow SE model."""
    folder = common / "trained"
    # Of several test processes one trains; the others wait for the end of its run.
    with filelock.FileLock(common / "trained.lock"):
        if not (folder / "model.keras").exists():
            done = run_script(
                *("train.py", "--data-dir", built, "--train-dir", folder),
                *("--num-filters", 4, "--alpha", 2, "--batch-size", 8),
                *("--num-lr-decays", 2, "--max-epochs", 2),
            )
            assert done.returncode == 0, done.stderr
    return folder
