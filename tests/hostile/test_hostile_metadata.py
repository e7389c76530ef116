"""What a file says of itself is checked: one sentence, never a traceback or a hang."""

import dataclasses
import json
import os
import shutil
import struct
import zipfile

import numpy as np
import pytest
from conftest import REFERENCES
from mutations import as_text, mutations

from tagger import models, storage
from tagger.data import verification
from tagger.data.clips import open_shards
from tagger.data.manifest import Manifest
from tagger.inference.embedding_files import EmbeddingFile
from tagger.inference.engines import Engine, OnnxEngine
from tagger.inference.tagger import Tagger
from tagger.models.metadata import ModelInfo
from tagger.segmentation import Segmentation, stream
from tagger.training.runs import RunFolder, StageState, badness

INFO = ModelInfo(
    "musicnn", 16000, Segmentation(4000, hop_samples=1000), 2, ("a", "b"), (0.1, 0.2)
)
KERAS = REFERENCES / "earlier_harmonic_cnn.keras"


def test_metadata_is_right_or_refused():
    num_refused = 0
    document = json.loads(json.dumps(INFO.as_dict()))
    for fields in mutations(document):
        if not isinstance(fields, dict):
            continue
        try:
            info = ModelInfo.from_dict(fields, "model.onnx")
        except ValueError as error:
            num_refused += 1
            assert len(str(error)) < 500 and "model.onnx" in str(error)
        else:
            # What passes can be used: segments come out, and end.
            clip = np.zeros(20000, np.float32)
            list(stream(iter([clip]), dataclasses.replace(info).segmentation))
            assert len(info.tags or "ab") == info.num_tags
    assert num_refused > 150


def spoil_config(path, change):
    """Copies a `.keras` file with its description changed."""
    with zipfile.ZipFile(KERAS) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                content = json.dumps(change(json.loads(content)))
            new.writestr(name, content)
    return path


def with_layer(kind, **fields):
    def change(document):
        for layer in document["config"]["layers"]:
            if layer["class_name"] == kind:
                layer["config"].update(fields)
        return document

    return change


def without(kind, field):
    def change(document):
        for layer in document["config"]["layers"]:
            if layer["class_name"] == kind:
                del layer["config"][field]
        return document

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_layer("AudioWindow", hop_samples=0), "hop_samples: Expected int >= 1"),
        (with_layer("AudioWindow", num_samples=10**12), "num_samples: Expected int <="),
        (with_layer("AudioWindow", edge_samples=-5), "edge_samples: Expected int >= 0"),
        (with_layer("AudioWindow", sample_rate=0), "sample_rate: Expected int >= 1"),
        (with_layer("AudioWindow", sample_rate="abc"), "Expected int, got str"),
        (with_layer("TagScores", tags={"a": 1}), "tags: Expected array | null"),
        (with_layer("TagScores", tags=["a", "a", "b"]), "'a' is listed twice"),
        (with_layer("TagScores", tags=["a"]), "3 scores need as many tags"),
        (with_layer("TagScores", thresholds=[0.1]), "3 scores need as many thresholds"),
        (
            with_layer("TagScores", thresholds=[float("nan")] * 3),
            "threshold is NaN or infinite",
        ),
        (with_layer("TagScores", num_tags=10**9), "num_tags: Expected int <="),
        (without("AudioWindow", "sample_rate"), "does not hold sample_rate"),
        (without("TagScores", "num_tags"), "does not hold num_tags"),
        (lambda document: None, "was not made by this project"),
        (lambda document: [], "was not made by this project"),
        (lambda document: {"config": {"layers": [1]}}, "was not made by this project"),
    ],
)
def test_a_model_file_that_lies_is_refused_before_keras_builds_it(
    change, says, tmp_path, monkeypatch
):
    monkeypatch.setattr("keras.saving.load_model", None)
    with pytest.raises(ValueError) as caught:
        models.load_model(spoil_config(tmp_path / "a.keras", change))
    assert says in str(caught.value)


def test_keras_advice_to_run_code_is_kept_from_the_user(tmp_path):
    import keras

    waveform = keras.Input((100,))
    x = models.layers.AudioInput(8000, Segmentation(100))(waveform)
    x = keras.layers.Lambda(lambda value: value * 2)(x)
    model = keras.Model(waveform, models.layers.TagScores(2, ["a", "b"])(x))
    model.save(tmp_path / "code.keras")
    with pytest.raises(ValueError, match="contains Python code") as caught:
        models.load_model(tmp_path / "code.keras")
    assert "safe_mode" not in str(caught.value)


