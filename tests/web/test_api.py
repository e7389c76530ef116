"""The HTTP API as its clients see it, the hostile ones too."""

import concurrent.futures
import contextlib
import html
import re
import socket
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from collection import TAGS, StubEngine, make_song

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
page = pytest.importorskip("tagger.web.page", reason="the page needs fastapi-offline")

from tagger.audio import AudioDecodeError  # noqa: E402
from tagger.inference.tagger import Tagger  # noqa: E402
from tagger.web import collection, song, uploads  # noqa: E402
from tagger.web.collection import Collection  # noqa: E402
from tagger.web.song import Listener  # noqa: E402


def no_keras():
    raise ModuleNotFoundError("No module named 'keras'", name="keras")


@contextlib.contextmanager
def served(collection=None, **given):
    """Serves page and API as `page.serve` does; yields a client."""
    listener = Listener(Tagger(StubEngine()), no_keras, 0.5)
    limits = page.Limits(max_minutes=0.5, **{"max_megabytes": 2} | given)
    with tempfile.TemporaryDirectory() as folder:
        whole = page.build(listener, limits, collection, Path(folder))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(whole, port=port, log_level="error", ws="none")
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        # uvicorn closes idle connections after 5 s. A client that keeps them as long,
        # as httpx does by default, may send a request into one that is just closing.
        kept = httpx.Limits(keepalive_expiry=1)
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(
                base_url=url, timeout=120, trust_env=False, limits=kept
            ) as client:
                client.folder, client.listener = Path(folder), listener
                yield client
        finally:
            server.should_exit = True
            thread.join()
        left = [path.name for path in Path(folder).iterdir()]
        assert all(len(name) > 15 or "library" in name for name in left), left


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
        assert found["path"] == path.name and "error" not in found
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


def test_the_models_and_the_description_are_served(client):
    (facts,) = client.get("/api/models").json()
    assert facts["tags"] == list(TAGS) and facts["segment_seconds"] == 1
    paths = client.get("/api/openapi.json").json()["paths"]
    assert {path for path in paths if path.startswith("/api/")} == {
        f"/api/{name}"
        for name in (
            *("tag", "embed", "models", "find", "similar", "path"),
            *("similar_tracks", "find_path"),
        )
    }
    assert {path for path in paths if not path.startswith("/api/")} == {
        f"/rest/{name}"
        for name in (
            *("ping", "getOpenSubsonicExtensions"),
            *("getSonicSimilarTracks", "findSonicPath"),
        )
    }
    page = client.get("/api/docs").text
    assert "http" not in page.replace("http-equiv", "")  # nothing from elsewhere
    assert client.get("/api/static/swagger-ui.css").status_code == 200


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
        assert wrong.status_code == 400 and "no song with the path" in wrong.text
        named = client.get("/api/similar", params={"song": "sub/d.mp3"}).json()
        assert "d.mp3" not in str(named) and named["songs"]
        both = {
            "song": "sub/d.mp3",
            "unlike": "a.mp3",
            "exclude": "rock > 2 or sad < 2",
        }
        assert client.get("/api/similar", params=both).json()["number"] == 0
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
        ("GET", "/api/models", {"headers": {"Origin": "http://["}}, 403),
        ("GET", "/songs/nothing/sound", {}, 404),
        ("GET", "/songs/..%2f..%2fetc/scores.json", {}, 404),
        ("POST", "/examples/..%2fpage.py", {}, 404),
    ],
)
def test_what_is_not_accepted_has_its_status(client, method, path, given, status):
    answer = client.request(method, path, **given)
    assert answer.status_code == status
    if status != 400:
        assert answer.json()["detail"]


