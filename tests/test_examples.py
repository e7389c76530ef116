"""Runs the examples in docstrings."""

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

from tagger.models.metadata import read_graph
from tagger.weights.pretrained import PRETRAINED


@pytest.mark.parametrize(
    ("module", "number"),
    [("inference.tagger", 6), ("inference.embeddings", 3), ("inference.engines", 3)],
)
def test_examples_in_docstrings_hold(module, number, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(next(corpus.rglob("*0015*.mp3")), "song.mp3")
    shipped = PRETRAINED["student"].source.path
    Path("student.onnx").write_bytes(read_graph(shipped))
    failed, attempted = doctest.testmod(importlib.import_module(f"tagger.{module}"))
    assert attempted >= number and not failed
