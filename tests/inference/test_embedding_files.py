"""Files of embeddings, and the command that writes them."""

import json

import numpy as np
import pytest
from conftest import REFERENCES, fails

from tagger import models
from tagger.inference.embedding_files import EmbeddingFile
from tagger.inference.embeddings import Embedder
from tagger.inference.streaming import StreamOptions

SONGS = [str(REFERENCES / name) for name in ("mono.mp3", "stereo.mp3")]


@pytest.fixture(scope="module")
def embedder(trained):
    return Embedder(models.load_model(trained / "model.keras"))


@pytest.mark.parametrize("name", ["x.npy", "x.parquet"])
def test_a_file_comes_back_and_grows(name, embedder, tmp_path):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    held = EmbeddingFile({"model": "m", "layer": "penultimate", "excerpts": 3})
    options = StreamOptions()
    assert not list(held.extend(embedder, SONGS[:1], options))
    held.save(tmp_path / name)
    held = EmbeddingFile.load(tmp_path / name)
    bad = str(tmp_path / "bad.mp3")
    (failed,) = held.extend(embedder, [*SONGS, bad], options)
    assert failed.path == bad and "no such file" in str(failed.error)
    held.save(tmp_path / name)
    again = EmbeddingFile.load(tmp_path / name)
    assert again.paths == SONGS and again.about == held.about
    np.testing.assert_array_equal(again.rows, held.rows)
    np.testing.assert_allclose(again.rows[1], embedder.embed(SONGS[1]), atol=1e-6)


def test_a_file_whose_writer_was_killed_is_read(tmp_path):
    """The writer was killed after the rows, before their names."""
    held = EmbeddingFile({}, ["a"], [np.ones(3, np.float32)])
    held.save(tmp_path / "x.npy")
    named = (tmp_path / "x.npy.json").read_bytes()
    held.paths.append("b")
    held.rows.append(np.zeros(3, np.float32))
    held.save(tmp_path / "x.npy")
    (tmp_path / "x.npy.json").write_bytes(named)
    assert EmbeddingFile.load(tmp_path / "x.npy").paths == ["a"]


def test_what_is_no_such_file_is_said(tmp_path):
    np.save(tmp_path / "x.npy", np.full((2, 3), np.nan, np.float32))
    for beside in (None, "{", '{"paths": ["a"]}', '{"paths": ["a", "b", "c"]}'):
        if beside:
            (tmp_path / "x.npy.json").write_text(beside)
        with pytest.raises(ValueError, match="does not hold embeddings of tagger emb"):
            EmbeddingFile.load(tmp_path / "x.npy")


def test_the_command_goes_on_with_its_file(trained, tmp_path, run_script):
    output = tmp_path / "x.npy"
    embed = ("-m", "tagger", "embed", "--model", trained / "model.keras")
    done = run_script(*embed, SONGS[0], "--output", output)
    assert done.stdout == f"{output}: 1 embedding\n", done.stderr
    first = np.load(output)
    bad = tmp_path / "bad.mp3"
    bad.write_bytes(b"no music")
    done = run_script(*embed, *SONGS, bad, "--output", output)
    assert done.returncode == 2 and "Cannot decode" in done.stderr
    assert done.stdout == f"{output}: 2 embeddings\n"
    np.testing.assert_array_equal(np.load(output)[:1], first)
    about = json.loads((tmp_path / "x.npy.json").read_text())
    assert about["paths"] == SONGS and about["layer"] == "penultimate"
    other = run_script(*embed, SONGS[0], "--output", output, "--excerpts", 2)
    fails(other, "Give the same options, or another --output")
