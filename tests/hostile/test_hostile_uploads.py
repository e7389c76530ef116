"""The page against its visitors: names of hosts, large and slow files."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
from hostile_audio import CASES, tone
from test_report import attentive

from tagger import audio

page = pytest.importorskip("tagger.web.page", reason="the page needs fastapi-offline")

from tagger.web import decoding, song  # noqa: E402


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
    assert page.allowed_hosts(page.Limits(host)) == allowed


@pytest.fixture
def listener(tagger):
    return song.Listener(tagger, lambda: tagger, 1)


def answer(app, path="/", host="127.0.0.1", body=b"", declared=None):
    """Sends a request to an ASGI application; returns the status and the text."""
    sent, parts = [], [body[at : at + 1000] for at in range(0, len(body) or 1, 1000)]
    length = str(len(body) if declared is None else declared).encode()
    form = b"multipart/form-data; boundary=x"
    scope = {
        "type": "http", "method": "POST" if body else "GET", "path": path,
        "query_string": b"", "headers": [
            (b"host", host.encode()), (b"content-length", length),
            (b"content-type", form),
        ], "client": ("1.2.3.4", 1), "scheme": "http", "server": ("127.0.0.1", 7860),
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


def built(listener, tmp_path, host="127.0.0.1"):
    limits = page.Limits(host, 1, 0.001)  # 1,000 bytes
    return page.build(listener, limits, None, tmp_path)


def test_a_website_that_points_its_name_to_this_machine_is_refused(listener, tmp_path):
    app = built(listener, tmp_path)
    assert answer(app, host="127.0.0.1:7860")[0] == 200
    assert answer(app, host="localhost:7860")[0] == 200
    assert answer(app, host="evil.example:7860")[0] == 400
    assert answer(built(listener, tmp_path, "0.0.0.0"), host="any.example")[0] == 200


@pytest.mark.parametrize("path", ["/songs", "/api/tag", "/examples/x"])
def test_a_large_request_is_refused_whatever_it_says(path, listener, tmp_path):
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    app, body = built(listener, tmp_path), start + bytes(30_000)
    assert answer(app, path, body=body)[0] == 413
    if path != "/examples/x":  # which reads no body
        assert answer(app, path, body=body, declared=10)[0] == 413
    assert not list(tmp_path.iterdir())


def test_an_upload_is_decoded_elsewhere_to_the_same_samples(tmp_path):
    path, wav = str(tone(tmp_path, "ä: 50 %.wav")), tmp_path / "made.mp3"
    decoding.decode(path, wav, 16000, 1)
    expected = audio.load_audio(path, 16000)
    np.testing.assert_array_equal(audio.load_audio(wav, 16000), expected)


@pytest.mark.parametrize(
    "name", ["an endless playlist", "a playlist of another file", "a pipe"]
)
def test_a_hostile_upload_is_a_sentence(name, listener, tmp_path):
    make, says = CASES[name]
    with pytest.raises(audio.AudioDecodeError) as caught:
        listener.hear(Path(make(upload_folder(tmp_path))))
    assert str(tmp_path) not in str(caught.value).replace(caught.value.reason, "")


def upload_folder(token):
    """Makes the folder that `Uploads.save` makes."""
    folder = token / "upload"
    folder.mkdir(parents=True)
    return folder


def slow_child(monkeypatch, seconds):
    """Makes the decoding of slow.wav take some seconds longer."""
    code = decoding._CODE.replace(
        "decoding._decode(",
        "import time; sys.argv[2].endswith('slow.wav') and time.sleep("
        f"{seconds})\ndecoding._decode(",
    )
    monkeypatch.setattr(decoding, "_CODE", code)


def test_a_slow_upload_is_given_up(listener, tmp_path, monkeypatch):
    slow_child(monkeypatch, 60)
    monkeypatch.setattr(decoding, "SECONDS", 1)
    with pytest.raises(audio.AudioDecodeError, match="takes longer than 1 s"):
        listener.hear(Path(tone(upload_folder(tmp_path), "slow.wav")))


@pytest.mark.slow
def test_a_slow_upload_stops_nobody(listener, tmp_path, monkeypatch):
    slow_child(monkeypatch, 15)
    *slow, quick = [upload_folder(tmp_path / str(number)) for number in range(4)]
    threads = [
        threading.Thread(target=listener.hear, args=[Path(tone(folder, "slow.wav"))])
        for folder in slow
    ]
    for thread in threads:
        thread.start()
    assert listener.hear(Path(tone(quick, "quick.wav"))).name == "quick.wav"
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
        decoding.decode(path, tmp_path / "made.wav", 48000, 100)


def test_failures_become_sentences_and_name_no_path_of_the_server(capfd):
    said = page.failure(audio.AudioDecodeError("/srv/x/a.mp3", "it is cut"), "a.mp3")
    assert "no sound that can be read (it is cut)" in said and "/srv" not in said
    said = page.failure(KeyError("secret"), "a.mp3")
    assert "The server failed on this file; its log says why." in said
    assert "secret" not in said and "secret" in capfd.readouterr().err