@pytest.mark.parametrize(
    "name",
    [
        "../../../tmp/x.mp3",
        "/etc/x.mp3",
        "x" * 500,
        "wav",
        "player.flac",
        "a\0b",
        "💥.mp3",
        "💥" * 99,
        "..",
        ".",
    ],
)
def test_names_of_uploads_are_never_paths(client, music, name):
    files = [("files", (name, (music / "a.mp3").read_bytes()))]
    (found,) = client.post("/api/tag", files=files).json()
    assert "/" not in found["path"] and found["tags"]
    answer = client.post("/songs", files={"file": files[0][1]})
    assert answer.status_code == 200 and "</h2>" in answer.text


def test_a_playlist_upload_reads_no_other_file(client, music):
    listed = f"#EXTM3U\n#EXTINF:3,x\n{music / 'a.mp3'}\n".encode()
    for name in ("list.m3u8", "list.mp3"):
        (found,) = client.post("/api/tag", files=[("files", (name, listed))]).json()
        assert found["error"] and "tags" not in found


def test_large_and_endless_bodies_end(client):
    answer = client.post("/api/tag", files={"files": bytes(3_000_000)})
    assert answer.status_code == 413 and "Too Large" in answer.text

    def endless():
        yield b"--x\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\n"
        for _ in range(600):
            yield bytes(100_000)

    header = {"Content-Type": "multipart/form-data; boundary=x"}
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        answer = client.post("/api/tag", content=endless(), headers=header)
        assert answer.status_code == 413
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
        for name in ("docs", "openapi.json", "static/swagger-ui.css"):
            assert client.get(f"/api/{name}").status_code == 200


def test_a_proxy_publishes_the_page_by_a_name(client):
    name = "music.example.org"
    with served(public_name=name) as public:
        for host in (name, f"{name}:8443", "127.0.0.1"):
            for origin in (f"https://{name}", f"https://{name}:8443"):
                given = {"Host": host, "Origin": origin}
                answer = public.post("/examples/x", headers=given)
                assert answer.status_code == 404  # accepted: there is no such example
        for headers in (
            {"Host": name, "Origin": "https://evil.example"},
            {"Origin": f"https://{name}.evil.example"},
            {"Origin": f"https://evil.example:{name}"},
            {"Origin": "null"},
        ):
            assert public.post("/examples/x", headers=headers).status_code == 403
    given = {"Origin": f"https://{name}"}
    assert client.post("/examples/x", headers=given).status_code == 403


@pytest.mark.parametrize("name", ["", "https://a.org", "a.org:8443", "*", "a*b", "a/b"])
def test_a_public_name_is_a_name(name):
    from tagger.cli import serving

    with pytest.raises(ValueError, match="is no host name. Give it without https://"):
        serving.serve(public_name=name)


def test_too_many_songs_at_once_are_refused_and_the_page_stays(client, music):
    files = sent(music / "a.mp3")
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        with client.listener._one:  # everybody waits for it
            waiting = [pool.submit(client.post, "/api/tag", files=files)]
            waiting += [
                pool.submit(client.post, "/songs", files={"file": files[0][1]})
                for _ in range(59)
            ]
            while sum(one.done() for one in waiting) < 60 - song.MAX_TURNS:
                time.sleep(0.02)
            for path in ("/", "/api/models", "/api/static/swagger-ui.css"):
                assert client.get(path).status_code == 200
            refused = client.post("/api/tag", files=files)
            assert (
                refused.status_code == 503 and "are waiting" in refused.json()["detail"]
            )
    texts = [one.result().text for one in waiting]
    assert sum("are waiting" in text for text in texts) == 60 - song.MAX_TURNS
    assert sum("rock" in text for text in texts) == song.MAX_TURNS


# --- Players --------------------------------------------------------------------------


