"""The model inside this package: it works offline, and is what it says."""

import importlib
import os
import runpy
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from conftest import REPOSITORY, run_process
from drawn import draw_music

from tagger import models
from tagger.inference.tagger import Tagger
from tagger.models import graphs
from tagger.models.files import read_info
from tagger.models.metadata import read_graph
from tagger.weights import cards, pretrained

SHIPPED = [
    name
    for name, found in pretrained.PRETRAINED.items()
    if isinstance(found.source, pretrained.Shipped)
]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_small_and_names_its_origin(name):
    path = pretrained.ensure_cached(name)
    info, found = read_info(path), pretrained.PRETRAINED[name]
    assert info.tags == found.tags
    assert info.name == name and info.architecture == found.model
    assert path.stat().st_size <= 6.5e6
    assert len(info.thresholds) == info.num_tags
    assert info.provenance["licence"] == found.licence
    text = cards.card(name)
    for key in ("data", "thresholds", "agreement with the teacher", "limits"):
        assert info.provenance[key] in text


@pytest.mark.parametrize("name", SHIPPED)
def test_the_graph_of_a_shipped_model_is_that_of_its_network(name):
    path = pretrained.ensure_cached(name)
    session = onnxruntime.InferenceSession(read_graph(path))
    assert graphs.info_of(graphs.load(path)) == read_info(path)
    model = models.load_model(path)
    info = models.model_info(model)
    music = draw_music(info.segmentation.num_samples, info.sample_rate)
    scores, _ = session.run(["scores", "embedding"], {"waveform": music})
    np.testing.assert_allclose(scores, model(music), atol=1e-5)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_made_of_a_shipped_model_keeps_the_licence_of_its_teachers(name):
    about = pretrained.provenance_of([name], [read_info(pretrained.path_of(name))])
    assert about["licence of the base"] == "MIT, ISC"


@pytest.mark.parametrize("name", SHIPPED)
def test_silence_and_tiny_scores_reach_no_threshold(name):
    found, random = Tagger.from_pretrained(name), np.random.default_rng(0)
    thresholds = np.array(found.info.thresholds)
    assert thresholds.min() >= 0.02
    for level in (0, 1e-5):  # of digital silence, and of the noise of a converter
        sound = random.normal(0, level, 12 * 16000).astype(np.float32)
        scores = found.taggram((sound, 16000)).aggregated()
        assert (scores < thresholds).all(), np.array(found.tags)[scores >= thresholds]


CODE = """
import sys
from tagger import cli
cli.main(["tag", "docs/gallery/music/rock", "--model", sys.argv[1], "--top", "1"])
assert not {"keras", "tensorflow"} & set(sys.modules)
"""


@pytest.mark.parametrize("name", SHIPPED)
def test_songs_are_tagged_without_a_network_a_cache_or_keras(name, tmp_path):
    nowhere = {"PIP_NO_INDEX": "1", "TAGGER_CACHE": str(tmp_path / "file" / "no")}
    (tmp_path / "file").touch()
    done = run_process("-c", CODE, name, cwd=REPOSITORY, env=os.environ | nowhere)
    assert done.returncode == 0, done.stderr
    assert "rock/muldjord_guitar.opus\n  rock " in done.stdout


def test_no_package_and_no_person_is_in_two_splits_of_the_students_music(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks" / "student")
    groups = importlib.import_module("groups")
    rows, splits = groups.read("music.csv"), {}
    for row in rows:
        for key in groups.keys(row):
            splits.setdefault(key, set()).add(row["split"])
    assert len(rows) == 847 and [one for one in splits.items() if len(one[1]) > 1] == []
    held = dict(zip(groups.groups(rows), (row["split"] for row in rows), strict=True))
    for row, group in zip(rows, groups.groups(rows), strict=True):
        assert held[group] == row["split"]
    assert groups.persons('2006 Zhaytee, "Àlex Almarza" (Krobonil) & the team') == {
        "joseph g toscano", "alex almarza", "chris leutwyler",
    }  # fmt: skip


def test_the_student_is_the_network_that_its_script_trains(monkeypatch):
    torch = pytest.importorskip("torch")
    for name in ("KERAS_BACKEND", "ONEDNN_MAX_CPU_ISA"):  # the script sets them
        monkeypatch.setenv(name, os.environ.get(name, ""))
    script = runpy.run_path(str(REPOSITORY / "benchmarks/student/train.py"))
    widths = (1, 1, 1, 2, 1, 1, 2)
    args = SimpleNamespace(dropout_rate=0.2, widths=widths, num_filters=4)
    network, log_mel = script["Network"](args, 3), torch.randn(4, 128, 189) - 40
    network(log_mel[:, None])  # moves the statistics of batch norm
    with torch.no_grad():
        logits, _ = network.eval()(log_mel[:, None])
    model = script["in_keras"](network, args, ("a", "b", "c"))
    images = log_mel.numpy().swapaxes(1, 2)
    scores = models.feature_network(model).predict(images, verbose=0)
    assert np.ptp(scores) > 0.01
    assert np.allclose(scores, torch.sigmoid(logits), atol=1e-5)
