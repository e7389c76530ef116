"""Tables of embeddings, and the command that writes and searches them."""

import numpy as np
import pytest
from conftest import REFERENCES

from tagger import models
from tagger.inference.embeddings import Embedder
from tagger.library import embedding_table
from tagger.library.embedding_table import EmbeddingTable


@pytest.fixture(scope="module")
def embedder(trained):
    return Embedder(models.load_model(trained / "model.keras"))


@pytest.mark.parametrize("name", ["x.npy", "x.parquet"])
def test_a_library_comes_back_and_is_gone_on_with(name, embedder, tmp_path):
    files = [str(REFERENCES / "mono.mp3"), str(REFERENCES / "stereo.mp3")]
    library = EmbeddingTable("m", "penultimate")
    place = tmp_path / name
    assert not embedding_table.extend(library, embedder, files[:1], place)
    bad = str(tmp_path / "bad.mp3")
    errors = embedding_table.extend(library, embedder, [*files, bad], place)
    assert list(errors) == [bad] and "no such file" in str(errors[bad])
    loaded = EmbeddingTable.load(place)
    assert (loaded.model, loaded.layer) == ("m", "penultimate")
    assert list(loaded.vectors) == files
    for path in files:
        np.testing.assert_array_equal(loaded.vectors[path], library.vectors[path])


def test_an_interrupted_run_keeps_what_it_made(embedder, tmp_path):
    def paths():
        yield str(REFERENCES / "mono.mp3")
        yield str(REFERENCES / "stereo.mp3")

    class Interrupted:
        def embed_files(self, *args):
            yield from list(embedder.embed_files(*args))[:1]
            raise KeyboardInterrupt

    library = EmbeddingTable("m", "penultimate")
    with pytest.raises(KeyboardInterrupt):
        embedding_table.extend(library, Interrupted(), paths(), tmp_path / "x.npy")
    held = EmbeddingTable.load(tmp_path / "x.npy")
    assert list(held.vectors) == [str(REFERENCES / "mono.mp3")]


@pytest.mark.parametrize("name", ["x.npy", "x.parquet"])
@pytest.mark.parametrize("content", ["", "my notes"])
@pytest.mark.parametrize(
    "beside", ["", "[]", '{"model": "m", "layer": "l", "paths": []}']
)
def test_files_of_others_are_no_library(name, content, beside, tmp_path):
    (tmp_path / name).write_text(content)
    (tmp_path / f"{name}.json").write_text(beside)
    with pytest.raises(ValueError, match="is not a library of embeddings"):
        EmbeddingTable.load(tmp_path / name)


def test_a_library_whose_writer_was_killed_is_read(tmp_path):
    """The writer was killed after the embeddings, before their names."""
    library = EmbeddingTable("m", "l", {"a": np.ones(3, np.float32)})
    library.save(tmp_path / "x.npy")
    named = (tmp_path / "x.npy.json").read_bytes()
    library.vectors["b"] = np.zeros(3, np.float32)
    library.save(tmp_path / "x.npy")
    (tmp_path / "x.npy.json").write_bytes(named)
    assert list(EmbeddingTable.load(tmp_path / "x.npy").vectors) == ["a"]


def test_the_nearest_point_most_alike():
    vectors = {"a": [1.0, 0.0], "b": [3.0, 4.0], "c": [0.0, -2.0]}
    library = EmbeddingTable(
        "m", "l", {k: np.array(v, np.float32) for k, v in vectors.items()}
    )
    nearest = library.nearest(np.array([2.0, 0.0], np.float32), 5)
    assert list(nearest.index) == ["a", "b", "c"]
    np.testing.assert_allclose(nearest, [1, 0.6, 0], atol=1e-6)


@pytest.mark.slow
def test_the_command_embeds_and_lists_the_most_similar(trained, tmp_path, run_script):
    embed = ("-m", "tagger", "embed", "--model", trained / "model.keras")
    song, library = REFERENCES / "mono.mp3", tmp_path / "x.parquet"
    (tmp_path / "again.mp3").write_bytes(song.read_bytes())
    done = run_script(
        *(*embed, song, REFERENCES / "stereo.mp3", tmp_path / "again.mp3"),
        *("--library", library, "--similar-to", song, "--top", 1),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"1.000  {tmp_path / 'again.mp3'}\n"
    again = run_script(*embed, "--library", library, "--similar-to", song)
    assert again.stdout.startswith(done.stdout) and again.stdout.count("\n") == 2
    other = run_script(*embed, "--library", library, "--layer", "x", song)
    assert other.returncode == 2 and "holds embeddings of" in other.stderr
    for arguments, said in (((), "Give audio files"), ((song,), "Give --library")):
        wrong = run_script(*embed, *arguments)
        assert wrong.returncode == 2 and said in wrong.stderr


# --- scikit-learn, and waveforms in the place of files --------------------------------
