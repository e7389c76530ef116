"""The page against its visitors: names of hosts, quotas, slow files, dead servers."""

import asyncio
import os
import threading
import time

import numpy as np
import pytest
from hostile_audio import CASES, tone
from test_report import attentive

from tagger import audio

pytest.importorskip("gradio", reason="the page needs gradio")

from tagger.web import decoding, limits, page, song  # noqa: E402


@pytest.fixture(scope="module")
def tagger():
    return attentive()


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", ["127.0.0.1", "localhost", "[::1]"]),
        ("192.168.1.5", ["192.168.1.5", "localhost", "127.0.0.1", "[::1]"]),
        ("music.example", ["music.example", "localhost", "127.0.0.1", "[::1]"]),
        ("0.0.0.0", ["*"]),
        ("[::]", ["*"]),
        ("::1", ["[::1]", "localhost", "127.0.0.1"]),
    ],
)
def test_a_page_answers_to_its_own_names(host, allowed):
    assert limits.allowed_hosts(host) == allowed


def answer(app, path="/", host="127.0.0.1", body=b"", declared=None, client="1.2.3.4"):
    """Sends a request to an ASGI application; returns the status and the text."""
    sent, parts = [], [body[at : at + 1000] for at in range(0, len(body) or 1, 1000)]
    length = str(len(body) if declared is None else declared).encode()
    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"",
        "headers": [(b"host", host.encode()), (b"content-length", length)],
        "client": (client, 1), "scheme": "http", "server": ("127.0.0.1", 7860),
    }  # fmt: skip

    async def receive():
        if not parts:
            return {"type": "http.disconnect"}
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    content = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], content.decode()


async def takes_all(scope, receive, send):
    while (message := await receive())["type"] == "http.request":
        if not message["more_body"]:
            break
    status = 200 if message["type"] == "http.request" else 400
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"taken"})


def protected(host="127.0.0.1", max_megabytes=0.001):
    app = takes_all
    for one in reversed(limits.middleware(host, max_megabytes)):
        app = one.cls(app, *one.args, **one.kwargs)
    return app


def test_a_website_that_points_its_name_to_this_machine_is_refused():
    assert answer(protected(), host="127.0.0.1:7860") == (200, "taken")
    assert answer(protected(), host="localhost:7860") == (200, "taken")
    assert answer(protected(), host="evil.example:7860")[0] == 400
    assert answer(protected("0.0.0.0"), host="any.example")[0] == 200


def test_uploads_of_a_visitor_have_a_quota_that_starts_again(monkeypatch):
    app, upload = protected(), {"path": "/gradio_api/upload", "body": bytes(3000)}
    assert [answer(app, **upload)[0] for _ in range(4)] == [200, 200, 200, 413]
    status, sentence = answer(app, **upload)
    assert status == 413 and "You may upload 0.01 MB in 60 minutes. Wait" in sentence
    assert answer(app, **upload, client="5.6.7.8")[0] == 200
    assert answer(app, path="/", body=bytes(3000))[0] == 200
    assert answer(app, path="/queue/join", body=bytes(2_000_000))[0] == 413
    assert answer(app, path="/gradio_api/process_recording", body=b"x")[0] == 404
    later = time.monotonic() + limits.QUOTA_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert answer(app, **upload)[0] == 200


def test_a_request_that_is_longer_than_it_says_is_cut():
    app, upload = protected(), {"path": "/gradio_api/upload", "body": bytes(30_000)}
    assert answer(app, **upload, declared=10)[0] == 400
    assert answer(app, **upload, declared=10)[0] == 413


def test_an_upload_is_decoded_elsewhere_to_the_same_samples(tmp_path):
    path = str(tone(tmp_path, "ä: 50 %.wav"))
    with decoding.decoded(path, 16000, 1) as wav:
        assert wav.stem == "ä: 50 %"
        expected = audio.load_audio(path, 16000)
        np.testing.assert_array_equal(audio.load_audio(wav, 16000), expected)
    assert not wav.exists()


@pytest.mark.parametrize(
    "name", ["an endless playlist", "a playlist of another file", "a pipe"]
)
def test_a_hostile_upload_is_a_sentence(name, tagger, tmp_path):
    make, says = CASES[name]
    with pytest.raises(audio.AudioDecodeError):
        song.analyse(tagger, str(make(tmp_path)), 1)


def slow_child(monkeypatch, seconds):
    """Makes the decoding of slow.wav take some seconds longer."""
    code = decoding._CODE.replace(
        "decoding._decode(",
        "import time; sys.argv[2].endswith('slow.wav') and time.sleep("
        f"{seconds})\ndecoding._decode(",
    )
    monkeypatch.setattr(decoding, "_CODE", code)


def test_a_slow_upload_is_given_up(tagger, tmp_path, monkeypatch):
    slow_child(monkeypatch, 60)
    monkeypatch.setattr(decoding, "SECONDS", 1)
    with pytest.raises(audio.AudioDecodeError, match="takes longer than 1 s"):
        song.analyse(tagger, str(tone(tmp_path, "slow.wav")), 1)


@pytest.mark.slow
def test_a_slow_upload_stops_nobody(tagger, tmp_path, monkeypatch):
    slow_child(monkeypatch, 15)
    slow, quick = str(tone(tmp_path, "slow.wav")), str(tone(tmp_path, "quick.wav"))
    threads = [
        threading.Thread(target=song.analyse, args=(tagger, slow, 1)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert song.analyse(tagger, quick, 1).name == "quick.wav"
    assert all(thread.is_alive() for thread in threads), "the others were waited for"
    for thread in threads:
        thread.join()


def test_an_upload_that_needs_too_much_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        decoding,
        "_CODE",
        decoding._CODE.replace(
            "decoding._decode(",
            "decoding.MAX_BYTES = 1 << 28;bytearray(0); decoding._decode(",
        ),
    )
    path = tmp_path / "long.wav"
    audio.write_audio(path, np.zeros(8000 * 3600), 8000)
    with pytest.raises(audio.AudioDecodeError, match="memory"):
        with decoding.decoded(str(path), 48000, 100):
            pass


def test_failures_become_sentences_and_name_no_path_of_the_server(capfd):
    said = page._failure(ValueError("Cannot read '/srv/x/a.mp3': no."), "/srv/x/a.mp3")
    assert "Cannot read" in said and "/srv" not in said
    said = page._failure(KeyError("secret"), "/srv/x/a.mp3")
    assert "The server failed on this file; its log says why." in said
    assert "secret" not in said and "secret" in capfd.readouterr().err


def test_what_a_killed_server_left_is_removed_and_a_living_one_keeps_its_files(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(page.tempfile, "gettempdir", lambda: str(tmp_path))
    for name in ("tagger-page-dead", "tagger-page-alive", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "song.mp3").touch()
        os.utime(tmp_path / name, (0, 0))
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    (tmp_path / "tagger-page-evil").mkdir()
    (tmp_path / "tagger-page-evil/.lock").symlink_to(precious)
    os.utime(tmp_path / "tagger-page-evil", (0, 0))
    with page.writer_lock(tmp_path / "tagger-page-alive", "--port"):
        page._remove_leftovers()
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {"tagger-page-alive", "tagger-page-evil", "other", "precious.txt"}
    assert precious.read_text() == "mine"
