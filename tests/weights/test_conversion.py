"""Conversion is strict: all arrays are used and fit, or both sides are listed."""

import contextlib
import json
import pathlib
import pickle

import keras
import numpy as np
import pytest
from conftest import REFERENCES
from narrow import scores_of as forward
from test_originals import narrow_reference, original

from tagger import models
from tagger.datasets import magnatagatune
from tagger.datasets.annotations import read_tags
from tagger.weights import checkpoints, conversion, pretrained, readers, tables

LEGACY = REFERENCES / "rese_multi.hdf5"


@pytest.fixture(scope="module")
def transformer():
    """Returns weights, waveform and scores of the original Transformer."""
    return original("music_tagging_transformer")


@pytest.fixture
def npz(tmp_path, transformer):
    np.savez(tmp_path / "weights.npz", **transformer[0])
    return tmp_path / "weights.npz"


def scores_of(path, transformer):
    weights = readers.read_weights(path)
    model = conversion.convert(
        weights, "music_tagging_transformer", num_samples=transformer[1].shape[1]
    )
    return forward(model, transformer[1])


# --- Keras 2 --------------------------------------------------------------------------


def test_legacy_hdf5_of_a_class_named_tfrecordmodel_scores_as_it_did():
    model = pretrained.load(LEGACY)
    _, waveform, scores, _ = narrow_reference("rese", True)
    np.testing.assert_allclose(model.predict(waveform, verbose=0), scores, atol=1e-5)
    info = models.model_info(model)
    assert (info.sample_rate, info.tags) == (22050, None)
    assert info.segmentation.num_samples == 59049


def test_layers_counted_from_later_in_a_session_are_counted_from_one():
    weights, waveform, scores, _ = narrow_reference("rese", True)

    def later(name):
        layer, weight = name.split("/")
        kind, _, number = layer.rpartition("_")
        return f"{kind}_{int(number) + 96}/{weight}"  # numbers cross from 99 to 100

    renamed = {later(name): array for name, array in weights.items()}
    model = conversion.convert(readers.number_from_one(renamed), "sample_cnn")
    np.testing.assert_allclose(model.predict(waveform, verbose=0), scores, atol=1e-5)


# --- Options --------------------------------------------------------------------------


def test_fifty_scores_of_resemul_have_names():
    weights = readers.read_weights(LEGACY)
    kernel, bias = (f"dense_20/{name}:0" for name in ("kernel", "bias"))
    assert weights[kernel].shape[1] == len(weights[bias]) < 50
    weights[bias] = np.zeros(50, np.float32)
    weights[kernel] = np.zeros((len(weights[kernel]), 50), np.float32)
    info = models.model_info(conversion.convert(weights, "sample_cnn"))
    assert info.tags[:3] == ("choral", "female voice", "metal")
    assert info.tags == magnatagatune.TOP_50_TAGS[::-1]
    own = tuple(map(str, range(50)))
    model = conversion.convert(weights, "sample_cnn", tags=own)
    assert models.model_info(model).tags == own
    # `convert --tag-file mtt` gives the same order.
    assert pretrained.vocabulary("mtt", "sample_cnn") == info.tags
    assert pretrained.vocabulary("mtt", "musicnn")[0] == "guitar"
    assert pretrained.vocabulary("tags.txt", "musicnn") is None


def test_options_are_read_from_the_shapes():
    def inferred(weights, name):
        shapes = {source: array.shape for source, array in weights.items()}
        return conversion.TABLES[name](shapes)[0]

    assert inferred(narrow_reference("se", False)[0], "sample_cnn") == {
        "num_tags": 5, "block": "se", "multi": False, "alpha": 16, "num_filters": 4,
    }  # fmt: skip
    assert inferred(original("self_attention|lee_won")[0], "self_attention") == {
        "front_end": "lee", "back_end": "attention", "num_filters": 2, "channels": 16,
        "num_layers": 2, "num_tags": 7,
    }  # fmt: skip
    weights = original("music_tagging_transformer")[0]
    assert inferred(weights, "music_tagging_transformer") == {
        "num_tags": 7, "size": "teacher", "num_filters": 4, "channels": 16,
        "num_layers": 2, "max_length": 120,
    }  # fmt: skip


def test_given_options_outrank_the_shapes(transformer):
    weights, waveform, scores = transformer
    options = {"num_samples": waveform.shape[1], "num_heads": 2}
    model = conversion.convert(weights, "music_tagging_transformer", **options)
    assert model.get_layer("encoder1_attention").num_heads == 2
    assert np.abs(forward(model, waveform) - scores).max() > 1e-3


def test_a_fractional_amplifying_ratio_is_found():
    model = models.build_model("sample_cnn", num_filters=4, alpha=0.3, num_tags=2)
    shapes = {}
    for i in range(1, 10):
        gate = model.get_layer(f"block{i}_excitation")
        shapes[f"dense_{2 * i - 1}/kernel:0"] = tuple(gate.squeeze.kernel.shape)
    ratio = tables._amplifying_ratio(shapes)
    assert all(int(c * ratio) == hidden for c, hidden in shapes.values())


