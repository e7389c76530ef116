"""Exported models give the model's scores, in runtimes without our package."""

import json
import os
import zipfile

import keras
import numpy as np
import pytest
from conftest import REFERENCES, REPOSITORY, fails, needs_bfloat16

from tagger import audio, models
from tagger.inference import embeddings, streaming
from tagger.inference import tagger as tagging
from tagger.inference.engines import OnnxEngine
from tagger.interpretation import report
from tagger.models import export
from tagger.models.metadata import EXPORT_FORMATS, ModelInfo
from tagger.weights import pretrained

TAGS = ("guitar", "techno", "female voice", "slow", "strings")


def saved_model(path, segments):
    import tensorflow as tf

    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    (scores,) = serve(tf.constant(segments)).values()
    return scores.numpy(), json.loads((path / "assets.extra/tagger.json").read_text())


def litert(path, segments):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        str(path)
    )
    run, scores = interpreter.get_signature_runner(), []
    for segmentation in segments:
        scores += run(waveform=segmentation[None]).values()
    with zipfile.ZipFile(path) as archive:
        described = json.loads(archive.read("tagger.json"))
        assert archive.read("labels.txt").decode().split("\n")[:-1] == described["tags"]
    return np.concatenate(scores), described


def onnx(path, segments):
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    (scores,) = session.run(["scores"], {"waveform": segments})
    held = session.get_modelmeta().custom_metadata_map
    return scores, {key: json.loads(value) for key, value in held.items()}


def real_audio(info):
    """Returns two segments of a recording [2, num_samples]."""
    samples = audio.load_audio(REFERENCES / "stereo.mp3", info.sample_rate)
    return np.resize(samples, (2, info.segmentation.num_samples))


@pytest.mark.parametrize(
    "run",
    [
        onnx,
        pytest.param(litert, marks=pytest.mark.slow),
        pytest.param(saved_model, marks=pytest.mark.slow),
    ],
    ids=lambda run: run.__name__,
)
@pytest.mark.parametrize(
    "name, options",
    [
        ("sample_cnn", {"num_filters": 8}),
        pytest.param("musicnn_pons", {}, marks=pytest.mark.slow),
        pytest.param("cnn_self_attention", {}, marks=pytest.mark.slow),
        pytest.param(
            "music_tagging_transformer", {"size": "student"}, marks=pytest.mark.slow
        ),
    ],
)
def test_an_exported_model_scores_real_audio_alike(name, options, run, tmp_path):
    model = models.build_model(name, num_tags=5, tags=TAGS, **options)
    to = run.__name__.replace("_", "-")
    if to == "litert" and tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13):
        pytest.skip("Keras writes LiteRT from 3.13 on")
    path = tmp_path / f"model{EXPORT_FORMATS[to]}"
    assert export.export(model, path, to) == path
    segments = real_audio(models.model_info(model))
    scores, described = run(path, segments)
    # float32 sums in another order
    np.testing.assert_allclose(scores, model.predict_on_batch(segments), atol=5e-6)
    assert described["tags"] == list(TAGS)
    assert ModelInfo.from_dict(described, "model.onnx") == models.model_info(model)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@needs_bfloat16
def test_mixed_precision_is_exported_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.build_model("sample_cnn", num_tags=5, tags=TAGS, num_filters=4)
    finally:
        keras.config.set_dtype_policy("float32")
    export.export(model, tmp_path / "x.onnx", "onnx")
    segments = real_audio(models.model_info(model))
    scores, _ = onnx(tmp_path / "x.onnx", segments)
    exact = models.build_model("sample_cnn", num_tags=5, tags=TAGS, num_filters=4)
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(scores, exact.predict_on_batch(segments), atol=5e-6)


