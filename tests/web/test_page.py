"""The web page: its content for a song, and its behaviour in a real browser."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from collection import Scanner, make_song
from conftest import REFERENCES, REPOSITORY
from test_report import attentive

from tagger import audio, models

page = pytest.importorskip("tagger.web.page", reason="the page needs gradio")


def noise(path, seconds, seed=0):
    waveform = np.random.RandomState(seed).uniform(-0.3, 0.3, int(22050 * seconds))
    audio.write_audio(path, waveform.astype(np.float32), 22050)
    return str(path)


@pytest.fixture(scope="module")
def tagger():
    return attentive()


def test_a_song_is_its_taggram_and_its_loudness(tagger, tmp_path):
    waveform = np.repeat([0.0, 0.5, 0.25], 22050).astype(np.float32)
    audio.write_audio(tmp_path / "a.wav", waveform, 22050)
    shares = []
    song = page.analyse(
        tagger, str(tmp_path / "a.wav"), 1, lambda share, desc: shares.append(share)
    )
    np.testing.assert_allclose(song.loudness[10:190], 0, atol=1e-4)
    np.testing.assert_allclose(song.loudness[210:390], 1, atol=0.02)
    np.testing.assert_allclose(song.loudness[410:590], 0.5, atol=0.02)
    expected = tagger.taggram(tmp_path / "a.wav").scores
    np.testing.assert_allclose(song.taggram.scores, expected, atol=1e-6)
    assert shares[-1] == 1 and song.sound == song.path


def test_longer_songs_than_allowed_are_refused(tagger, tmp_path):
    with pytest.raises(ValueError, match="longer than the 0.1 minutes that this page"):
        page.analyse(tagger, noise(tmp_path / "a.wav", 7), 0.1)


def test_what_browsers_do_not_play_is_made_playable(tagger, tmp_path):
    shutil.copy(noise(tmp_path / "a.wav", 2), tmp_path / "a.aiff")
    song = page.analyse(tagger, str(tmp_path / "a.aiff"), 1)
    assert song.sound.endswith("a.aiff.flac")
    assert 1.9 < len(audio.load_audio(song.sound, 22050)) / 22050 < 2.2


def test_names_cannot_write_into_the_page(tagger, tmp_path):
    song = page.analyse(tagger, noise(tmp_path / "<b>&.wav", 2), 1)
    assert "<b>" not in page.player_html(song) and "&lt;b&gt;" in page.player_html(song)
    assert "loud &amp; wild" in page.rows_html(tagger, song, ["loud & wild"])


@pytest.mark.slow
def test_a_taken_port_is_said(trained, run_script):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        serve = ("-m", "tagger", "serve", "--model", trained / "model.keras")
        done = run_script(*serve, "--port", port)
    assert done.returncode == 2 and f"port {port}: the port is in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def url(tagger, tmp_path_factory):
    """Serves the page by the command, as a user would; returns its URL."""
    folder = tmp_path_factory.mktemp("served")
    models.save_model(tagger.model, folder / "model.keras")
    scanner = Scanner(folder / "library.sqlite")
    for number in range(4):
        about = {"artist": "Ann", "title": f"Song {number}"}
        make_song(folder / "music" / f"{number}.mp3", 9 * number, **about)
    scanner.scan(folder / "music")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-m", "tagger", "serve", "--model", folder / "model.keras"]
    command += ["--port", port, "--max-minutes", 0.5, "--max-megabytes", 2]
    command += ["--library", scanner.path]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=REPOSITORY, stdout=log, stderr=log
        )
    try:
        for _ in range(120):
            if "The page is at" in (folder / "log").read_text():
                break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    """Starts an installed Chromium, because Playwright's may not be downloadable."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip(f"there is no browser: none of {', '.join(names)}")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def visit(browser, url, song=None, width=1100):
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.foreign = []
    tab.on("request", lambda request: tab.foreign.append(request.url))
    tab.goto(url)
    if song:
        tab.wait_for_selector("input[type=file]", state="attached")
        tab.set_input_files("input[type=file]", song)
    return tab


def shown_tags(tab):
    """Returns tag -> the number that the page shows beside the taggram."""
    tab.wait_for_selector(".song img", timeout=60_000)
    rows = tab.query_selector_all(".song .row:has(img)")
    texts = [row.inner_text().split("\n") for row in rows]
    return {text[0]: float(text[-1]) for text in texts}


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "stem", "ending"), [(1100, "my song", "wav"), (390, "50% #1 ü", "aiff")]
)
def test_a_dropped_song_is_tagged_played_and_kept(
    tagger, browser, url, tmp_path, width, stem, ending
):
    made = noise(tmp_path / "made.wav", 8)
    song = shutil.copy(made, tmp_path / f"{stem}.{ending}")
    tab = visit(browser, url, song, width)
    expected = tagger.tag(song)
    shown = shown_tags(tab)
    assert list(shown) == list(expected)
    np.testing.assert_allclose(
        list(shown.values()), list(expected.values()), atol=0.0051
    )
    # Nothing is wider than the screen.
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    cursors = "[...document.querySelectorAll('.song .cursor')]"
    lefts = f"{cursors}.map(one => parseFloat(one.style.left))"
    tab.evaluate("document.querySelector('.song audio').play()")
    tab.wait_for_function(f"Math.min(...{lefts}) > 5")
    played = tab.evaluate("document.querySelector('.song audio').currentTime / 8")
    assert len(tab.evaluate(lefts)) == 4
    np.testing.assert_allclose(tab.evaluate(lefts), 100 * played, atol=10)
    box = tab.query_selector(".song .time").bounding_box()
    tab.evaluate("document.querySelector('.song audio').pause()")
    tab.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 5)
    tab.wait_for_function(f"Math.abs({lefts}[0] - 75) < 2")
    with tab.expect_download() as download:
        tab.get_by_text("Download JSON").click()
    kept = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == f"{stem}.json"
    assert list(kept["tags"]) == list(expected)
    assert len(kept["scores"]["quiet"]) == len(kept["segment_starts"])
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000
    # Nothing is loaded from elsewhere.
    local = (url, "data:", "blob:")
    assert [one for one in tab.foreign if not one.startswith(local)] == []
    tab.close()


