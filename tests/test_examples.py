"""Runs the examples in docstrings."""

import doctest
import importlib
import shutil

import pytest

from tagger.weights.pretrained import PRETRAINED


@pytest.mark.parametrize(
    ("module", "number"),
    [("inference.tagger", 6), ("inference.embeddings", 3), ("inference.engines", 3)],
)
def test_examples_in_docstrings_hold(module, number, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(next(corpus.rglob("*0015*.mp3")), "song.mp3")
    shipped = PRETRAINED["student"].source.path
    shutil.copy(shipped.with_suffix(".onnx"), "student.onnx")
    failed, attempted = doctest.testmod(importlib.import_module(f"tagger.{module}"))
    assert attempted >= number and not failed
