"""Files in, tags out: segments, batches and bad files."""

import json

import numpy as np
import pytest
from conftest import REFERENCES, REPOSITORY, fails

from tagger import audio, listing, models
from tagger.fitting import calibration
from tagger.inference import tagger as tagging
from tagger.weights import pretrained


@pytest.fixture(scope="module")
def tagger(trained):
    return tagging.Tagger(models.load_model(trained / "model.keras"))


@pytest.mark.parametrize("seconds", [1, 3, 47, 130])
def test_scores_are_the_mean_over_the_files_segments(tagger, tmp_path, seconds):
    random = np.random.RandomState(seconds)
    waveform = random.uniform(-0.3, 0.3, 22050 * seconds).astype(np.float32)
    waveform *= np.linspace(0, 1, len(waveform), dtype=np.float32)
    audio.write_audio(tmp_path / "a.wav", waveform, 22050)
    held = audio.load_audio(tmp_path / "a.wav", 22050)
    num_segments = max(1, len(held) // 59049)
    segments = np.resize(held, (num_segments, 59049))
    expected = tagger.model.predict(segments, verbose=0).mean(axis=0)
    # float32 sums by batch
    np.testing.assert_allclose(tagger.scores(tmp_path / "a.wav"), expected, atol=1e-6)


def test_tags_are_sorted_by_score(tagger):
    tags = tagger.tag(REFERENCES / "stereo.mp3")
    assert set(tags) == set(tagger.tags)
    assert list(tags.values()) == sorted(tags.values(), reverse=True)


def test_tag_and_eval_agree_on_a_clip(tagger, corpus, built):
    from tagger.data.clips import open_shards
    from tagger.datasets import magnatagatune
    from tagger.evaluation import scoring

    shards = open_shards(built)
    predict = scoring.predictor(tagger.model, shards)
    result = scoring.evaluate(predict, shards, tagger.info)
    annotations = magnatagatune.load_annotations(corpus)
    paths = dict(zip(annotations.clip_ids, annotations.paths, strict=True))
    for clip_id, scores in zip(result.clip_ids, result.scores, strict=True):
        # The records hold int16; the file is decoded to float32.
        ours = tagger.scores(corpus / "mp3" / paths[clip_id])
        np.testing.assert_allclose(ours, scores, atol=1e-3)


def test_a_model_without_tags_needs_names():
    legacy = pretrained.load(REFERENCES / "rese_multi.hdf5")
    with pytest.raises(ValueError, match="holds no tag names. Name them"):
        tagging.Tagger(legacy)
    with pytest.raises(ValueError, match="scores 5 tags, but there are 2 names"):
        tagging.Tagger(legacy, ("a", "b"))
    assert tagging.Tagger(legacy, tuple("abcde")).tags == tuple("abcde")


def test_the_command_prints_a_table_and_goes_on_after_a_bad_file(
    trained, tmp_path, run_script
):
    (tmp_path / "bad.mp3").write_text("no music")
    done = run_script(
        *("-m", "tagger", "tag", tmp_path / "bad.mp3", REFERENCES / "mono.mp3"),
        *("--model", trained / "model.keras", "--top", 3),
        *("--output", tmp_path / "a.csv"),
    )
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines[0].endswith("bad.mp3") and "Cannot decode" in lines[1]
    assert lines[2].endswith("mono.mp3") and len(lines) == 6
    header, first, second = (tmp_path / "a.csv").read_text().splitlines()
    assert header.startswith("path,") and header.endswith(",error")
    assert "Cannot decode" in first and "mono.mp3" in second
    assert (
        "it/s" not in done.stderr and "file/s" not in done.stderr
    )  # without a terminal, no progress bar


@pytest.mark.slow
def test_the_command_prints_json_lines(trained, run_script):
    done = run_script(
        *("-m", "tagger", "tag", REFERENCES / "mono.mp3", "nowhere.mp3", "--json"),
        *("--model", trained / "model.keras"),
    )
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["path"].endswith("mono.mp3") and first["model"].endswith("model.keras")
    assert len(first["tags"]) == 10 and all(0 < s < 1 for s in first["tags"].values())
    assert "no such file" in second["error"] and second["path"] == "nowhere.mp3"
    assert done.returncode == 2


def test_windows_of_many_files_share_batches_in_order(tagger, tmp_path, monkeypatch):
    random = np.random.RandomState(0)
    paths, lengths = [], (1, 40, 3, 130, 2, 60)
    for number, seconds in enumerate(lengths):
        waveform = random.uniform(-0.3, 0.3, 22050 * seconds).astype(np.float32)
        paths.append(str(tmp_path / f"{number}.wav"))
        audio.write_audio(paths[-1], waveform, 22050)
    (tmp_path / "bad.wav").write_bytes(b"RIFF of nothing")
    paths.insert(2, str(tmp_path / "bad.wav"))
    alone = {path: tagger.scores(path) for path in paths if "bad" not in path}
    sizes, predict = [], tagger.model.predict_on_batch
    monkeypatch.setattr(
        tagger.model,
        "predict_on_batch",
        lambda batch: sizes.append(len(batch)) or predict(batch),
    )
    found = list(tagger.taggrams(paths))
    assert [one.path for one in found] == paths
    with pytest.raises(audio.AudioDecodeError):
        found[2].get()
    for one in found:
        if one.path in alone:  # float32 sums by batch
            scores = one.value.aggregated()
            np.testing.assert_allclose(scores, alone[one.path], atol=1e-6)
    # 1 + 14 + 1 + 48 + 1 + 22 segments
    assert sizes == [16, 16, 16, 16, 16, 8]
    taggram = found[1].get()
    highest = taggram.aggregated("max")
    np.testing.assert_array_equal(highest, taggram.scores.max(axis=0))
    with pytest.raises(
        ValueError, match="Unknown aggregate 'sum'. Choose one of: mean"
    ):
        taggram.aggregated("sum")


@pytest.mark.slow
def test_the_command_takes_folders_lists_thresholds_and_draws(
    trained, corpus, tmp_path, run_script
):
    model = ("--model", trained / "model.keras")
    folder = tmp_path / "music"
    (folder / "deeper").mkdir(parents=True)
    (folder / "notes.txt").write_text("no audio")
    clips = sorted(corpus.rglob("*.mp3"))[:2]
    for clip, place in zip(
        clips, (folder / "deeper/b.mp3", folder / "a.mp3"), strict=True
    ):
        place.write_bytes(clip.read_bytes())
    done = run_script(
        "-m", "tagger", "tag", folder, *model, "--json", "--threshold", "model"
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [
        str(folder / "a.mp3"), str(folder / "deeper/b.mp3")
    ]  # fmt: skip
    held = tagging.Tagger(models.load_model(trained / "model.keras"))
    thresholds = held.thresholds()
    for row in rows:
        whole = held.tag(row["path"])
        applying = [tag for tag in whole if whole[tag] >= thresholds[tag]]
        assert list(row["tags"]) == applying
    listed = run_script(
        *("-m", "tagger", "tag", "-", *model, "--threshold", 0, "--top", 3),
        *("--plot", tmp_path / "t.png", "--aggregate", "max", "--hop", 1),
        input=f"#EXTM3U\n  {clips[0]}\t\n\n",
    )
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("\n") == 4
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    output = tmp_path / "lines.jsonl"
    tag = ("-m", "tagger", "tag", *model, "--output", output)
    assert run_script(*tag, clips[0]).returncode == 0
    first = output.read_text()
    again = run_script(*tag, clips[0])
    assert again.returncode == 0 and "already holds the tags" in again.stderr
    other = run_script(*tag, clips[0], "--hop", 1)
    fails(other, "with hop None, not 1.0", "--force to replace it")
    output.write_text(first + '{"path": "half a li')  # as if killed while writing
    done = run_script(*tag, *clips, "--json")
    assert done.returncode == 0, done.stderr
    assert str(clips[0]) not in done.stdout
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert rows[0] == json.loads(first) and len(rows) == 2
    assert rows[1] == json.loads(done.stdout) | {"settings": rows[0]["settings"]}
    two = run_script(
        "-m", "tagger", "tag", *clips, *model, "--plot", tmp_path / "two.png"
    )
    assert two.returncode == 2 and "--plot shows exactly one file" in two.stderr
    (tmp_path / "empty").mkdir()
    none = run_script("-m", "tagger", "tag", tmp_path / "empty", *model)
    assert none.returncode == 2 and "contains no audio files" in none.stderr


# --- Thresholds -----------------------------------------------------------------------


@pytest.fixture
def songs(tmp_path):
    """Returns a folder of ten noises of different loudness."""
    folder = tmp_path / "songs"
    folder.mkdir()
    for number in range(10):
        random = np.random.RandomState(number)
        noise = random.uniform(-0.03, 0.03, 22050 * 3) * (number + 1)
        audio.write_audio(folder / f"{number}.wav", noise.astype(np.float32), 22050)
    return folder


@pytest.mark.slow
def test_thresholds_from_music_are_reached_by_that_share(tmp_path, run_script):
    """But for those that would be tiny, or that silence would reach."""
    music, output = REPOSITORY / "docs/gallery/music", tmp_path / "mine.onnx"
    command = ("-m", "tagger", "thresholds", "student", music, "--output", output)
    done = run_script(*command, "--share", 0.3)
    assert done.returncode == 0, done.stderr
    assert "reached by 30 % of 40 files" in done.stdout
    tagger = tagging.Tagger(output)
    scores = np.stack([tagger.scores(path) for path in listing.list_audio([music])])
    thresholds = np.array(tagger.info.thresholds)
    lowest = calibration.lowest_thresholds(tagger)
    assert (thresholds >= lowest).all() and lowest.min() == 0.02
    silence = tagger.taggram((np.zeros(99999, np.float32), 16000)).aggregated()
    assert (silence < thresholds).all()
    free = thresholds > lowest
    assert 20 < free.sum() < 92
    # Rounding depends on the batch.
    assert ((scores >= thresholds - 1e-5).sum(axis=0)[free] >= 12).all()
    assert ((scores >= thresholds + 1e-5).sum(axis=0)[free] <= 12).all()
    assert ((scores >= thresholds).sum(axis=0)[~free] <= 12).all()
    assert "30 % of 40 files" in tagger.info.provenance["thresholds"]
    done = run_script("-m", "tagger", "tag", music, "--model", output, "--top", 99)
    assert "✓" in done.stdout


def test_thresholds_need_enough_music_and_a_rate(songs, trained, tmp_path, run_script):
    command = [
        *("-m", "tagger", "thresholds", trained / "model.keras"),
        *(songs, "--output", tmp_path / "mine.keras"),
    ]
    fails(run_script(*command, "--share", 0.05), "10 audio files", "at least 20")
    fails(run_script(*command, "--share", 0), "between 0 and 1, not 0")
    (songs / "3.wav").write_text("no music")
    fails(run_script(*command), "Only 9 of 10 files can be decoded", "3.wav")
    assert not (tmp_path / "mine.keras").exists()


def test_a_model_without_thresholds_says_how_to_get_them(trained):
    model = models.load_model(trained / "model.keras")
    model.layers[-1].thresholds = None
    with pytest.raises(ValueError, match="from your music .tagger thresholds --help"):
        tagging.Tagger(model).thresholds()
