"""Pretrained models: a download is complete, or it is not kept."""

import contextlib
import hashlib
import http.server
import subprocess
import threading
import wave
import zipfile

import numpy as np
import pytest
from conftest import fails

from tagger import Tagger, cli, models, storage
from tagger.inference import selection
from tagger.models.metadata import DEFAULT_MODEL
from tagger.weights import downloads, pretrained

CONTENT = np.random.RandomState(0).bytes(300_000)
BLOB_ID = hashlib.sha1(b"blob 300000\0" + CONTENT).hexdigest()
SOURCE = downloads.GitFile("a/b", "c" * 40, "model.pth", BLOB_ID)


@contextlib.contextmanager
def serving(content, breaks_after=None):
    """Yields a URL, and a list of the requests."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:breaks_after])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/model.pth", asked
        server.shutdown()


def test_gits_id_is_gits(tmp_path):
    (tmp_path / "x").write_bytes(CONTENT)
    assert downloads.blob_id(tmp_path / "x") == BLOB_ID
    done = subprocess.run(
        ["git", "hash-object", tmp_path / "x"], capture_output=True, text=True
    )
    if done.returncode == 0:
        assert done.stdout.strip() == BLOB_ID


def test_a_whole_file_is_kept_and_not_fetched_again(tmp_path):
    with serving(CONTENT) as (url, asked):
        for _ in range(2):
            downloads.fetch(SOURCE, tmp_path / "x", url)
    assert (tmp_path / "x").read_bytes() == CONTENT and len(asked) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_download_that_breaks_is_not_kept(tmp_path):
    with serving(CONTENT, 100_000) as (url, _):
        with pytest.raises(ConnectionError, match="cannot be downloaded.*try again"):
            downloads.fetch(SOURCE, tmp_path / "x", url)
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("content", [CONTENT[:-1], b"?" + CONTENT[1:], CONTENT + b"?"])
def test_another_file_is_refused_and_not_kept(tmp_path, content):
    with serving(content) as (url, _):
        with pytest.raises(ValueError, match="not the published file: .* was deleted"):
            downloads.fetch(SOURCE, tmp_path / "x", url)
    assert not list(tmp_path.iterdir())


def test_sha256_must_hold_too(tmp_path):
    source = downloads.GitFile("a/b", "c" * 40, "m", BLOB_ID, "0" * 64)
    with serving(CONTENT) as (url, _):
        with pytest.raises(ValueError, match="not the published file"):
            downloads.fetch(source, tmp_path / "x", url)


def test_without_a_network_one_sentence(tmp_path):
    with pytest.raises(
        ConnectionError, match="cannot be downloaded: .*Connect to the net"
    ):
        downloads.fetch(SOURCE, tmp_path / "x", "http://127.0.0.1:1/model.pth")


def test_names_are_of_models_there_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert DEFAULT_MODEL in pretrained.PRETRAINED
    assert len(pretrained.PRETRAINED) == 1 + 4 + 24 + 2 + 3
    assert "musicnn600_won2020_msd" in pretrained.PRETRAINED
    places = set()
    for name, found in pretrained.PRETRAINED.items():
        assert found.model in models.MODELS, name
        if isinstance(found.source, downloads.GitFile):
            assert len(found.source.blob_id) == 40 and len(found.tags) == 50
            places.add(found.source.url)
    assert len(places) == 26
    cli.main(["models", "list"])
    listing = capsys.readouterr().out
    assert all(name in listing for name in (*pretrained.PRETRAINED, *models.MODELS))
    assert max(map(len, listing.splitlines())) <= 80


@pytest.mark.slow
def test_what_cannot_be_had_is_said(tmp_path, monkeypatch, run_script):
    monkeypatch.setenv(storage.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(
        ValueError, match="no pretrained model 'x'. Available: student, musicnn_m"
    ):
        pretrained.ensure_cached("x")
    with pytest.raises(
        ValueError, match="cannot be downloaded automatically. Get it y"
    ):
        pretrained.ensure_cached("sample_cnn_se_kim2018")
    with pytest.raises(
        FileNotFoundError,
        match="pretrained model .musicnn_mttt.. Did you mean musicnn_mtt",
    ):
        pretrained.load("musicnn_mttt")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(ConnectionError, match="pip could not download musicnn==0.1.0"):
        pretrained.ensure_cached("musicnn_mtt")
    assert not list(tmp_path.rglob("*.keras"))
    done = run_script("-m", "tagger", "models", "fetch", "x")
    fails(done, "no pretrained model 'x'")


def test_a_wheel_of_another_content_is_refused(tmp_path, monkeypatch):
    fake = tmp_path / "index/musicnn-0.1.0-py3-none-any.whl"
    fake.parent.mkdir()
    info = "musicnn-0.1.0.dist-info"
    with zipfile.ZipFile(fake, "w") as file:
        file.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: musicnn\nVersion: 0.1.0\n"
        )
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(fake.parent))
    monkeypatch.setenv(storage.CACHE_VARIABLE, str(tmp_path / "cache"))
    with pytest.raises(
        ValueError, match="not the published musicnn==0.1.0: its SHA-256"
    ):
        pretrained.ensure_cached("musicnn_mtt")
    assert not list((tmp_path / "cache").rglob("*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["musicnn_mtt", "musicnn_msd", "vgg_mtt", "vgg_msd"])
def test_the_wheels_models_are_prepared_once(name, tmp_path, monkeypatch):
    monkeypatch.setenv(storage.CACHE_VARIABLE, str(tmp_path))
    try:
        path = pretrained.ensure_cached(name)
    except ConnectionError as error:
        pytest.skip(str(error))
    engine = selection.open_engine(name)
    assert engine.name == "onnx" and engine.info.name == name
    model = pretrained.load(name)
    assert models.model_info(model) == engine.info
    assert models.model_info(model).tags == pretrained.entry(name).tags
    num_samples = models.model_info(model).segmentation.num_samples
    noise = np.random.default_rng(0).normal(0, 0.1, (1, num_samples))
    scores = np.asarray(model(noise.astype(np.float32)))
    (found,) = engine.run(noise.astype(np.float32))
    np.testing.assert_allclose(scores, found, atol=2e-5)
    assert scores.shape == (1, 50) and ((0 < scores) & (scores < 1)).all()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    modified = path.stat().st_mtime_ns
    assert (
        pretrained.ensure_cached(name) == path and path.stat().st_mtime_ns == modified
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder"), [("musicnn_mtt", "tf_MTT_musicnn"), ("vgg_mtt", "tf_MTT_vgg")]
)
def test_audio_files_score_as_in_the_original_package(
    shared, name, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv(storage.CACHE_VARIABLE, str(tmp_path))
    try:
        tagger = Tagger.from_pretrained(name)
    except ConnectionError as error:
        pytest.skip(str(error))
    for clip in ("joram", "trwj"):
        samples = np.load(shared / f"reference/audio/{clip}_16000.npy")
        with wave.open(str(tmp_path / "clip.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
        scores = np.load(shared / f"reference/trained/{folder}/outputs_{clip}.npy")
        # The original rounded its log-mel to float16, ours is float32.
        ours = tagger.scores(tmp_path / "clip.wav")
        np.testing.assert_allclose(ours, scores.mean(axis=0), atol=1e-3)


def test_models_names_the_weights_to_be_had_and_their_licence(capsys):
    cli.main(["models", "show", "musicnn_pons"])
    assert "musicnn_mtt, licence ISC" in capsys.readouterr().out
