"""The examples in docstrings are run as they stand."""

import doctest
import importlib
import shutil

import pytest

from tagger import pretrained


@pytest.mark.slow  # fetches a trained model, once
@pytest.mark.parametrize("module", ["tagging", "embeddings"])
def test_examples_in_docstrings_hold(module, corpus, tmp_path, monkeypatch):
    try:
        pretrained.prepare("musicnn_mtt")
    except ConnectionError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    shutil.copy(next(corpus.rglob("*0015*.mp3")), "song.mp3")
    failed, attempted = doctest.testmod(importlib.import_module(f"tagger.{module}"))
    assert attempted >= 5 and not failed