def test_players_ask_as_opensubsonic_says(scanner, tmp_path):
    """The shape of the answers is that of the extension's pages, with other values."""
    for number in range(6):
        name = f"0{number} - Song.mp3"
        about = {"artist": f"Artist {number}", "title": f"Song {number}"}
        make_song(tmp_path / "music" / "Album" / name, 7 * number, album="A", **about)
    scanner.scan(tmp_path / "music")
    with served(Collection(scanner.path)) as client:
        about = {"u": "demo", "p": "demo", "v": "1.13.0", "c": "test", "f": "json"}

        def ask(name, **given):
            answer = client.get(f"/rest/{name}", params=about | given)
            assert answer.status_code == 200
            return answer.json()["subsonic-response"]

        assert ask("ping.view")["status"] == "ok"
        (extension,) = ask("getOpenSubsonicExtensions")["openSubsonicExtensions"]
        assert extension == {"name": "sonicSimilarity", "versions": [1]}
        found = ask("getSonicSimilarTracks.view", id="1", count="3")
        held = {key: found[key] for key in ("status", "version", "openSubsonic")}
        assert held == {"status": "ok", "version": "1.16.1", "openSubsonic": True}
        matches = found["sonicMatch"]
        assert len(matches) == 3 and "1" not in [x["entry"]["id"] for x in matches]
        values = [match["similarity"] for match in matches]
        assert values == sorted(values, reverse=True) and 0 <= values[-1] <= 1
        entry = matches[0]["entry"]
        assert entry["artist"].startswith("Artist") and entry["album"] == "A"
        assert entry["suffix"] == "mp3" and entry["duration"] == 3
        # Other servers' ids mean nothing here: songs are found by path or by tags.
        for given in (
            {"id": "Album/00 - Song.mp3"},
            {"title": "song 0", "artist": "ARTIST 0"},
        ):
            assert ask("getSonicSimilarTracks", count="3", **given) == found
        led = ask("findSonicPath", startSongId="1", endSongId="4", count="4")
        ids = [match["entry"]["id"] for match in led["sonicMatch"]]
        assert ids[0] == "1" and ids[-1] == "4" and len(set(ids)) == len(ids) == 4
        assert led["sonicMatch"][0]["similarity"] == 1
        few = client.get("/rest/findSonicPath", params=about | {"count": 1})
        assert few.status_code == 422
        for name, given, code in (
            ("getSonicSimilarTracks", {"id": "nobody"}, 70),
            ("getSonicSimilarTracks", {}, 10),
            ("findSonicPath", {"startSongId": "1"}, 10),
        ):
            refused = ask(name, **given)
            assert refused["status"] == "failed" and refused["error"]["code"] == code


def test_clients_of_audiomuse_find_its_paths(scanner, music):
    scanner.scan(music)
    with served(Collection(scanner.path)) as client:
        seed = client.get("/api/find", params={"expression": "rock > 0"}).json()
        given = {"item_id": seed["songs"][0]["id"], "n": 2}
        tracks = client.get("/api/similar_tracks", params=given).json()
        assert tracks and {"item_id", "title", "author"} <= set(tracks[0])
        assert 0 <= tracks[0]["distance"] <= tracks[-1]["distance"] <= 2
        ends = {"start_song_id": tracks[0]["item_id"], "end_song_id": "sub/c.ogg"}
        led = client.get("/api/find_path", params=ends | {"max_steps": 1}).json()
        assert len(led["path"]) > 1 and led["path"][-1]["path"].endswith("c.ogg")
        missing = client.get("/api/similar_tracks", params={"title": "nothing"})
        assert missing.status_code == 404 and "no song 'nothing'" in missing.text


# --- The page without a browser -------------------------------------------------------


