"""Runs the examples in docstrings."""

import doctest
import importlib
import shutil
import warnings

import pytest
from conftest import pretrained_or_skip

from tagger.inference import export, selection
from tagger.weights import pretrained


@pytest.mark.slow  # downloads a trained model once
@pytest.mark.parametrize(
    ("module", "number"),
    [("inference.tagger", 6), ("inference.embeddings", 3), ("inference.engines", 3)],
)
def test_examples_in_docstrings_hold(module, number, corpus, tmp_path, monkeypatch):
    pretrained_or_skip("musicnn_mtt")
    monkeypatch.chdir(tmp_path)
    shutil.copy(next(corpus.rglob("*0015*.mp3")), "song.mp3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first use says that it exports the model
        selection.open_engine("musicnn_mtt")
    if module == "inference.engines":
        for package in ("onnxruntime", "onnx", "tf2onnx"):
            pytest.importorskip(package)
        export.export(pretrained.load("musicnn_mtt"), "musicnn_mtt.onnx", "onnx")
    failed, attempted = doctest.testmod(importlib.import_module(f"tagger.{module}"))
    assert attempted >= number and not failed