def test_a_model_whose_outputs_are_not_scores_is_refused(tmp_path):
    import keras

    waveform = keras.Input((100,))
    x = models.layers.AudioInput(8000, Segmentation(100))(waveform)
    scores = models.layers.TagScores(2, ["a", "b"])(x)
    model = keras.Model(waveform, [scores, x])
    model.save(tmp_path / "two.keras")
    with pytest.raises(ValueError, match="does not map waveforms"):
        models.load_model(tmp_path / "two.keras")


def onnx_file(
    path, inputs=("waveform",), outputs=("scores", "embedding"), num_scores=2, **props
):
    """Writes a network that repeats a number, with any names, shapes and metadata."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        make.make_node("ReduceMax", [inputs[0]], ["loudest"], keepdims=1, axes=[1]),
        make.make_node("Tile", ["loudest", "repeats"], [outputs[0]]),
        make.make_node("Identity", ["loudest"], [outputs[-1]]),
    ][: 1 + len(outputs)]
    given = [make.make_tensor_value_info(n, kinds.FLOAT, ["b", 4000]) for n in inputs]
    made = [make.make_tensor_value_info(n, kinds.FLOAT, None) for n in outputs]
    repeats = make.make_tensor("repeats", kinds.INT64, [2], [1, num_scores])
    graph = make.make_graph(nodes, "g", given, made, [repeats])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)])
    model.ir_version = 8
    fields = INFO.as_dict() | props
    make.set_model_props(
        model, {key: json.dumps(value) for key, value in fields.items()}
    )
    onnx.save(model, str(path))
    return path


def test_an_onnx_file_that_says_the_truth_is_run(tmp_path):
    model = OnnxEngine(onnx_file(tmp_path / "a.onnx"))
    assert model.info == INFO
    found = model.run(np.ones((3, 4000), np.float32), ["scores", "embedding"])
    assert [one.shape for one in found] == [(3, 2), (3, 1)]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hop_samples": 0}, "hop_samples: Expected int >= 1"),
        ({"sample_rate": None}, "sample_rate: Expected int, got null"),
        ({"tags": {"a": 1}}, "tags: Expected array"),
        ({"tags": ["a", "a"]}, "'a' is listed twice"),
        ({"thresholds": [0.5]}, "2 scores need as many thresholds"),
        ({"num_samples": 10**12}, "num_samples: Expected int <="),
        ({"inputs": ("music",)}, "has the inputs music and the outputs scores"),
        ({"outputs": ("labels", "embedding")}, "the outputs labels, embedding, but"),
        ({"outputs": ("scores",)}, "and the outputs scores, but an exported"),
    ],
)
def test_an_onnx_file_that_lies_is_refused(fields, says, tmp_path):
    with pytest.raises(ValueError) as caught:
        OnnxEngine(onnx_file(tmp_path / "a.onnx", **fields))
    assert says in str(caught.value)


def test_an_onnx_file_that_scores_other_shapes_is_refused_when_it_does(tmp_path):
    model = OnnxEngine(onnx_file(tmp_path / "a.onnx", num_scores=5))
    with pytest.raises(ValueError, match=r"gives scores of the shape \(1, 5\), not"):
        model.run(np.ones((1, 4000), np.float32))
    with pytest.raises(ValueError, match="ONNX Runtime cannot run '.*a.onnx'"):
        model.run(np.ones((1, 5), np.float32))


class NanEngine(Engine):
    """A model that scores loud segments with NaN."""

    info = INFO

    def run(self, waveforms, outputs=("scores",)):
        loud = np.abs(waveforms).max(axis=1, keepdims=True)
        return [np.where(loud > 0.5, np.nan, 0.5) * np.ones(2, np.float32)]


def test_nan_is_an_error_of_the_file_and_not_a_result_without_tags(tmp_path):
    from tagger import audio

    for name, level in (("quiet.wav", 0.1), ("loud.wav", 0.9), ("soft.wav", 0.2)):
        wave = level * np.sin(np.arange(16000) / 9).astype(np.float32)
        audio.write_audio(tmp_path / name, wave, 16000)
    names = [str(tmp_path / name) for name in ("quiet.wav", "loud.wav", "soft.wav")]
    quiet, loud, soft = Tagger(NanEngine()).taggrams(names)
    assert "NaN" in str(loud.error) and isinstance(loud.error, ValueError)
    assert quiet.value.scores.max() == soft.value.scores.max() == 0.5


def test_a_manifest_is_right_or_refused(built, tmp_path):
    document = json.loads((built / "manifest.json").read_text())
    first = next(iter(document["shards"]))
    document["shards"] = {first: document["shards"][first]}
    document["skipped"] = [
        {"clip_id": "a", "path": "a.mp3", "reason": "x", "shard": first, "size": 3}
    ]
    shutil.copy(built / first, tmp_path)
    num_refused = 0
    for content in mutations(document):
        (tmp_path / "manifest.json").write_text(as_text(content))
        try:
            manifest = Manifest.load(tmp_path)
            assert all("/" not in name for name in manifest.shards)
            open_shards(tmp_path)
            list(verification.verify(tmp_path, manifest))
        except (ValueError, OSError) as error:
            num_refused += 1
            assert str(tmp_path) in str(error) and len(str(error)) < 500
    assert num_refused > 300


def test_the_state_of_a_run_is_right_or_refused(tmp_path):
    state, like = StageState(1, 2, 0, [{"loss": 1.0}]), {"w": np.zeros(3, np.float32)}
    for document in mutations(dataclasses.asdict(state)):
        arrays = {"state": as_text(document), "variable w": like["w"]}
        np.savez(tmp_path / "resume.npz", **arrays)
        try:
            StageState.load(tmp_path / "resume.npz", like)
        except ValueError as error:
            assert "Delete it" in str(error) and "pickle" not in str(error)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({}, "'state'"),
        ({"state": np.array([{}], object)}, "it holds a pickle"),
        ({"state": "{}", "variable w": np.zeros(9)}, "w has the shape"),
        ({"state": "{}", "variable w": np.array(["a"] * 3)}, "w has the shape"),
    ],
)
def test_a_state_with_other_arrays_says_what_to_delete(arrays, says, tmp_path):
    np.savez(tmp_path / "resume.npz", **arrays)
    with pytest.raises(ValueError, match=says) as caught:
        StageState.load(tmp_path / "resume.npz", {"w": np.zeros(3)})
    assert "Delete it" in str(caught.value)
    assert "allow_pickle" not in str(caught.value)


def test_a_state_beyond_its_epoch_is_refused():
    StageState(1, 7).check(7, "resume.npz")
    with pytest.raises(ValueError, match="ends at step 1,000,000,000 of an epoch of 7"):
        StageState(1, 10**9).check(7, "resume.npz")


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    for name in ("manifest.json", "resume.npz", "a.npy"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="is not a regular file"):
        Manifest.load(tmp_path)
    with pytest.raises(ValueError, match="is not a regular file"):
        StageState.load(tmp_path / "resume.npz", {"w": np.zeros(3)})
    (tmp_path / "a.npy.json").write_text('{"model": "m", "layer": "x", "paths": []}')
    with pytest.raises(ValueError, match="is not a regular file"):
        EmbeddingFile.load(tmp_path / "a.npy")


def test_a_record_that_claims_to_be_endless_is_a_fault(built, tmp_path):
    manifest = Manifest.load(built)
    name = manifest.shard_names("val")[0]
    content = bytearray((built / name).read_bytes())
    for length in (1 << 62, len(content)):
        content[:8] = struct.pack("<Q", length)
        content[8:12] = storage.masked_crc(bytes(content[:8]))
        (tmp_path / name).write_bytes(content)
        faults = dict(verification.verify(tmp_path, manifest))[name]
        assert "record 0 is corrupted" in faults


def test_files_that_only_look_like_checkpoints_are_left_alone(tmp_path):
    folder = tmp_path / "0"
    folder.mkdir()
    for name in ("ckpt-e=x.keras", "ckpt-e1-val_loss=.keras", "ckpt-e1-a=b=1.keras"):
        (folder / name).touch()
    run = RunFolder(tmp_path)
    assert run.best_checkpoint(1) is None
    for value in (0.25, 1e-7, 3.0):
        path = run.stage(0).checkpoint_path(3, "val_loss", value)
        path.touch()
        assert path in run.stage(0).checkpoints() and badness(path) == value


def test_a_library_is_right_or_refused(tmp_path):
    held = EmbeddingFile({"model": "m"}, ["a.mp3", "b.mp3"], [np.ones(3), np.zeros(3)])
    held.save(tmp_path / "a.npy")
    beside = tmp_path / "a.npy.json"
    for document in mutations(json.loads(beside.read_text())):
        beside.write_text(as_text(document))
        try:
            loaded = EmbeddingFile.load(tmp_path / "a.npy")
            assert all(vector.shape == (3,) for vector in loaded.rows)
        except ValueError as error:
            assert "does not hold embeddings" in str(error)