@pytest.mark.parametrize(
    "name, to, said",
    [
        ("m.onnx", "coreml", "Unknown format 'coreml'. Choose one of: saved-model"),
        ("m.tflite", "onnx", "must end in .onnx, not 'm.tflite'"),
        ("m.onnx", "saved-model", "is a folder, not 'm.onnx'"),
        ("there", "saved-model", "exists. Choose another path"),
    ],
)
def test_what_does_not_fit_is_said(name, to, said, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/notes.txt").touch()
    with pytest.raises((ValueError, FileExistsError), match=said):
        export.export(None, tmp_path / name, to)
    with pytest.raises(
        (ValueError, FileExistsError),
        match=said.replace("exists", "is a folder that holds no SavedModel"),
    ):
        export.export(None, tmp_path / name, to, force=True)
    assert sorted(tmp_path.rglob("*")) == [
        tmp_path / "there",
        tmp_path / "there/notes.txt",
    ]


@pytest.mark.slow
def test_the_command_says_what_goes_in_and_out(trained, tmp_path, run_script):
    done = run_script(
        *("-m", "tagger", "models", "export", trained / "model.keras"),
        *("--to", "onnx", "--output", tmp_path / "m.onnx"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{tmp_path / 'm.onnx'}: waveforms [batch, 59049] at 22050 Hz -> scores"
        " [batch, 10]\n"
    )


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Exports a trained model with thresholds as ONNX."""
    for package in ("onnxruntime", "onnx", "tf2onnx"):
        pytest.importorskip(package)
    model = models.load_model(trained / "model.keras")
    models.set_thresholds(model, np.full(10, 0.25))
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return model, export.export(model, path, "onnx")


def test_an_onnx_model_tags_as_the_model_it_was_made_of(exported):
    model, path = exported
    ours, onnx = tagging.Tagger(model), tagging.Tagger(OnnxEngine(path))
    assert onnx.info == ours.info and onnx.thresholds() == ours.thresholds()
    for name in ("stereo.mp3", "mono.mp3"):
        expected, found = (t.taggram(REFERENCES / name, 1.0) for t in (ours, onnx))
        np.testing.assert_allclose(found.scores, expected.scores, atol=5e-6)
        np.testing.assert_array_equal(found.seconds, expected.seconds)


def test_tagging_with_an_onnx_model_starts_neither_keras_nor_tensorflow(
    exported, tmp_path, run_script
):
    for name in ("keras", "tensorflow"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not needed')")
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    done = run_script(
        *("-m", "tagger", "tag", REFERENCES / "mono.mp3", "--model", exported[1]),
        *("--json", "--threshold", "model", "--output", tmp_path / "tags.csv"),
        *("--plot", tmp_path / "taggram.png"),
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    tags = tagging.Tagger(exported[0]).tag(REFERENCES / "mono.mp3")
    expected = {tag: score for tag, score in tags.items() if score >= 0.25}
    assert json.loads(done.stdout)["tags"] == pytest.approx(expected, abs=5e-6)
    assert (tmp_path / "tags.csv").exists() and (tmp_path / "taggram.png").exists()


def test_a_first_tag_loads_nothing_heavy(exported, tmp_path, run_script):
    heavy = ("keras", "tensorflow", "jax", "torch", "pandas", "sklearn", "matplotlib")
    for name in (*heavy, "scipy", "onnx"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not needed')")
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    done = run_script(
        *("-m", "tagger", "tag", REFERENCES / "mono.mp3", "--model", exported[1]),
        *("--json", "--output", tmp_path / "tags.jsonl"),
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr


def test_workers_give_the_same_in_the_same_order(exported, tmp_path, run_script):
    (tmp_path / "bad.mp3").write_bytes(b"no music")
    songs = [REFERENCES / "stereo.mp3", tmp_path / "bad.mp3", REFERENCES / "mono.mp3"]
    found = {}
    for number in (1, 2):
        done = run_script(
            *("-m", "tagger", "tag", *songs, "--model", exported[1], "--json"),
            *("--num-workers", number),
        )
        assert done.returncode == 2, done.stderr
        found[number] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in found[2]] == [str(song) for song in songs]
    assert "Cannot decode" in found[2][1]["error"]
    for one, other in zip(found[1], found[2], strict=True):
        assert one.get("error") == other.get("error")
        assert one.get("tags", {}) == pytest.approx(other.get("tags", {}), abs=1e-6)
        assert one.get("seconds") == other.get("seconds")


def test_workers_only_decode_for_an_engine_that_stays_here(exported):
    songs = [str(REFERENCES / "mono.mp3"), str(REFERENCES / "no.mp3")]
    tagger = tagging.Tagger(exported[0])
    assert tagger.engine.spec is None
    found, expected = (
        list(tagger.taggrams(songs, options=streaming.StreamOptions(num_workers=n)))
        for n in (2, 1)
    )
    np.testing.assert_allclose(found[0].value.scores, expected[0].value.scores)
    assert str(found[1].error) == str(expected[1].error)


def test_excerpts_are_scored_where_they_lie(exported, tmp_path):
    rate = exported[0].layers[1].sample_rate
    random = np.random.default_rng(0)
    waveform = random.uniform(-0.3, 0.3, 59049 * 9).astype(np.float32)
    tagger = tagging.Tagger(OnnxEngine(exported[1]))
    (found,) = tagger.taggrams(
        [(waveform, rate)], options=streaming.StreamOptions(num_excerpts=3)
    )
    found = found.get()
    # The middles of the three thirds are segments 1, 4 and 7 of nine.
    whole = tagger.taggram((waveform, rate))
    np.testing.assert_allclose(found.scores, whole.scores[1::3], atol=1e-5)
    np.testing.assert_allclose(found.seconds, whole.seconds[1::3], atol=1e-4)
    assert found.length_seconds == pytest.approx(whole.length_seconds)


def test_onnx_files_that_do_not_serve_are_named(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    with pytest.raises(FileNotFoundError, match="There is no model file"):
        OnnxEngine(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(exported[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match="ONNX Runtime cannot read .*: "):
        OnnxEngine(tmp_path / "cut.onnx")
    foreign = onnx.load(exported[1])
    foreign.metadata_props.add(key="author", value="no JSON")
    onnx.save(foreign, tmp_path / "signed.onnx")
    assert OnnxEngine(tmp_path / "signed.onnx").info == OnnxEngine(exported[1]).info
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="does not hold name, sample_rate, num_tags"):
        OnnxEngine(tmp_path / "foreign.onnx")


def test_what_needs_layers_refuses_an_exported_model(exported, tmp_path, run_script):
    with pytest.raises(ValueError, match="an ONNX file, which Keras cannot run"):
        pretrained.load(exported[1])
    with pytest.raises(ValueError, match="an ONNX file, which Keras cannot run"):
        embeddings.Embedder(str(exported[1]), "block1_conv")
    model = OnnxEngine(exported[1])
    with pytest.raises(ValueError, match="in onnx, which does not know its layers"):
        report.explain(tagging.Tagger(model), REFERENCES / "mono.mp3", tmp_path)


def test_an_onnx_model_without_tags_says_what_names_them(
    exported, tmp_path, run_script
):
    onnx = pytest.importorskip("onnx")
    unnamed = onnx.load(exported[1])
    for held in unnamed.metadata_props:
        if held.key == "tags":
            held.value = "null"
    onnx.save(unnamed, tmp_path / "unnamed.onnx")
    done = run_script(
        *("-m", "tagger", "tag", REFERENCES / "mono.mp3", "--json"),
        *("--model", tmp_path / "unnamed.onnx"),
    )
    fails(done, "holds no tag names", "models convert --tag-file")