def test_a_front_end_the_weights_do_not_have_is_refused():
    weights = original("self_attention|pons_won")[0]
    with pytest.raises(ValueError, match="have the front_end 'pons', not 'lee'"):
        conversion.convert(weights, "self_attention", front_end="lee")


# --- Strictness -----------------------------------------------------------------------


def test_missing_left_over_and_misshapen_arrays_are_listed_on_both_sides():
    weights, *_ = narrow_reference("basic", True)
    del weights["conv1d_5/bias:0"]
    weights["extra_1/kernel:0"] = np.zeros((2, 2))
    weights["conv1d_3/kernel:0"] = weights["conv1d_3/kernel:0"][:, :1]
    with pytest.raises(ValueError) as caught:
        conversion.convert(weights, "sample_cnn")
    message = str(caught.value)
    assert "conv1d_5/bias:0: not in the file, model (8,) (block4_conv.bias)" in message
    assert "extra_1/kernel:0: file (2, 2), not in the model" in message
    assert "conv1d_3/kernel:0: file (3, 1, 4), model (3, 4, 4)" in message


def test_a_class_token_must_be_given_where_it_is_learned(transformer):
    weights = dict(transformer[0])
    del weights["cls_token"]
    with pytest.raises(ValueError, match=r"cls_token: not in the file, model \(16,\)"):
        conversion.convert(weights, "music_tagging_transformer")


def test_weights_of_another_model_are_refused(transformer):
    with pytest.raises(ValueError, match="These are not fcn weights: key 'dense"):
        conversion.convert(transformer[0], "fcn")
    with pytest.raises(ValueError, match="These are not sample_cnn weights"):
        conversion.convert({"lstm_1/kernel:0": np.zeros(3)}, "sample_cnn")
    with pytest.raises(
        ValueError, match="Unknown model 'vgg42'. Choose one of: sample"
    ):
        conversion.convert(transformer[0], "vgg42")


# --- Files ----------------------------------------------------------------------------


def test_npz_scores_as_the_original(npz, transformer):
    np.testing.assert_allclose(
        scores_of(npz, transformer), transformer[2], atol=1e-4
    )  # see test_originals.py


@pytest.mark.parametrize("wrapped", ["bare", "parallel", "lightning", "student"])
def test_torch_files_score_as_the_original(wrapped, tmp_path, transformer):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(array) for name, array in transformer[0].items()}
    state["frontend.input_bn.num_batches_tracked"] = torch.tensor(3)
    if wrapped == "parallel":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    elif wrapped != "bare":
        state = {f"network.{name}": tensor for name, tensor in state.items()}
        if wrapped == "student":
            state["teacher_network.cls_token"] = torch.zeros(3)
        state = {"epoch": 3, "global_step": 40, "state_dict": state}
    torch.save(state, tmp_path / "model.ckpt")
    scores = scores_of(tmp_path / "model.ckpt", transformer)
    np.testing.assert_allclose(scores, transformer[2], atol=1e-4)


def test_half_precision_torch_files_are_read_as_float32(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "a.pth")
    assert readers.read_weights(tmp_path / "a.pth")["a"].dtype == np.float32


