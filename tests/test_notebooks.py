"""The notebooks run unchanged, and contain no logic of their own."""

import ast
import os
import re
import shutil
import sys

import pytest
from conftest import REPOSITORY
from narrow import narrow_options

from tagger import models

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))

nbformat = pytest.importorskip("nbformat")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_defines_and_loops_nothing(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            tree = ast.parse(re.sub("^[%!]", "# ", cell.source, flags=re.MULTILINE))
            for node in ast.walk(tree):
                kinds = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.If)
                assert not isinstance(node, kinds), cell.source


@pytest.mark.parametrize(
    ("name", "num_images"),
    [
        ("attention_visualization", 5),
        ("excitation_analysis", 6),
        ("your_own_tags", 3),
    ],
)
def test_a_notebook_shows_its_pictures_to_who_only_reads_it(name, num_images):
    path = REPOSITORY / "notebooks" / f"{name}.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert len(images_of(outputs)) == num_images
    assert path.stat().st_size < 600_000  # pictures in full colour


def execute(name, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=280,
        resources={"metadata": {"path": REPOSITORY / "notebooks"}},
    ).execute()
    return [o for cell in notebook.cells for o in cell.get("outputs", [])]


def images_of(outputs):
    return [output for output in outputs if "image/png" in output.get("data", {})]


@pytest.mark.slow
def test_train_on_colab_tpu_runs_on_a_cpu(tmp_path, monkeypatch):
    settings = {
        "STRATEGY": "none", "KERAS_BACKEND": "tensorflow", "NUM_CLIPS": "32",
        "MAX_EPOCHS": "1", "INSTALL": "true", "REPOSITORY": str(REPOSITORY),
        "DATA_DIR": str(tmp_path / "demo"), "TRAIN_DIR": str(tmp_path / "log"),
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    outputs = execute("train_on_colab_tpu", monkeypatch)
    printed = "".join(output.get("text", "") for output in outputs)
    assert "32 demo clips" in printed and "Best model:" in printed
    assert "test macro: ROC-AUC" in printed and "95 % interval" in printed
    assert len(images_of(outputs)) == 1


@pytest.mark.slow
def test_attention_visualization_runs(corpus, tmp_path, monkeypatch):
    tags = ("quiet", "loud", "slow")
    options = narrow_options("self_attention") | {"num_samples": 16320}
    model = models.build_model("self_attention", num_tags=3, tags=tags, **options)
    models.save_model(model, tmp_path / "model.keras")
    first, second, *_ = sorted(corpus.rglob("*.mp3"))
    settings = {"MODEL": tmp_path / "model.keras", "FIRST": first, "SECOND": second,
                "TAGS": "loud,quiet"}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    assert len(images_of(execute("attention_visualization", monkeypatch))) == 5


@pytest.mark.slow
def test_excitation_analysis_runs(trained, built, run_script, tmp_path, monkeypatch):
    done = run_script(
        *("extract_excitations.py", trained / "model.keras", "--data-dir", built),
        *("--out", tmp_path / "ex.pkl"),
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("EXCITATIONS", str(tmp_path / "ex.pkl"))
    monkeypatch.setenv("DATA_DIR", str(built))
    monkeypatch.setenv("TAGS", "loud,quiet,drums")
    images = images_of(execute("excitation_analysis", monkeypatch))
    assert len(images) == 6


@pytest.mark.slow
def test_your_own_tags_runs(tmp_path, monkeypatch):
    songs = REPOSITORY / "docs" / "gallery" / "music"
    for tag in ("rock", "nature_sounds"):
        (tmp_path / "music" / tag).mkdir(parents=True)
        for path in sorted((songs / tag).iterdir())[:6]:
            shutil.copy(path, tmp_path / "music" / tag)
    settings = {
        "REPOSITORY": str(REPOSITORY), "MUSIC": str(tmp_path / "music"),
        "SONG": str(songs / "rock" / "muldjord_song.opus"),
        "OUTPUT": str(tmp_path / "mine.keras"),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    outputs = execute("your_own_tags", monkeypatch)
    printed = "".join(str(output) for output in outputs)
    assert "log-mel statistics" in printed and "nature_sounds" in printed
    assert len(images_of(outputs)) == 3
    assert models.load_model(tmp_path / "mine.keras").output.shape == (None, 2)
