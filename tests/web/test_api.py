"""The HTTP API as its clients see it, the hostile ones too."""

import concurrent.futures
import contextlib
import socket
import threading
import time

import numpy as np
import pytest
from collection import TAGS, StubEngine, make_song

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
fastapi = pytest.importorskip("fastapi", reason="the page needs gradio")
pytest.importorskip("fastapi_offline", reason="the page needs it")

from tagger.inference.tagger import Tagger  # noqa: E402
from tagger.web import api, collection, limits  # noqa: E402
from tagger.web.collection import Collection  # noqa: E402


@contextlib.contextmanager
def served(collection=None, api_key=None, max_megabytes=2):
    """Serves the API as `page.serve` does; yields a client."""
    scorer = Tagger(StubEngine())
    whole = fastapi.FastAPI(middleware=limits.middleware("127.0.0.1", max_megabytes))
    whole.mount(
        limits.API_PATH, api.build(scorer, 0.5, max_megabytes, collection, api_key)
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(whole, port=port, log_level="error", ws="none")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    # uvicorn closes idle connections after 5 s. A client that keeps them as long, as
    # httpx does by default, may send a request into one that is just being closed.
    kept = httpx.Limits(keepalive_expiry=1)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(
            base_url=url, timeout=120, trust_env=False, limits=kept
        ) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client():
    with served() as client:
        yield client


def sent(*paths):
    return [("files", (path.name, path.read_bytes())) for path in paths]


def test_a_batch_is_scored_like_its_files(client, music):
    paths = [music / "a.mp3", music / "b.flac"]
    answer = client.post("/api/tag", files=sent(*paths))
    assert answer.status_code == 200
    expected = [Tagger(StubEngine()).tag(str(path)) for path in paths]
    for found, tags, path in zip(answer.json(), expected, paths, strict=True):
        assert found["path"] == path.name and found["error"] is None
        assert list(found["tags"]) == list(tags)
        np.testing.assert_allclose(
            list(found["tags"].values()), list(tags.values()), atol=1e-4
        )  # the upload was decoded to float32, then read again
    answer = client.post("/api/tag?top=1", files=sent(music / "a.mp3"))
    assert len(answer.json()[0]["tags"]) == 1
    (found,) = client.post("/api/embed", files=sent(music / "a.mp3")).json()
    assert len(found["embedding"]) == 8 and abs(found["seconds"] - 3) < 0.2


def test_a_file_that_is_no_music_does_not_stop_the_others(client, music):
    (music / "notes.txt").write_text("no music")
    found = client.post("/api/tag", files=sent(music / "notes.txt", music / "a.mp3"))
    first, second = found.json()
    assert "Cannot decode 'notes.txt'" in first["error"] and second["tags"]
    make_song(music / "long.mp3", seconds=31)
    (found,) = client.post("/api/tag", files=sent(music / "long.mp3")).json()
    assert "longer than the 0.5 minutes" in found["error"]


@pytest.mark.slow
def test_fifty_requests_at_once_are_all_answered(client, music):
    files = sent(music / "a.mp3")
    expected = client.post("/api/tag", files=files).json()
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        posts = [pool.submit(client.post, "/api/tag", files=files) for _ in range(50)]
        gets = [pool.submit(client.get, "/api/models") for _ in range(20)]
    for post in posts:
        assert post.result().status_code == 200 and post.result().json() == expected
    assert {get.result().status_code for get in gets} == {200}


def test_the_models_and_the_description_are_served(client):
    (facts,) = client.get("/api/models").json()
    assert facts["tags"] == list(TAGS) and facts["segment_seconds"] == 1
    paths = client.get("/api/openapi.json").json()["paths"]
    assert set(paths) == {"/tag", "/embed", "/models", "/find", "/similar"}
    page = client.get("/api/docs").text
    assert "http" not in page.replace("http-equiv", "")  # nothing from elsewhere
    assert client.get("/api/static-offline-docs/swagger-ui.css").status_code == 200


def test_the_library_is_asked(scanner, music, monkeypatch):
    scanner.scan(music)
    with served(Collection(scanner.path)) as client:
        found = client.get("/api/find", params={"expression": "rock > 0", "top": 2})
        songs = found.json()["songs"]
        assert found.json()["number"] == 5 and len(songs) == 2
        assert songs[0]["scores"]["rock"] >= songs[1]["scores"]["rock"]
        seeds = {song["id"] for song in songs}
        alike = client.get("/api/similar", params={"song": list(seeds)}).json()["songs"]
        assert alike and not seeds & {song["id"] for song in alike}
        wrong = client.get("/api/find", params={"expression": "rok > .5"})
        assert wrong.status_code == 400 and "mean rock" in wrong.json()["detail"]
        wrong = client.get("/api/similar", params={"song": 99})
        assert wrong.status_code == 400 and "id 99" in wrong.json()["detail"]
        wrong = client.get("/api/similar", params={"song": "../../etc/passwd"})
        assert wrong.status_code == 422
        # What a scan adds is read at the next request, but not all the time.
        make_song(music / "new.mp3", 25)
        scanner.scan(music)
        for seconds, number in ((3600, 5), (0, 6)):
            monkeypatch.setattr(collection, "REREAD_SECONDS", seconds)
            found = client.get("/api/find", params={"expression": "rock > 0"})
            assert found.json()["number"] == number
        alike = client.get("/api/similar", params={"song": songs[0]["id"]}).json()
        assert alike["songs"]


@pytest.mark.parametrize(
    ("method", "path", "given", "status"),
    [
        ("GET", "/api/find?expression=rock", {}, 404),  # no library
        ("GET", "/api/similar?song=1", {}, 404),
        ("GET", "/api/nothing", {}, 404),
        ("POST", "/api/tag", {"json": {"files": ["/etc/passwd"]}}, 422),
        ("POST", "/api/tag", {"data": {"files": "/etc/passwd"}}, 422),
        ("POST", "/api/tag", {"data": {"files": "http://127.0.0.1/"}}, 422),
        ("POST", "/api/tag", {}, 422),
        ("POST", "/api/tag?top=0", {"files": {"files": b"x"}}, 422),
        ("GET", "/api/tag", {}, 405),
        ("POST", "/api/tag", {"files": [("files", b"x")] * 33}, 413),
        ("GET", "/api/models", {"headers": {"Host": "evil.example"}}, 400),
        ("GET", "/api/models", {"headers": {"Origin": "http://evil.example"}}, 403),
    ],
)
def test_what_is_not_accepted_has_its_status(client, method, path, given, status):
    answer = client.request(method, path, **given)
    assert answer.status_code == status
    if status != 400:
        assert answer.json()["detail"]


@pytest.mark.parametrize(
    "name", ["../../../tmp/x.mp3", "/etc/x.mp3", "x" * 500, "a\0b", "💥.mp3"]
)
def test_names_of_uploads_are_never_paths(client, music, name):
    files = [("files", (name, (music / "a.mp3").read_bytes()))]
    (found,) = client.post("/api/tag", files=files).json()
    assert "/" not in found["path"] and (found["tags"] or found["error"])


def test_a_playlist_upload_reads_no_other_file(client, music):
    listed = f"#EXTM3U\n#EXTINF:3,x\n{music / 'a.mp3'}\n".encode()
    for name in ("list.m3u8", "list.mp3"):
        (found,) = client.post("/api/tag", files=[("files", (name, listed))]).json()
        assert found["error"] and not found["tags"]


def test_large_and_endless_bodies_end(client, monkeypatch):
    answer = client.post("/api/tag", files={"files": bytes(3_000_000)})
    assert answer.status_code == 413 and "A request may have 2 MB" in answer.text
    monkeypatch.setattr(limits, "BODY_SECONDS", 1)

    def endless(pause, block):
        yield b"--x\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\n"
        for _ in range(600):
            yield block
            time.sleep(pause)

    header = {"Content-Type": "multipart/form-data; boundary=x"}
    for pause, block, status in ((0, bytes(100_000), 413), (0.1, b"x", 408)):
        started = time.monotonic()
        with contextlib.suppress(httpx.WriteError, httpx.ReadError):
            answer = client.post(
                "/api/tag", content=endless(pause, block), headers=header
            )
            assert answer.status_code == status and answer.json()["detail"]
        assert time.monotonic() - started < 20
    assert client.get("/api/models").status_code == 200


def test_a_key_is_asked_for(music):
    with served(api_key="secret") as client:
        for given in ({}, {"X-API-Key": "secre"}, {"X-API-Key": "ü".encode()}):
            answer = client.get("/api/models", headers=given)
            assert answer.status_code == 401 and "X-API-Key" in answer.json()["detail"]
        answer = client.post("/api/tag", files=sent(music / "a.mp3"))
        assert answer.status_code == 401  # before the file is read
        answer = client.get("/api/models", headers={"X-API-Key": "secret"})
        assert answer.status_code == 200
        assert client.get("/api/docs").status_code == 200