def test_a_song_is_heard_and_saved(client, music):
    files = {"file": ("what's <i>this.mp3", (music / "a.mp3").read_bytes())}
    text = client.post("/songs", files=files).text
    assert "<i>" not in text and text.startswith("0\n") and 'role="status"' in text
    token = re.search(r"songs/([^/]+)/sound", text)[1]
    held = client.get(f"/songs/{token}/scores.json")
    expected = Tagger(StubEngine()).tag(str(music / "a.mp3"))
    assert list(held.json()["tags"]) == list(expected)
    assert "what%27s%20" in held.headers["Content-Disposition"]
    lines = client.get(f"/songs/{token}/scores.csv").text.splitlines()
    assert lines[0] == "second,rock,sad,no vocals,guitar; loud / 🎸" and len(lines) == 4
    part = client.get(f"/songs/{token}/sound", headers={"Range": "bytes=0-9"})
    assert part.status_code == 206 and len(part.content) == 10
    why = client.get(f"/songs/{token}/why", params={"tag": "rock"}).text
    assert "Explaining needs keras" in why and "&#39;.[train]&#39;" in why
    refused = client.get(f"/songs/{token}/report.html")
    assert refused.status_code == 400 and "Explaining needs" in refused.text


def test_only_the_newest_uploads_are_kept(client, music, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_KEPT", 2)
    tokens = []
    for _ in range(3):
        files = {"file": ("a.mp3", (music / "a.mp3").read_bytes())}
        text = client.post("/songs", files=files).text
        tokens.append(re.search(r"songs/([^/]+)/sound", text)[1])
    states = [client.get(f"/songs/{one}/sound").status_code for one in tokens]
    assert states == [404, 200, 200]


def test_forty_clicks_copy_nothing(scanner, music):
    """D3: a song of the library is served from where it is; others decoded once."""
    make_song(music / "odd.aiff", 9)
    scanner.scan(music)
    held = Collection(scanner.path)
    with served(held) as client:
        for name, kind in (("a.mp3", "audio/mpeg"), ("odd.aiff", "flac")):
            number = held.id_of(name)
            for _ in range(20):
                answer = client.get(f"/library/{number}/sound")
                assert answer.status_code == 200
                assert kind in answer.headers["Content-Type"]
        assert client.get("/library/99/sound").status_code == 400
        assert client.get("/library/1/sound").status_code == 200
        moved = music / "elsewhere.mp3"
        (music / "a.mp3").rename(moved)
        (music / "a.mp3").symlink_to("/etc/passwd")
        number = held.id_of("a.mp3")
        assert "another file" in client.get(f"/library/{number}/sound").text


def test_copies_of_the_library_are_few_and_as_long_as_they_are(
    scanner, music, monkeypatch
):
    monkeypatch.setattr(uploads, "MAX_KEPT", 2)
    for number in range(3):
        make_song(music / f"{number}.aiff", number, seconds=31)  # the page takes 30
    scanner.scan(music)
    held = Collection(scanner.path)
    with served(held) as client:
        for number in range(3):
            answer = client.get(f"/library/{held.id_of(f'{number}.aiff')}/sound")
            assert answer.status_code == 200 and len(answer.content) > 100_000
        assert len(list((client.folder / "library").iterdir())) == 2


def test_a_song_that_cannot_be_decoded_is_tried_once(scanner, music, monkeypatch):
    make_song(music / "odd.aiff", 9)
    scanner.scan(music)
    held, tried = Collection(scanner.path), []

    def decode(path, *_):
        tried.append(path)
        raise AudioDecodeError(path, "it is damaged")

    monkeypatch.setattr(song, "decode", decode)
    with served(held) as client:
        for _ in range(3):
            answer = client.get(f"/library/{held.id_of('odd.aiff')}/sound")
            assert answer.status_code == 400 and "it is damaged" in answer.text
    assert len(tried) == 1


def test_a_song_of_another_model_is_not_compared(scanner, music):
    scanner.scan(music)
    held = Collection(scanner.path)
    with served(held) as client:
        files = {"file": ("a.mp3", (music / "a.mp3").read_bytes())}
        text = client.post("/songs", files=files).text
        token = re.search(r"songs/([^/]+)/sound", text)[1]
        assert "data-like" not in text  # the stub has no file, so no digest
        answer = client.get("/library", params={"like": token})
        assert answer.status_code == 200 and "no results of the model" in answer.text


def test_a_song_that_is_forgotten_leaves_a_way_back(scanner, music, monkeypatch):
    monkeypatch.setattr(collection, "REREAD_SECONDS", 0)
    scanner.scan(music)
    with served(Collection(scanner.path)) as client:
        answer = client.get("/library", params={"like": "forgotten", "query": "x"})
        assert answer.status_code == 200 and "has forgotten this song" in answer.text
        assert "data-word" in answer.text and "data-play" not in answer.text
        answer = client.get("/library.m3u8", params={"like": "forgotten"})
        assert answer.status_code == 404
        scanner.path.write_bytes(b"no library" * 1000)
        for name in ("-wal", "-shm"):
            scanner.path.with_name(scanner.path.name + name).unlink(missing_ok=True)
        answer = client.get("/library")
        assert answer.status_code == 200 and 'role="alert"' in answer.text


def test_an_end_of_several_paths_is_no_song(scanner, music):
    make_song(music / "other" / "d.mp3", 40)
    scanner.scan(music)
    held = Collection(scanner.path)
    with pytest.raises(ValueError, match="2 songs of the library have a path that"):
        held.id_of("d.mp3")
    make_song(music / str(music / "sub").lstrip("/") / "d.mp3", 50)
    scanner.scan(music)
    held = Collection(scanner.path)
    whole = str(music / "sub" / "d.mp3")  # is also the end of another path
    assert held.songs().paths[held.row_of(held.id_of(whole))] == whole
    assert held.id_of("other/d.mp3") != held.id_of(whole)


def test_one_question_sees_one_state_of_the_library(scanner, music, monkeypatch):
    """A scan that adds songs in the middle of a question changes no row numbers."""
    monkeypatch.setattr(collection, "REREAD_SECONDS", 0)
    scanner.scan(music)
    held = Collection(scanner.path)
    before = held.songs()
    compared = held._compared

    def meanwhile():
        make_song(music / "0new.mp3", 25)
        scanner.scan(music)
        return compared()

    monkeypatch.setattr(held, "_compared", meanwhile)
    answer = held.similar([held.id_of("a.mp3")], 9)
    assert answer.songs is before and len(held.songs().paths) == 6


def test_an_unreadable_usual_library_does_not_stop_the_page(tmp_path, monkeypatch):
    from tagger.cli import serving

    usual = tmp_path / "library.sqlite"
    monkeypatch.setattr(serving.database, "default_path", lambda: usual)
    assert serving._collection(None) is None
    for content in (b"", b"no library" * 1000):
        usual.write_bytes(content)
        assert serving._collection(None) is None
        with pytest.raises((ValueError, OSError)):
            serving._collection(str(usual))


def test_the_library_shows_all_and_helps_where_nothing_is_found(scanner, music):
    scanner.scan(music)
    with served(Collection(scanner.path)) as client:
        text = client.get("/library").text
        assert "5 of 5 songs" in text and text.count("data-play") == 5
        example = re.search(r'data-example="([^"]*)"', text)[1]
        found = client.get("/library", params={"query": html.unescape(example)}).text
        assert "data-play" in found
        nothing = client.get("/library", params={"query": "rock > 2"}).text
        assert "No song matches; rock &gt; " in nothing and " finds 5" in nothing
        assert "data-play" in nothing and "m3u8" not in nothing  # it would be empty
        value = re.search(r"rock &gt; ([\d.e-]+) finds (\d)", nothing)
        asked = client.get("/library", params={"query": f"rock > {value[1]}"}).text
        assert f"{value[2]} of 5 songs" in asked
        wrong = client.get("/library", params={"query": "rok > 2"}).text
        assert "mean rock" in wrong and "data-play" not in wrong and "m3u8" not in wrong
        liked = client.get("/library", params={"like": "1"}).text
        assert "Like <b>" in liked
        listed = client.get("/library.m3u8", params={"query": "rock > 0"}).text
        assert listed.startswith("#EXTM3U") and str(music) in listed
