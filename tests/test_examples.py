"""The examples in docstrings are run as they stand."""

import doctest
import importlib
import shutil

import pytest

from tagger import export, pretrained


@pytest.mark.slow  # fetches a trained model, once
@pytest.mark.parametrize(
    ("module", "number"), [("tagging", 6), ("embeddings", 5), ("onnx_models", 3)]
)
def test_examples_in_docstrings_hold(module, number, corpus, tmp_path, monkeypatch):
    try:
        pretrained.prepare("musicnn_mtt")
    except ConnectionError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    shutil.copy(next(corpus.rglob("*0015*.mp3")), "song.mp3")
    if module == "onnx_models":
        for package in ("onnxruntime", "onnx", "tf2onnx"):
            pytest.importorskip(package)
        export.export(pretrained.load("musicnn_mtt"), "musicnn_mtt.onnx", "onnx")
    failed, attempted = doctest.testmod(importlib.import_module(f"tagger.{module}"))
    assert attempted >= number and not failed