class Malicious:
    """Shows what a pickle can do: it writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_would_run_code_is_refused_and_never_run(tmp_path):
    torch = pytest.importorskip("torch")
    written = tmp_path / "written"
    torch.save({"a": Malicious(written)}, tmp_path / "a.pth")
    pickled = pickle.dumps({"a": Malicious(written)})  # not a file that torch wrote
    (tmp_path / "b.pth").write_bytes(pickled)
    for name, message in {
        "a.pth": "is refused: besides tensors it would load",
        "b.pth": "is not a PyTorch file of tensors",
    }.items():
        with pytest.raises(ValueError, match=message):
            readers.read_weights(tmp_path / name)
    np.savez(tmp_path / "c.npz", a=np.array([Malicious(written)], dtype=object))
    with pytest.raises(ValueError, match="is refused: it holds a pickle"):
        readers.read_weights(tmp_path / "c.npz")
    assert not written.exists()


def test_a_torch_file_with_more_than_tensors_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(2), "b": "text"}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="is not a state dict: 'b' does not name"):
        readers.read_weights(tmp_path / "a.pth")


def test_without_torch_a_hint_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(ImportError, match="pip install torch"):
        readers.read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("prefix", ["", "model"])
def test_tensorflow_1_checkpoints_score_as_the_original(prefix, tmp_path):
    import tensorflow as tf

    weights, patches, scores = original("vgg_pons")
    held = weights | {"1CNN/kernel/Adam": np.zeros(2), "beta1_power": np.float32(0.9)}
    tf.raw_ops.SaveV2(
        prefix=f"{tmp_path}/{prefix}",
        tensor_names=list(held),
        shape_and_slices=[""] * len(held),
        tensors=list(held.values()),
    )
    model = conversion.convert(readers.read_weights(tmp_path), "vgg_pons")
    ours = forward(models.feature_network(model), patches)
    np.testing.assert_allclose(ours, scores, atol=1e-5)


def test_checkpoints_are_read_as_tensorflow_reads_them(tmp_path):
    import tensorflow as tf

    random = np.random.default_rng(0)
    held = {
        f"{scope}/{kind}": (10 * random.standard_normal(shape)).astype(kind)
        for scope, shape in {
            "a": (3, 5),
            "a/b": (),
            "c": (0, 2),
            "d": (70_000,),
        }.items()
        for kind in ("float32", "float64", "int32", "int64", "uint8", "bool")
    }
    prefix = f"{tmp_path}/model"
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(held),
        shape_and_slices=[""] * len(held),
        tensors=list(held.values()),
    )
    found = checkpoints.read_checkpoint(prefix, 1 << 30)
    assert found.keys() == held.keys()
    for name, array in held.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match="take more than"):
        checkpoints.read_checkpoint(prefix, 1 << 10)
    index = pathlib.Path(f"{prefix}.index")
    whole = index.read_bytes()
    for place in range(0, len(whole), 7):  # a flipped bit is seen, or does not matter
        index.write_bytes(
            whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        )
        with contextlib.suppress(ValueError):
            again = readers.read_tensorflow_checkpoint(prefix)
            assert all((again[name] == held[name]).all() for name in held)
    for cut in (0, 10, 48, len(whole) - 1):
        index.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="is not a TensorFlow checkpoint"):
            readers.read_tensorflow_checkpoint(prefix)
    index.write_bytes(whole)
    data = pathlib.Path(f"{prefix}.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:-9] + b"?" + data.read_bytes()[-8:])
    with pytest.raises(ValueError, match="does not match its checksum"):
        readers.read_tensorflow_checkpoint(prefix)


def test_files_that_are_none_of_these_say_so(tmp_path):
    for name, message in {
        "text.hdf5": "is not a Keras 2 model file",
        "text.npz": "is not an .npz file",
        "text.doc": "Unknown type of weight file",
        "text.index": "is not a TensorFlow checkpoint",
    }.items():
        (tmp_path / name).write_text("no weights")
        with pytest.raises(ValueError, match=message):
            readers.read_weights(tmp_path / name)
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(ValueError, match="holds no weights"):
        readers.read_weights(tmp_path / "empty.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' holds no .index file"):
        readers.read_weights(tmp_path / "empty")
    for name in ("nothing.hdf5", "nothing.pth", "folder"):
        with pytest.raises(FileNotFoundError, match="There is no weight file"):
            readers.read_weights(tmp_path / name)


def test_a_damaged_torch_file_says_so(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="is not a PyTorch file of tensors"):
        readers.read_weights(tmp_path / "text.pth")


# --- The command ----------------------------------------------------------------------


@pytest.mark.slow
def test_convert_writes_a_model_that_knows_its_tags(npz, tmp_path, run_script):
    tags = [f"tag {number}" for number in range(7)]
    (tmp_path / "tags.txt").write_text("\n".join(tags) + "\n")
    (tmp_path / "tags.json").write_text(json.dumps(tags))
    assert read_tags(tmp_path / "tags.json") == tuple(tags)
    done = run_script(
        "-m", "tagger", "models", "convert", npz, "--architecture",
        "music_tagging_transformer",
        "--output", tmp_path / "out.keras", "--tag-file", tmp_path / "tags.txt",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "7 tags named by" in done.stdout and "22050 Hz" in done.stdout
    model = models.load_model(tmp_path / "out.keras")
    assert models.model_info(model).tags == tuple(tags)
    assert isinstance(model, keras.Model)


def test_a_conversion_that_fails_writes_nothing(tmp_path, transformer, run_script):
    weights = dict(transformer[0])
    weights["extra"] = np.zeros(2, np.float32)
    np.savez(tmp_path / "weights.npz", **weights)
    done = run_script(
        "-m", "tagger", "models", "convert", tmp_path / "weights.npz", "--output",
        tmp_path / "out.keras", "--architecture", "music_tagging_transformer",
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "extra: file (2,), not in the model" in done.stderr
    assert not list(tmp_path.glob("*.keras"))


def test_tags_that_do_not_fit_are_refused(tmp_path, transformer):
    with pytest.raises(ValueError, match="7 scores need as many tags. Received: 2"):
        conversion.convert(transformer[0], "music_tagging_transformer", tags=("a", "b"))
    with pytest.raises(ValueError, match="Tag 'c' is listed twice"):
        conversion.convert(transformer[0], "music_tagging_transformer", tags="abcdecf")
    for text in ('{"tags": "rock"}', '["rock", ""]', "[]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match="holds no tag names"):
            read_tags(tmp_path / "bad.json")
    (tmp_path / "80s.txt").write_text("80\n")
    assert read_tags(tmp_path / "80s.txt") == ("80",)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a text file"):
        read_tags(tmp_path / "binary.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="holds no tag names"):
        read_tags(tmp_path / "empty.txt")
    with pytest.raises(FileNotFoundError, match="There is no tag file"):
        read_tags(tmp_path / "nothing.txt")
