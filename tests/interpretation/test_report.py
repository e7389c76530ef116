"""`python -m tagger explain`: files, page and sentences."""

import re

import keras
import numpy as np
import pytest
from conftest import fails
from drawn import draw_music
from narrow import narrow_model, narrow_options

from tagger import audio, models
from tagger.inference import streaming
from tagger.inference import tagger as tagging
from tagger.interpretation import report


def clip(corpus, number=0):
    return sorted(corpus.rglob("*.mp3"))[number]


def attentive():
    keras.utils.set_random_seed(0)
    options = narrow_options("self_attention") | {"num_samples": 16320}
    tags = ("loud & wild", "quiet", "a/b")
    model = models.build_model("self_attention", num_tags=3, tags=tags, **options)
    return tagging.Tagger(model)


@pytest.mark.slow
def test_the_command_writes_a_page_that_stands_alone(
    trained, corpus, tmp_path, run_script
):
    done = run_script(
        *("-m", "tagger", "explain", clip(corpus), "--tags", "loud, quiet"),
        *("--model", trained / "model.keras", "--output", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    pictures = {"taggram", "attribution", "excitations"}
    expected = {f"{name}.{end}" for name in pictures for end in ("png", "svg")}
    expected |= {"attribution1_loud.wav", "attribution2_quiet.wav"}
    assert names == expected | {"arrays.npz", "report.html"}
    *listed, last = done.stdout.splitlines()
    assert last == f"open {tmp_path / 'out/report.html'}"
    assert len(listed) == len(names) - 1
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("data:image/png;base64,") == len(pictures)
    assert page.count("data:audio/mpeg;base64,") == 3
    # Nothing is loaded from elsewhere.
    assert set(re.findall(r'(?:src|href)="(\w+):', page)) == {"data"}
    with np.load(tmp_path / "out/arrays.npz") as arrays:
        assert arrays["attribution"].shape[0] == 2
        assert arrays["taggram"].shape == (5, 10)  # segments of 2.7 s, tags
        assert len([name for name in arrays if name.startswith("excitations_")]) == 9
    sound = audio.load_audio(tmp_path / "out/attribution1_loud.wav", 22050)
    assert len(sound) == 59049


@pytest.mark.slow
def test_attention_contribution_and_two_clips(corpus, tmp_path):
    first, second = (str(clip(corpus, number)) for number in (0, 1))
    (tmp_path / "attribution9_of_before.wav").write_text("an earlier call's")
    files = report.explain(
        attentive(), first, tmp_path, ["a/b", "loud & wild"], second_path=second
    )
    assert {path for path in tmp_path.iterdir() if path.is_file()} == set(files)
    assert files[0].name == "report.html" and all(path.exists() for path in files)
    names = {path.stem for path in files}
    assert {
        "attention",
        "attention_heads",
        "attention_matrices",
        "contribution",
        "contribution_of_two",
    } <= names
    assert len([path for path in files if path.suffix == ".wav"]) == 2
    with np.load(tmp_path / "arrays.npz") as arrays:
        alone, both = arrays["contribution"], arrays["contribution_of_two"]
        assert alone.shape == both.shape == (3, 65)
        # Away from the junction, the first half gives the same result.
        np.testing.assert_allclose(both[:, 1:10], alone[:, 1:10], atol=0.05)
    page = (tmp_path / "report.html").read_text()
    assert "loud &amp; wild" in page and "loud & wild" not in page


def test_the_segment_is_the_highest_or_the_one_asked_for(tmp_path):
    tagger = attentive()
    sample_rate, size = 16000, 16320
    music = draw_music(5 * size, sample_rate)[0]
    audio.write_audio(tmp_path / "x.wav", music, sample_rate)
    taggram = tagger.taggram(tmp_path / "x.wav")
    assert taggram.scores.shape == (5, 3)
    np.testing.assert_allclose(
        taggram.scores.mean(axis=0), tagger.scores(tmp_path / "x.wav"), atol=1e-6
    )
    found = report._excerpt(tagger, str(tmp_path / "x.wav"), taggram, [1], None)
    highest = taggram.scores[:, 1].argmax()
    assert found.start_seconds == pytest.approx(taggram.seconds[highest])
    np.testing.assert_allclose(
        found.waveform, music[highest * size : (highest + 1) * size], atol=1e-4
    )
    asked, own_seconds = tagger.segment(tmp_path / "x.wav", 2.5)
    np.testing.assert_allclose(asked, music[40000 : 40000 + size], atol=1e-4)
    assert own_seconds == tagger.segment_seconds
    asked, own_seconds = tagger.segment(tmp_path / "x.wav", 5.0)
    assert own_seconds == pytest.approx(0.1) and not asked[1600:].any()
    for start in (9.0, -1.0):
        with pytest.raises(ValueError, match="cannot start at .* is 5.1 s long"):
            report.explain(
                tagger, str(tmp_path / "x.wav"), tmp_path / "no", start_seconds=start
            )


def test_overlapping_windows_of_a_taggram(tmp_path):
    tagger = attentive()
    music = draw_music(4 * 16320, 16000)[0]
    audio.write_audio(tmp_path / "x.wav", music, 16000)
    plain = tagger.taggram(tmp_path / "x.wav")
    dense = tagger.taggram(tmp_path / "x.wav", hop_seconds=0.255)
    assert len(dense.seconds) == 13 and dense.segment_seconds == 1.02
    np.testing.assert_allclose(dense.scores[::4], plain.scores, atol=1e-6)
    for hop in (0, 2.0):
        with pytest.raises(ValueError, match="between one sample and one segment"):
            tagger.taggram(tmp_path / "x.wav", hop_seconds=hop)


@pytest.mark.slow
def test_silent_and_short_clips_are_explained(tmp_path):
    audio.write_audio(tmp_path / "silent.wav", np.zeros(40000, np.float32), 16000)
    with pytest.warns(UserWarning, match="silent.wav is silent from 0.0 s on"):
        files = report.explain(attentive(), str(tmp_path / "silent.wav"), tmp_path)
    assert files[0].exists()
    short = draw_music(3000, 16000)[0]
    audio.write_audio(tmp_path / "short.wav", short, 16000)
    waveform, own_seconds = attentive().segment(tmp_path / "short.wav")
    np.testing.assert_allclose(waveform[3000:6000], short, atol=1e-4)
    assert own_seconds == 3000 / 16000
    name = tmp_path / "Ke$ha $_$ & co.wav"
    (tmp_path / "short.wav").rename(name)
    page, *_ = report.explain(attentive(), str(name), tmp_path / "out", ["quiet"])
    assert "Only 0.2 seconds" in page.read_text() and "Ke$ha" in page.read_text()


@pytest.mark.slow
def test_what_cannot_be_explained_is_said_before_the_work(
    trained, corpus, tmp_path, run_script
):
    def explain(*options):
        return run_script(
            *("-m", "tagger", "explain", clip(corpus), *options),
            *("--model", trained / "model.keras", "--output", tmp_path / "out"),
        )

    fails(explain("--tags", "guitr"), "no tag 'guitr'. Did you mean guitar")
    fails(
        explain("--second-file", clip(corpus, 1)), "has no attention", "self_attention"
    )
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("in the way")
    fails(explain(), "out exists. Add --force", "--output")
    tagger = tagging.Tagger(narrow_model("fcn"))
    with pytest.raises(ValueError, match="no tag 'zzz'. Available: rock, slow"):
        tagger.tag_numbers(["rock", "zzz"])


@pytest.mark.slow
def test_an_hour_of_music_takes_little_memory(tmp_path, monkeypatch):
    import tracemalloc

    block = draw_music(65536, 16000)[0]
    monkeypatch.setattr(
        streaming, "stream_source", lambda path, rate: iter(900 * [block])
    )
    tagger = attentive()
    tracemalloc.start()
    taggram = tagger.taggram("an hour")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taggram.seconds[-1] > 3600
    assert peak < 60e6  # the decoded hour would take 236 MB
