"""The web page: its content for a song, and its behaviour in a real browser."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from collection import Scanner, make_song
from conftest import REFERENCES, REPOSITORY
from test_report import attentive

from tagger import audio, models
from tagger.inference.tagger import Taggram
from tagger.library import mapping
from tagger.models.metadata import ModelInfo
from tagger.segmentation import Segmentation

page = pytest.importorskip("tagger.web.page", reason="the page needs fastapi-offline")
song = pytest.importorskip("tagger.web.song")


def noise(path, seconds, seed=0):
    waveform = np.random.RandomState(seed).uniform(-0.3, 0.3, int(22050 * seconds))
    audio.write_audio(path, waveform.astype(np.float32), 22050)
    return str(path)


@pytest.fixture(scope="module")
def tagger():
    return attentive()


@pytest.fixture
def listener(tagger):
    return song.Listener(tagger, lambda: tagger, 0.5)


def held(folder, name="a.wav"):
    """Returns a path for an upload in a folder of its own."""
    path = folder / "token" / "upload" / name
    path.parent.mkdir(parents=True)
    return path


def test_a_song_is_its_taggram_and_its_loudness(tagger, listener, tmp_path):
    waveform = np.repeat([0.0, 0.5, 0.25], 22050).astype(np.float32)
    path = held(tmp_path)
    audio.write_audio(path, waveform, 22050)
    shares = []
    found = listener.hear(path, shares.append)
    np.testing.assert_allclose(found.loudness[10:190], 0, atol=1e-4)
    np.testing.assert_allclose(found.loudness[210:390], 0.5, atol=0.01)
    np.testing.assert_allclose(found.loudness[410:590], 0.25, atol=0.01)
    expected = tagger.taggram(path).scores
    np.testing.assert_allclose(found.taggram.scores, expected, atol=1e-6)
    assert shares[-1] == 1 and found.sound == path


def test_longer_songs_than_allowed_are_refused(listener, tmp_path):
    path = noise(held(tmp_path), 31)
    with pytest.raises(ValueError, match="longer than the 0.5 minutes that this page"):
        listener.hear(Path(path))


def test_what_browsers_do_not_play_is_made_playable(listener, tmp_path):
    path = held(tmp_path, "a.aiff")
    shutil.copy(noise(tmp_path / "a.wav", 2), path)
    found = listener.hear(path)
    assert found.sound.name == "player.flac"
    assert 1.9 < len(audio.load_audio(found.sound, 22050)) / 22050 < 2.2


def heard(scores, thresholds=None, seconds=3, loudness=0.1):
    """Returns a listener, and a song with given scores [num_segments, num_tags]."""
    scores = np.array(scores, np.float32)
    tags = ("rock", "female", "woman", "drums", "sad", "no such map", "a", "b")
    tags = tags[: scores.shape[1]]
    info = ModelInfo("m", 16000, Segmentation(16000), len(tags), tags, thresholds)
    engine = types.SimpleNamespace(info=info, source=None)
    starts = np.arange(len(scores)) * seconds / len(scores)
    taggram = Taggram(starts, seconds / len(scores), scores, seconds)
    levels = np.full(song.NUM_COLUMNS, loudness)
    found = song.Song("a.mp3", Path("a"), Path("a"), levels, taggram, None)
    made = song.Listener.__new__(song.Listener)
    made.tagger = types.SimpleNamespace(engine=engine, info=info, tags=tags, name="m")
    made._table = mapping.read_mapping()
    return made, found


def sentence(*given, **options):
    made, found = heard(*given, **options)
    text = page.song_html(made, "token", found)
    verdict = re.search(r'role="status">(.*?)</p>', text, re.DOTALL)[1]
    return re.sub(r"<[^>]*>|\s+", " ", verdict).replace(" ", ""), text


def test_the_verdict_names_what_reaches_its_threshold():
    """The highest score may be below its threshold, and a low one above."""
    said, text = sentence([[0.6, 0.05, 0.04, 0.2]], (0.9, 0.02, 0.02, 0.3))
    assert said == "female✓—weaker:rock,drums."  # a woman is female
    assert text.index(">female<") < text.index(">woman<")  # the stronger one first
    assert text.count("✓") == 1 + 2 + 1  # verdict, rows, and the explanation
    said, _ = sentence([[0.1, 0.1]], (0.2, 0.9))
    assert said == "Notagreachesitsthreshold;closest:rock,female."
    said, _ = sentence([[0.9, 0.9]], (0.2, 0.9), loudness=1e-6)
    assert said == "Thisfileissilent."
    said, text = sentence([[0.1, 0.7]])
    assert said == "Highest:female,rock." and "✓" not in text and "<line" not in text
    long = [[0.1, 0.1], [0.1, 0.78], [0.1, 0.1], [0.1, 0.1]]
    said, _ = sentence(long, (0.05, 0.3), seconds=400)
    assert said == "rock✓—weaker:female.Atitsbest:female0.78at1:40."


def test_every_tag_that_reaches_its_threshold_is_shown():
    scores = np.full((1, 8), 0.5)
    made, found = heard(scores, (0.4,) * 7 + (0.6,))
    rows = made.rows(found)
    assert [row.is_shown for row in rows] == [True] * 7 + [False]
    assert [row.strength for row in rows] == sorted(
        (row.strength for row in rows), reverse=True
    )
    assert {row.tag: row.group for row in rows} == {
        "rock": "genre", "female": "voice", "woman": "voice", "drums": "instrument",
        "sad": "mood", "no such map": "other", "a": "other", "b": "other",
    }  # fmt: skip
    made, found = heard(scores / 10, (0.4,) * 8)
    assert sum(row.is_shown for row in made.rows(found)) == song.NUM_ROWS


def test_a_screen_reader_hears_the_scores():
    made, found = heard([[0.3], [0.2], [0.41], [0.35]], (0.4,), seconds=12)
    (row,) = made.rows(found)
    assert row.spoken == "rock: 0.30 at 0:00, 0.20 at 0:03, 0.41 at 0:06"


def test_names_cannot_write_into_the_page(listener, tmp_path):
    found = listener.hear(Path(noise(held(tmp_path, "<b>&.wav"), 2)))
    text = page.song_html(listener, "token", found)
    assert "<b>&" not in text and "&lt;b&gt;" in text
    assert "loud &amp; wild" in text


@pytest.mark.slow
def test_a_taken_port_is_said(trained, run_script):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        serve = ("-m", "tagger", "serve", "--model", trained / "model.keras")
        done = run_script(*serve, "--port", port)
    assert done.returncode == 2 and f"port {port}: the port is in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Folder of what `url` serves."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def url(tagger, served):
    """Serves the page by the command, as a user would; returns its URL."""
    folder = served
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
    tab.foreign, tab.broken = [], []
    tab.on("request", lambda request: tab.foreign.append(request.url))
    tab.on("pageerror", lambda error: tab.broken.append(str(error)))
    tab.goto(url)
    if song:
        tab.set_input_files("input[type=file]", song)
    return tab


def leave(tab, url):
    """Closes a tab, in which nothing broke and nothing came from elsewhere."""
    assert tab.broken == []
    local = (url, "data:", "blob:")
    assert [one for one in tab.foreign if not one.startswith(local)] == []
    width = tab.viewport_size["width"]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    small = """[...document.querySelectorAll("button, a, summary, input")]
        .filter((one) => one.checkVisibility() && !one.closest("p.quiet"))
        .map((one) => [one.textContent, one.getBoundingClientRect().height])
        .filter(([_, height]) => height < 24)"""
    assert tab.evaluate(small) == []
    tab.close()


def shown_tags(tab):
    tab.wait_for_selector(".verdict", timeout=120_000)
    return {
        row.query_selector("th").inner_text(): float(
            row.query_selector("[data-mean]").inner_text()
        )
        for row in tab.query_selector_all(".tags .row")
        if row.is_visible()
    }


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_a_dropped_song_is_tagged_played_and_saved(
    tagger, browser, url, tmp_path, width
):
    stem = "Ünïcode 'quoted' & <b>bold</b> #1 100% 歌".replace("/", "")
    shutil.copy(REFERENCES / "stereo.mp3", tmp_path / f"{stem}.mp3")
    tab = visit(browser, url, str(tmp_path / f"{stem}.mp3"), width)
    expected = tagger.tag(tmp_path / f"{stem}.mp3")
    shown = shown_tags(tab)
    assert set(shown) == set(expected)
    for tag, score in shown.items():
        assert abs(score - expected[tag]) < 0.0051
    assert tab.inner_text("#song h2") == f"{stem}.mp3"
    tab.wait_for_function("document.querySelector('#song audio').duration > 0")
    left = "parseFloat(document.querySelector('.cursor').style.left)"
    box = tab.wait_for_selector(".wave").bounding_box()
    tab.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 5)
    tab.wait_for_function(f"Math.abs({left} - 75) < 2")
    tab.evaluate("document.activeElement.blur()")
    tab.keyboard.press("Space")
    tab.wait_for_function("!document.querySelector('#song audio').paused")
    tab.keyboard.press("Space")
    tab.wait_for_function("document.querySelector('#song audio').paused")
    tab.keyboard.press("Alt+ArrowRight")  # the browser's own
    tab.keyboard.press("ArrowLeft")
    tab.wait_for_function(f"{left} < 74")
    with tab.expect_download() as download:
        tab.get_by_text("Save JSON").click()
    kept = json.loads(download.value.path().read_text())
    saved = re.sub("[<>]", "_", f"{stem}.json")  # as Chromium does
    assert download.value.suggested_filename == saved
    assert list(kept["tags"]) == list(expected)
    assert len(kept["scores"]["quiet"]) == len(kept["segment_starts"])
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000
    leave(tab, url)


@pytest.mark.browser
def test_an_example_is_tagged_and_a_tag_explained_by_keyboard(browser, url):
    tab = visit(browser, url)
    assert tab.query_selector_all("#song > *") == []  # nothing empty, nothing disabled
    assert tab.query_selector_all("[disabled]") == []
    example = tab.get_by_role("button", name=page.EXAMPLES[0].split(".")[0], exact=True)
    example.focus()
    tab.keyboard.press("Enter")
    assert len(shown_tags(tab)) == 3
    tag = tab.locator("[data-why]").first
    tag.focus()
    tab.keyboard.press("Enter")
    why = tab.wait_for_selector(".why img", timeout=180_000)
    assert why.get_attribute("alt").startswith("Spectrograms of ")
    assert re.search(r"Explains -?\d\.\d\d of \d\.\d\d", tab.inner_text(".why"))
    assert len(tab.query_selector_all(".why audio")) == 2
    tag.press("Enter")
    tab.wait_for_selector(".why", state="detached")
    roles = tab.locator("#song").aria_snapshot()
    assert "table" in roles and "rowheader" in roles and "status" in roles
    with tab.expect_download(timeout=180_000) as download:
        tab.get_by_text("Save report").click()
    report = download.value.path().read_text()
    assert "What each moment would score on its own" in report
    assert page.EXAMPLES[0] in report  # as the visitor knows it
    leave(tab, url)


@pytest.mark.browser
def test_what_cannot_be_tagged_is_said(browser, url, tmp_path):
    (tmp_path / "notes.txt").write_text("no music")
    tab = visit(browser, url, str(tmp_path / "notes.txt"))
    said = tab.wait_for_selector(".error", timeout=60_000).inner_text()
    assert said.startswith("notes.txt: This holds no sound that can be read (")
    assert "/" not in said
    tab.close()
    tab = visit(browser, url, noise(tmp_path / "long.wav", 31))
    said = tab.wait_for_selector(".error", timeout=60_000).inner_text()
    assert "longer than the 0.5 minutes that this page accepts" in said
    tab.close()
    tab = visit(browser, url, noise(tmp_path / "large.wav", 60))
    said = tab.wait_for_selector(".error").inner_text()
    too_large = "large.wav: it has 3 MB; this page takes 2. Use tagger tag."
    assert said == too_large
    # What was being heard does not come in its place.
    tab.set_input_files("input[type=file]", noise(tmp_path / "first.wav", 28))
    tab.wait_for_selector("progress")
    tab.set_input_files("input[type=file]", str(tmp_path / "large.wav"))
    time.sleep(3)
    assert tab.inner_text("#song") == too_large
    tab.close()


@pytest.mark.browser
def test_a_server_that_does_not_answer_is_said(browser, url):
    tab = visit(browser, url)
    tab.wait_for_selector("text=4 of 4 songs")
    tab.get_by_role("button", name=page.EXAMPLES[0].split(".")[0], exact=True).click()
    shown_tags(tab)
    tab.route(re.compile("library|why"), lambda route: route.abort())
    tab.locator("[data-why]").first.click()
    silent = "The server does not answer. Is it still running?"
    assert tab.wait_for_selector(".why .error").inner_text() == silent
    tab.get_by_role("searchbox").press("Enter")
    assert tab.wait_for_selector("#found .error").inner_text() == silent
    tab.unroute(re.compile("library|why"))
    tab.get_by_role("searchbox").press("Enter")
    tab.wait_for_selector("text=4 of 4 songs")
    tab.evaluate("ask({ like: 'forgotten' })")
    said = tab.wait_for_selector("#found .error").inner_text()
    assert said == "The server has forgotten this song. Send it again."
    # The last question is the one that is answered.
    tab.evaluate("ask({ query: 'rock > 2' }); ask({ query: 'sad > 2' })")
    tab.wait_for_selector("text=No song matches; sad >")
    time.sleep(1)
    assert "sad >" in tab.inner_text("#found [role=status]")
    leave(tab, url)


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
        assert set(shown) == set(expected)
        for tag, score in shown.items():
            assert abs(score - expected[tag]) < 0.0051
        assert tab.inner_text("#song h2") == song.rsplit("/", 1)[1]
    for tab in tabs:
        tab.close()


@pytest.mark.browser
def test_the_last_song_dropped_is_the_one_shown(browser, url, tmp_path):
    tab = visit(browser, url, noise(tmp_path / "first.wav", 28))
    tab.set_input_files("input[type=file]", noise(tmp_path / "second.wav", 5))
    tab.wait_for_selector("#song h2:has-text('second.wav')", timeout=60_000)
    time.sleep(3)
    assert tab.inner_text("#song h2") == "second.wav"
    leave(tab, url)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1100, 390])
def test_the_library_is_searched_heard_and_saved(browser, url, served, width):
    tab = visit(browser, url, width=width)
    tab.wait_for_selector("text=4 of 4 songs")  # all at once
    field = tab.get_by_role("searchbox")
    field.fill("rok > 0")
    tab.get_by_text("Search", exact=True).click()
    said = tab.wait_for_selector(".error").inner_text()
    assert "There is no tag 'rok'. Did you mean rock?" in said
    assert tab.query_selector("#library table") is None
    field.fill("rock > 0 and not (sad > 2)")
    field.press("Enter")
    tab.wait_for_selector("th:has-text('rock')")
    assert "4 of 4 songs" in tab.inner_text("#library [role=status]")
    assert "%" not in tab.inner_text("table")  # scores are no probabilities
    tab.get_by_role("button", name="Play Ann – Song 2").click()
    tab.wait_for_function("document.querySelector('.listen audio').duration > 2")
    with tab.expect_download() as download:
        tab.get_by_text("Save playlist").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == "#EXTM3U" and len(lines) == 9
    tab.get_by_role("button", name="Songs similar to Ann – Song 2").click()
    tab.wait_for_selector("text=Like Ann – Song 2")
    rows = tab.query_selector_all("#library tbody tr")
    assert all("Song 2" not in row.inner_text() for row in rows)
    tab.get_by_role("button", name="Show all songs again").click()
    tab.wait_for_selector("text=4 of 4 songs")
    assert tab.evaluate("document.activeElement.id") == "found"
    tab.get_by_role("button", name="Songs similar to Ann – Song 2").click()
    tab.wait_for_selector("text=Like Ann – Song 2")
    assert tab.evaluate("'unlike' in document.activeElement.dataset")
    field.fill("rock > 0 or sad > 0")
    chip = tab.locator(".chips button").first
    word = chip.get_attribute("data-word")
    chip.focus()
    tab.keyboard.press("Enter")
    asked = f"(rock > 0 or sad > 0) and {word}"
    assert field.input_value() == asked
    tab.wait_for_function(f"document.activeElement.dataset.word === '{word}'")
    # The player stays, and is silent where a song above is played.
    playing = "!document.querySelector('.listen audio').paused"
    field.fill("")
    field.press("Enter")
    tab.get_by_role("button", name="Play Ann – Song 2").click()
    tab.wait_for_function(playing)
    field.fill("rock > 0")
    field.press("Enter")
    tab.wait_for_selector("th:has-text('rock')")
    assert "Song 2" in tab.wait_for_selector("tr.playing").inner_text()
    assert tab.evaluate(playing)
    tab.get_by_role("button", name=page.EXAMPLES[0].split(".")[0], exact=True).click()
    shown_tags(tab)
    tab.evaluate("document.activeElement.blur()")
    tab.keyboard.press("Space")
    tab.wait_for_function("!document.querySelector('#song audio').paused")
    tab.wait_for_function(f"!({playing})")
    (served / "music" / "1.mp3").rename(served / "music" / "away.mp3")
    tab.get_by_role("button", name="Play Ann – Song 1").click()
    said = tab.wait_for_selector(".listen .error").inner_text()
    (served / "music" / "away.mp3").rename(served / "music" / "1.mp3")
    assert "1.mp3" in said
    leave(tab, url)