@pytest.mark.browser
def test_tags_are_chosen_and_explained(browser, url, tmp_path):
    tab = visit(browser, url, noise(tmp_path / "a.wav", 4))
    assert len(shown_tags(tab)) == 3
    tab.get_by_role("button", name="Remove").first.click()
    tab.wait_for_function("document.querySelectorAll('.song img').length == 2")
    tab.get_by_text("Why these tags?").click()
    report = tab.wait_for_selector("iframe.report", timeout=180_000).content_frame()
    report.wait_for_selector("h1")
    text = report.inner_text("body")
    assert "Where the decision looks" in text
    assert "What each moment would score on its own" in text
    tab.close()


@pytest.mark.browser
def test_what_cannot_be_tagged_is_said(browser, url, tmp_path):
    (tmp_path / "notes.txt").write_text("no music")
    tab = visit(browser, url, str(tmp_path / "notes.txt"))
    said = tab.wait_for_selector(".error", timeout=60_000).inner_text()
    assert said.startswith("notes.txt: Cannot decode 'notes.txt'") and "/" not in said
    tab.close()
    tab = visit(browser, url, noise(tmp_path / "long.wav", 31))
    said = tab.wait_for_selector(".error", timeout=60_000).inner_text()
    assert "longer than the 0.5 minutes that this page accepts" in said
    tab.close()
    tab = visit(browser, url, noise(tmp_path / "large.wav", 60))
    tab.wait_for_selector("text=exceed the maximum allowed size")
    tab.close()


@pytest.mark.browser
def test_visitors_do_not_mix(tagger, browser, url, tmp_path):
    songs = []
    for number in range(3):  # distant tones have different scores
        times = np.arange((6 + number) * 22050) / 22050
        tone = 0.3 * np.sin(2 * np.pi * 110 * 4**number * times)
        songs.append(str(tmp_path / f"{number}.wav"))
        audio.write_audio(songs[-1], tone.astype(np.float32), 22050)
    shutil.copy(REFERENCES / "stereo.mp3", tmp_path / "music.mp3")
    songs.append(str(tmp_path / "music.mp3"))
    tabs = [visit(browser, url, song) for song in songs]  # one browser profile per tab
    for tab, song in zip(tabs, songs, strict=True):
        expected = tagger.tag(song)
        shown = shown_tags(tab)
        assert list(shown) == list(expected)
        for tag, score in shown.items():
            assert abs(score - expected[tag]) < 0.0051
        assert tab.inner_text(".song .title") == song.rsplit("/", 1)[1]
    for tab in tabs:
        tab.close()


@pytest.mark.browser
def test_the_last_song_dropped_is_the_one_shown(browser, url, tmp_path):
    tab = visit(browser, url, noise(tmp_path / "first.wav", 28))
    late = []
    tab.route("**/cancel", lambda route: late.append(route))
    tab.get_by_label("Clear").or_(tab.get_by_label("Remove")).first.click()
    tab.set_input_files("input[type=file]", noise(tmp_path / "second.wav", 5))
    tab.wait_for_timeout(500)
    for request in late:
        request.continue_()
    tab.wait_for_selector(".song .title:has-text('second.wav')", timeout=60_000)
    time.sleep(3)
    assert tab.inner_text(".song .title") == "second.wav"
    tab.close()


@pytest.mark.browser
def test_other_files_of_the_machine_are_not_served(url):
    with pytest.raises(urllib.error.HTTPError, match="40[34]"):
        urllib.request.urlopen(f"{url}gradio_api/file={REPOSITORY / 'train.py'}")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_the_library_is_searched_heard_and_saved(browser, url, width):
    tab = visit(browser, url, width=width)
    tab.get_by_role("tab", name="Library").click()
    field = tab.get_by_label("Songs with these tags")
    field.fill("rok > 0")
    tab.get_by_text("Search", exact=True).click()
    said = tab.wait_for_selector(".error").inner_text()
    assert "There is no tag 'rok'. Did you mean rock?" in said
    field.fill("rock > 0 and not (sad > 2)")
    field.press("Enter")
    tab.wait_for_selector("text=4 of 4 songs")
    assert "%" not in tab.inner_text("table")  # scores are no probabilities
    tab.get_by_text("Ann – Song 2").first.click()
    tab.wait_for_selector("audio[autoplay]")
    tab.wait_for_function("document.querySelector('audio[autoplay]').duration > 2")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Playlist of these songs").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == "#EXTM3U" and len(lines) == 9
    tab.get_by_role("button", name="Similar songs").click()
    tab.wait_for_selector("text=similarity")
    assert "Song 2" not in tab.inner_text("table")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    local = (url, "data:", "blob:")
    assert [one for one in tab.foreign if not one.startswith(local)] == []
    tab.close()
