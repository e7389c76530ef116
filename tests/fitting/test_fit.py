"""tagger fit: from labelled audio to a model, and what it says of bad data."""

import dataclasses
import json
import os
import shutil

import av
import numpy as np
import pytest
from conftest import build_corpus, fails
from narrow import narrow_model, scores_of

from tagger import audio, models
from tagger.data.clips import Clips
from tagger.datasets import csv_manifest
from tagger.evaluation import metrics
from tagger.fitting import fit as fitting
from tagger.fitting import labelled_clips
from tagger.inference import embedding_cache, selection
from tagger.inference.engines import KerasEngine, OnnxEngine
from tagger.inference.tagger import Tagger
from tagger.models.metadata import OUTPUTS
from tagger.training import fine_tuning
from tagger.weights import composition

RATE = 16000


def write(path, kind, seed):
    random = np.random.default_rng(seed)
    waveform = 0.1 * random.standard_normal(RATE * 3)
    if kind == "tone":
        pitch = random.uniform(200, 400)
        waveform = 0.2 * np.sin(2 * np.pi * pitch * np.arange(RATE * 3) / RATE)
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write_audio(path, waveform.astype(np.float32), RATE)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Returns two narrow base models that hear the same segments."""
    folder = tmp_path_factory.mktemp("bases")
    for name in ("musicnn_pons", "vgg_pons"):
        models.export.save(narrow_model(name), folder / f"{name}.keras")
    return [str(folder / f"{name}.keras") for name in ("musicnn_pons", "vgg_pons")]


@pytest.fixture(scope="module")
def _music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music") / "music"
    for number in range(8):
        write(folder / "tone" / f"{number}.wav", "tone", number)
        write(folder / "noise" / f"{number}.wav", "noise", 100 + number)
    return folder


@pytest.fixture
def music(_music, tmp_path):
    """Returns a folder with eight tones and eight noises, a copy for each test."""
    return shutil.copytree(_music, tmp_path / "music")


@pytest.fixture
def cache(tmp_path):
    return embedding_cache.EmbeddingCache(tmp_path / "cache")


def csv_of(music, cells, name="tracks.csv"):
    """Writes a csv with the cells (path, tags …) of each row."""
    path = music.parent / name
    path.write_text("\n".join(",".join(row) for row in cells) + "\n")
    return path


def fit(bases, source, cache, tags=None, **options):
    options = {"num_folds": 3, "has_baselines": False} | options
    return fitting.fit(bases, source, fitting.FitOptions(**options), tags, cache=cache)


def test_a_folder_of_folders_becomes_an_ordinary_model(
    music, bases, tmp_path, run_script, monkeypatch
):
    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path / "cache"))
    model, table = tmp_path / "mine.onnx", tmp_path / "table.csv"
    command = ["-m", "tagger", "fit", music, "--from", bases[0], "--output", model]
    done = run_script(*command, "--folds", 4, "--csv", table)
    assert done.returncode == 0, done.stderr
    assert "music: 16 clips, 2 tags, 4 folds" in done.stdout
    for word in ("log-mel statistics", "95 %", "macro ROC-AUC"):
        assert word in done.stdout
    columns = table.read_text().splitlines()[0]
    assert columns.startswith("tag,clips,roc_auc,pr_auc,roc_auc_low")
    done = run_script(
        *("-m", "tagger", "tag", music, "--model", model, "--json"),
        *("--threshold", "model"),
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        result = json.loads(line)
        (tag,) = result["tags"]
        assert f"/{tag}/" in result["path"]
    fails(run_script(*command), "exists. Add --force")
    about = models.files.read_info(model).provenance
    assert about["from"] == "musicnn_pons.keras" and "16 clips" in about["data"]
    done = run_script("-m", "tagger", "models", "show", model)
    assert "noise, tone" in done.stdout and "musicnn_pons.keras" in done.stdout


def opened(found, folder, ending="onnx"):
    """Saves what was fitted, and opens it in the engine of the ending."""
    path = folder / f"mine.{ending}"
    found.save(path)
    if ending == "onnx":
        return OnnxEngine(path)
    return KerasEngine(models.load_model(path))


def test_the_model_scores_what_its_head_scores(music, bases, cache, tmp_path):
    found = fit(bases[:1], music, cache)
    tagger = Tagger(opened(found, tmp_path))
    assert tagger.info == dataclasses.replace(found.info, name="mine")
    backbone = fitting.backbone_of(bases[0])
    for path in sorted(music.rglob("*.wav"))[:3]:
        rows = cache.load(backbone, embedding_cache.key_of_file(path))
        scores = found.head.scores(rows).mean(axis=0)
        np.testing.assert_allclose(tagger.scores(path), scores, atol=1e-6)
    assert metrics.macro(found.scored)["roc_auc"] == 1
    reached = found.scored.scores >= np.array(found.info.thresholds)
    assert reached.sum(axis=0).tolist() == [8, 8]


@pytest.mark.parametrize("num_bases", [1, 2])
def test_appended_tags_keep_their_scores(num_bases, music, bases, cache, tmp_path):
    chosen = bases[:num_bases]
    found = fit(chosen, music, cache, appends=True)
    base = models.load_model(chosen[0])
    assert found.info.tags == (*base.layers[-1].tags, "noise", "tone")
    x = np.random.RandomState(0).uniform(-0.3, 0.3, (2, base.input_shape[1] or 48128))
    x = x.astype(np.float32)
    for ending in ("onnx", "keras"):
        engine = opened(found, tmp_path, ending)
        scores, embedding = engine.run(x, OUTPUTS)
        np.testing.assert_allclose(scores[:, :3], scores_of(base, x), atol=1e-6)
        np.testing.assert_allclose(found.head.scores(embedding), scores, atol=1e-6)
        assert len(engine.info.thresholds) == 5
    assert metrics.macro(found.scored)["roc_auc"] > 0.9


def test_a_new_tag_takes_the_place_of_an_old_one(music, bases, cache):
    music.joinpath("tone").rename(music / "slow")
    found = fit(bases[:1], music, cache, appends=True)
    assert found.info.tags == ("rock", "ünïcode", "noise", "slow")


def test_a_file_for_keras_holds_the_graph_too(music, bases, cache, tmp_path):
    found = fit(bases, music, cache)
    in_keras = opened(found, tmp_path, "keras")
    in_onnx = selection.open_engine(tmp_path / "mine.keras")
    assert in_onnx.name == "onnx" and in_onnx.info == in_keras.info
    path = music / "tone" / "0.wav"
    np.testing.assert_allclose(
        Tagger(in_onnx).scores(path), Tagger(in_keras).scores(path), atol=1e-6
    )
    widths = [fitting.backbone_of(base).num_channels for base in bases]
    assert in_onnx.embedding_size == in_keras.embedding_size == sum(widths)


def test_a_file_for_keras_is_refused_before_anything_is_embedded(
    music, bases, cache, tmp_path, run_script, monkeypatch
):
    fit(bases[:1], music, cache).save(tmp_path / "first.onnx")
    command = ("-m", "tagger", "fit", music, "--from", tmp_path / "first.onnx")
    done = run_script(*command, "--output", tmp_path / "more.keras")
    fails(done, "first.onnx holds no network for Keras, so what is made of it must end")
    monkeypatch.setattr(composition.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="'more.keras' is for Keras, which is not in"):
        composition.check_output(tmp_path / "more.keras", bases)


def test_another_layer_is_embedded_by_keras(music, bases, cache, tmp_path):
    found = fit(bases[1:], music, cache, layer="block4_pool")
    engine = opened(found, tmp_path)
    network = models.embedding_network(models.load_model(bases[1]), "block4_pool")
    assert engine.embedding_size == network.output_shape[-1]
    x = np.random.RandomState(0).uniform(-0.3, 0.3, (2, 48128)).astype(np.float32)
    expected = opened(found, tmp_path, "keras").run(x)[0]
    np.testing.assert_allclose(engine.run(x)[0], expected, atol=1e-6)


def test_a_second_fit_runs_no_network(music, bases, cache, monkeypatch):
    first = fit(bases[:1], music, cache)

    def fail(*_):
        raise AssertionError("a file was embedded again")

    with monkeypatch.context() as patch:
        patch.setattr(embedding_cache, "_all_outputs", fail)
        second = fit(bases[:1], music, cache)
    np.testing.assert_array_equal(first.scored.scores, second.scored.scores)
    write(music / "tone" / "0.wav", "tone", 99)  # a changed file is computed again
    (music / "noise" / "7.wav").unlink()
    third = fit(bases[:1], music, cache)
    assert len(third.scored.labels) == 15


def test_a_csv_that_changed_since_then_is_read_anew(music, bases, cache):
    rows = [
        [f"music/{kind}/{n}.wav", kind] for kind in ("tone", "noise") for n in range(8)
    ]
    source = csv_of(music, [["path", "tags"], *rows])
    assert fit(bases[:1], source, cache).scored.tags == ("noise", "tone")
    csv_of(music, [["path", "tags"], *([path, kind.upper()] for path, kind in rows)])
    assert fit(bases[:1], source, cache).scored.tags == ("NOISE", "TONE")


def test_a_damaged_cache_is_computed_again(music, bases, cache):
    fit(bases[:1], music, cache)
    victim = next(cache.folder.rglob("*.npy"))
    victim.write_bytes(victim.read_bytes()[:-5])
    with pytest.raises(OSError, match="was damaged .* has been deleted. Run the same"):
        fit(bases[:1], music, cache)
    fit(bases[:1], music, cache)


def test_artists_are_never_in_two_folds(music):
    rows = [["path", "tags", "artist"]]
    for n in range(8):
        rows += [
            [f"music/{kind}/{n}.wav", kind, "ABC"[n % 3]] for kind in ("tone", "noise")
        ]
    clips = labelled_clips.read_clips(csv_of(music, rows))
    report = []
    clips = labelled_clips.with_folds(clips, None, 5, 0, report)
    folds = clips.folds
    assert not report
    assert [len(set(folds[clips.groups == artist])) for artist in "ABC"] == [1, 1, 1]
    assert len(set(folds)) == 3


def test_artists_come_from_the_files_if_the_data_names_none(music):
    for number in range(8):
        path = music / "tone" / f"{number}.wav"
        waveform = audio.load_audio(path, RATE)
        path.unlink()
        path = path.with_suffix(".flac")
        with av.open(path, "w", format="flac") as container:
            if number != 7:
                container.metadata["artist"] = f" Artist {number % 2} "
            stream = container.add_stream("flac", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(
                (waveform[None] * 32767).astype(np.int16), format="s16", layout="mono"
            )
            frame.sample_rate = RATE
            container.mux([*stream.encode(frame), *stream.encode(None)])
    report = []
    clips = labelled_clips.read_clips(music)
    clips = labelled_clips.with_folds(clips, None, 3, 0, report)
    assert clips.group_kind == "artist"
    assert report[0].startswith("The metadata of 9 of 16 files name no artist")
    tones = clips.groups[clips.labels[:, clips.tags.index("tone")] == 1]
    assert tones.tolist() == [*["Artist 0", "Artist 1"] * 3, "Artist 0", "tone/7.flac"]


def test_the_folds_of_the_data_are_used(music, bases, cache):
    rows = [["path", "tags", "fold"]]
    for n in range(8):
        rows += [
            [f"music/{kind}/{n}.wav", kind, str(n % 2)] for kind in ("tone", "noise")
        ]
    source = csv_of(music, rows)
    found = fit(bases[:1], source, cache)
    assert set(found.scored.folds) == {0, 1}
    assert not found.notes
    found = fit(bases[:1], source, cache, left_out_fold=1, num_folds=2, min_clips=3)
    assert len(found.scored.labels) == 8
    with pytest.raises(ValueError, match="has no fold 7, only 0, 1"):
        fit(bases[:1], source, cache, left_out_fold=7)


def test_given_folds_that_share_an_artist_are_noted(music, bases, cache):
    rows = [["path", "tags", "artist", "fold"]]
    for n in range(8):
        for kind in ("tone", "noise"):
            rows.append([f"music/{kind}/{n}.wav", kind, kind, str(n % 2)])
    found = fit(bases[:1], csv_of(music, rows), cache)
    assert found.notes[0].startswith("2 artists are in several folds, such as 'noise'")


@pytest.mark.slow
def test_too_few_clips_to_judge_still_give_a_model(music, tmp_path, bases, run_script):
    for number in range(4, 8):
        (music / "tone" / f"{number}.wav").unlink()
        (music / "noise" / f"{number}.wav").unlink()
    done = run_script(
        *("-m", "tagger", "fit", music, "--from", bases[0], "--no-baselines"),
        *("--output", tmp_path / "mine.onnx"),
        env=os.environ | {"TAGGER_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert "Learnt, but not judged: noise (4 clips), tone (4 clips)" in done.stdout
    assert models.files.read_info(tmp_path / "mine.onnx").tags


@pytest.mark.parametrize(
    "ending", ["onnx", pytest.param("keras", marks=pytest.mark.slow)]
)
def test_a_fitted_model_can_be_the_base_of_another(
    ending, music, bases, cache, tmp_path
):
    path = str(tmp_path / f"first.{ending}")
    fit(bases[:1], music, cache).save(path)
    found = fit([path], music, cache, appends=True)
    assert found.info.tags == ("noise", "tone")
    assert found.info.provenance["network"] == "musicnn_pons"
    with pytest.raises(ValueError, match="no channels of a fixed number"):
        fit(bases[:1], music, cache, layer="audio_input")


def test_an_average_is_refused_before_anything_is_embedded(
    music, bases, cache, tmp_path
):
    path = tmp_path / "both.keras"
    composition.average([bases[0], bases[0]], path)
    with pytest.raises(ValueError, match="is an average of models, or its"):
        fit([path], music, cache, appends=True)
    assert not cache.folder.exists()
    with pytest.raises(ValueError, match="is an average of models, or its"):
        fine_tuning.Base(path).build(("a",), 1)
    assert fit([path], music, cache).info.tags == ("noise", "tone")


def test_shards_are_judged_on_their_validation_split(corpus, bases, cache, monkeypatch):
    folder = corpus / "at16k"
    build_corpus(corpus, folder, sample_rate=RATE)
    found = fit(bases[:1], folder, cache)
    manifest = labelled_clips.read_clips(folder).in_shards.shards.manifest
    assert len(found.scored.labels) == manifest.num_clips("val")
    assert "held out" in found.scored.split_rule
    monkeypatch.setattr(Clips, "content", None)  # the records are not read again
    again = fit(bases[:1], folder, cache)
    np.testing.assert_array_equal(found.scored.scores, again.scored.scores)
    monkeypatch.undo()
    build_corpus(corpus, corpus / "at22k")
    with pytest.raises(ValueError, match="takes waveforms at 16000 Hz.*22050 Hz"):
        fit(bases[:1], corpus / "at22k", cache)


def test_shards_hold_the_folds_of_a_build(music, bases, cache, run_script):
    rows = [["path", "tags"]]
    for n in range(8):
        rows += [[f"music/{kind}/{n}.wav", kind] for kind in ("tone", "noise")]
    source, folder = csv_of(music, rows), music.parent / "shards"
    done = run_script(
        *("-m", "tagger", "build", "csv", source, "--output", folder),
        *("--sample-rate", RATE, "--num-samples", RATE, "--folds", 4),
    )
    assert done.returncode == 0, done.stderr
    assert "clips per fold: 4, 4, 4, 4" in done.stdout
    found = fit(bases[:1], folder, cache)
    expected = csv_manifest.load_annotations(source, folds=4)
    fold_of = dict(zip(expected.clip_ids, expected.folds, strict=True))
    assert [
        fold_of[one] for one in found.scored.clip_ids
    ] == found.scored.folds.tolist()


# --- Bad data -------------------------------------------------------------------------


def test_copies_count_once_with_the_tags_of_all(music, bases, cache):
    shutil.copy(music / "tone" / "0.wav", music / "noise" / "copy.wav")
    shutil.copy(music / "tone" / "1.wav", music / "tone" / "copy.wav")
    found = fit(bases[:1], music, cache)
    note, about_artists = found.notes
    assert about_artists.startswith("No artists are known")
    assert note.startswith(
        "2 clips hold the same audio as others and do not count again"
    )
    assert "1 of them have different tags" in note and "copy.wav" in note
    assert found.num_positives == {"noise": 9, "tone": 8}
    assert len(found.scored.labels) == 16


def test_a_tag_of_every_clip_is_left_out_and_one_tag_alone_is_refused(
    music, bases, cache
):
    rows = [["path", "tags"]]
    for n in range(8):
        rows += [[f"music/{kind}/{n}.wav", f"{kind};any"] for kind in ("tone", "noise")]
    found = fit(bases[:1], csv_of(music, rows), cache)
    assert found.notes[0] == "Left out: any (every clip has it)."
    shutil.rmtree(music / "noise")
    with pytest.raises(
        ValueError, match="No tag of .* can be learnt: tone .every clip"
    ):
        fit(bases[:1], music, cache)


def test_one_artist_is_refused_with_what_to_do(music, bases, cache):
    rows = [["path", "tags", "artist"]]
    for n in range(8):
        rows += [[f"music/{kind}/{n}.wav", kind, "Anna"] for kind in ("tone", "noise")]
    with pytest.raises(ValueError, match="are by 'Anna', so no artist can be held out"):
        fit(bases[:1], csv_of(music, rows), cache)


def test_files_that_cannot_be_decoded_cost_nothing_else(music, bases, cache):
    for number in range(8):
        (music / "tone" / f"{number}.wav").write_text("no music")
    with pytest.raises(ValueError, match="8 of 16 files cannot be used, more than"):
        fit(bases[:1], music, cache)
    assert len(list(cache.folder.rglob("*.npy"))) == 8
    write(music / "tone" / "0.wav", "tone", 0)
    write(music / "tone" / "1.wav", "tone", 1)
    found = fit(bases[:1], music, cache, max_skipped=0.5)
    assert sum("Cannot decode" in note for note in found.notes) == 6


def test_rare_tags_are_learnt_but_not_judged_unless_min_clips_says_so(
    music, bases, cache
):
    write(music / "both" / "0.wav", "noise", 7)
    found = fit(bases[:1], music, cache)
    assert any("not judged: both (1 clips)" in note for note in found.notes)
    assert found.info.tags == ("both", "noise", "tone")
    assert "both" not in found.scored.tags and "both" in found.table().index
    found = fit(bases[:1], music, cache, min_clips=2)
    assert found.info.tags == ("noise", "tone")
    assert "both (1 clips; it needs at least 2)" in found.notes[0]


@pytest.mark.slow
def test_bases_that_hear_different_segments_cannot_be_joined(
    trained, bases, music, cache
):
    with pytest.raises(ValueError, match="cut music differently .rate 16000 and 22050"):
        fit([bases[0], str(trained / "model.keras")], music, cache)


def test_appending_needs_the_names_of_the_old_tags(music, bases, cache, tmp_path):
    model = narrow_model("vgg_pons")
    model.layers[-1].tags = None
    models.export.save(model, tmp_path / "nameless.keras")
    with pytest.raises(ValueError, match="it holds no tag names. Leave out `append=`"):
        fit([str(tmp_path / "nameless.keras")], music, cache, appends=True)
