"""Exported models give the model's scores, in runtimes that know nothing of us."""

import json
import zipfile

import keras
import numpy as np
import pytest
from conftest import REFERENCES

from tagger import audio, export, models

TAGS = ("guitar", "techno", "female voice", "slow", "strings")


def saved_model(path, windows):
    import tensorflow as tf

    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    (scores,) = serve(tf.constant(windows)).values()
    return scores.numpy(), json.loads((path / "assets.extra/tagger.json").read_text())


def litert(path, windows):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        str(path)
    )
    run, scores = interpreter.get_signature_runner(), []
    for window in windows:
        scores += run(waveform=window[None]).values()
    with zipfile.ZipFile(path) as archive:
        described = json.loads(archive.read("tagger.json"))
        assert archive.read("labels.txt").decode().split("\n")[:-1] == described["tags"]
    return np.concatenate(scores), described


def onnx(path, windows):
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    (scores,) = session.run(["scores"], {"waveform": windows})
    held = session.get_modelmeta().custom_metadata_map
    return scores, {key: json.loads(value) for key, value in held.items()}


def real_audio(info):
    """Two windows of a recording [2, num_samples]."""
    samples = audio.load_audio(REFERENCES / "stereo.mp3", info.sample_rate)
    return np.resize(samples, (2, info.window.num_samples))


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
    path = tmp_path / f"model{export.FORMATS[to]}"
    assert export.export(model, path, to) == path
    windows = real_audio(models.model_info(model))
    scores, described = run(path, windows)
    # float32 in another order
    np.testing.assert_allclose(scores, model.predict_on_batch(windows), atol=5e-6)
    assert described == export.describe(model)
    assert described["tags"] == list(TAGS)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_mixed_precision_is_exported_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.build_model("sample_cnn", num_tags=5, tags=TAGS, num_filters=4)
    finally:
        keras.config.set_dtype_policy("float32")
    export.export(model, tmp_path / "x.onnx", "onnx")
    windows = real_audio(models.model_info(model))
    scores, _ = onnx(tmp_path / "x.onnx", windows)
    exact = models.build_model("sample_cnn", num_tags=5, tags=TAGS, num_filters=4)
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(scores, exact.predict_on_batch(windows), atol=5e-6)


@pytest.mark.parametrize(
    "name, to, said",
    [
        ("m.onnx", "coreml", "Unknown format 'coreml'. Choose one of: saved-model"),
        ("m.tflite", "onnx", "must end in .onnx, not 'm.tflite'"),
        ("m.onnx", "saved-model", "is a folder, not 'm.onnx'"),
        ("there", "saved-model", "exists. Choose another folder"),
    ],
)
def test_what_does_not_fit_is_said(name, to, said, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises((ValueError, FileExistsError), match=said):
        export.export(None, tmp_path / name, to)
    assert [one.name for one in tmp_path.iterdir()] == ["there"]


@pytest.mark.slow
def test_the_command_says_what_goes_in_and_out(trained, tmp_path, run_script):
    done = run_script(
        *("-m", "tagger", "export", trained / "model.keras"),
        *("--to", "onnx", "--output", tmp_path / "m.onnx"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{tmp_path / 'm.onnx'}: waveforms [batch, 59049] at 22050 Hz -> scores"
        " [batch, 10]\n"
    )
