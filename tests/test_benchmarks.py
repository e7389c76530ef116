"""Benchmarks and notebooks use functions that exist."""

import ast
import importlib
import io
import json
import runpy
import sys

import pytest
from conftest import REPOSITORY

BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("*.py"))
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def code_of(path):
    if path.suffix == ".py":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    lines = [line for c in cells if c["cell_type"] == "code" for line in c["source"]]
    return "".join("\n" if line[0] in "%!" else f"{line}\n" for line in lines)


@pytest.mark.parametrize("path", BENCHMARKS + NOTEBOOKS, ids=lambda path: path.name)
def test_names_of_ours_exist(path):
    """Imports, and attributes of imported modules: `scoring.evaluate`."""
    tree, modules = ast.parse(code_of(path)), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("tagger"):
            package = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(package, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
                found = getattr(package, name.name)
                if hasattr(found, "__path__") or hasattr(found, "__file__"):
                    modules[name.asname or name.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            assert module is None or hasattr(module, node.attr), ast.unparse(node)


@pytest.mark.slow
@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_every_benchmark_has_help(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.syspath_prepend(path.parent)
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_path(str(path), run_name="__main__")
    assert f"usage: {path.name}" in capsys.readouterr().out
