"""The notebooks run as they stand, and hold no logic of their own."""

import ast
import os

import pytest
from conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))

nbformat = pytest.importorskip("nbformat")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_defines_and_loops_nothing(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source.replace("%matplotlib", "# "))
            for node in ast.walk(tree):
                kinds = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.If)
                assert not isinstance(node, kinds), cell.source


@pytest.mark.slow
def test_excitation_analysis_runs(trained, built, run_script, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    done = run_script(
        *("extract_excitations.py", trained / "model.keras", "--data-dir", built),
        *("--out", tmp_path / "ex.pkl"),
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("EXCITATIONS", str(tmp_path / "ex.pkl"))
    monkeypatch.setenv("DATA_DIR", str(built))
    monkeypatch.setenv("TAGS", "loud,quiet,drums")
    monkeypatch.setenv(
        "PYTHONPATH", f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    )
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=240,
        resources={"metadata": {"path": REPOSITORY / "notebooks"}},
    ).execute()
    images = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(images) == 6
