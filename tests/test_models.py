"""Contracts of every model in MODELS, and the numbers of the original ones."""

import os
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from conftest import REFERENCES, REPOSITORY

from tagger import conversion, models
from tagger.layers import AudioWindow, SqueezeExcitation, TagScores

BLOCKS = ("basic", "se", "res", "rese")
NARROW = {"sample_cnn": {"num_filters": 2, "alpha": 2}}


@pytest.fixture(params=models.MODELS)
def narrow(request):
    keras.utils.set_random_seed(0)
    tags = ("rock", "slow", "ünïcode")
    return models.build_model(
        request.param, num_tags=3, tags=tags, **NARROW[request.param]
    )


def noise(model, batch_size=2):
    info = models.model_info(model)
    return (
        np.random.RandomState(0)
        .uniform(-1, 1, (batch_size, info.num_samples))
        .astype("f")
    )


# --- Contracts ------------------------------------------------------------------------


def test_scores_are_probabilities_per_tag(narrow):
    scores = narrow.predict(noise(narrow), verbose=0)
    assert scores.shape == (2, 3) and scores.dtype == np.float32
    assert ((scores > 0) & (scores < 1)).all()


def test_entry_and_model_agree(narrow):
    info, entry = models.model_info(narrow), models.MODELS[narrow.name]
    assert (info.sample_rate, info.num_samples) == (
        entry.sample_rate,
        entry.num_samples,
    )
    assert info.tags == ("rock", "slow", "ünïcode")


@pytest.mark.parametrize("name", models.MODELS)
def test_published_scores_belong_to_models_that_can_be_built(name):
    from tagger import training

    entry = models.MODELS[name]
    assert entry.recipe in training.RECIPES
    for published in entry.published:
        assert 0.5 < published.roc_auc < 1
        assert models.build_model(name, **NARROW[name] | published.options)


def test_a_saved_model_carries_tags_rate_and_window_and_scores_the_same(
    narrow, tmp_path
):
    narrow.save(tmp_path / "model.keras")
    loaded = models.load_model(tmp_path / "model.keras")
    assert models.model_info(loaded) == models.model_info(narrow)
    x = noise(narrow)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), narrow.predict(x, verbose=0)
    )


def test_layer_names_are_unique_and_chosen(narrow):
    names = [layer.name for layer in narrow.layers]
    assert len(set(names)) == len(names)
    # Keras calls a layer without a name conv1d, conv1d_1, max_pooling1d_7 …
    assert not [
        name for name in names if re.fullmatch(r".*1d(_\d+)?|dense(_\d+)?", name)
    ]


def test_gradient_reaches_every_trainable_weight(narrow):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(narrow(noise(narrow, 4), training=True) - 0.3))
    for weight, gradient in zip(
        narrow.trainable_weights,
        tape.gradient(loss, narrow.trainable_weights),
        strict=True,
    ):
        assert gradient is not None and np.isfinite(gradient).all(), weight.path


def test_scores_do_not_depend_on_batch_neighbours(narrow):
    x = noise(narrow, 3)
    x[1] *= 1e-3
    together = narrow.predict(x, verbose=0)
    alone = narrow.predict(x[1:2], verbose=0)
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)  # float32 sums by batch


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_scores_stay_close(narrow, policy):
    x = noise(narrow)
    exact = narrow.predict(x, verbose=0)
    keras.config.set_dtype_policy(policy)
    try:
        mixed = models.build_model(narrow.name, num_tags=3, **NARROW[narrow.name])
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(narrow.get_weights())
    scores = mixed.predict(x, verbose=0)
    assert scores.dtype == np.float32
    # bfloat16 keeps 8 bits: some 1e-2 after eleven layers; float16 keeps 11.
    np.testing.assert_allclose(scores, exact, atol=3e-2 if "b" in policy else 5e-3)


def test_int16_feed_scores_as_the_waveform_does(narrow):
    x = (
        np.random.RandomState(0)
        .randint(-32768, 32767, noise(narrow).shape)
        .astype(np.int16)
    )
    fed = models.fed_with(narrow, "int16").predict_on_batch(x)
    np.testing.assert_allclose(
        fed, narrow.predict_on_batch(x.astype("f") / 32768), atol=1e-6
    )
    assert models.fed_with(narrow, "float32") is narrow


def test_every_backend_gives_the_same_scores(narrow, tmp_path):
    narrow.save(tmp_path / "model.keras")
    x = noise(narrow)
    np.save(tmp_path / "x.npy", x)
    expected = narrow.predict(x, verbose=0)
    code = (
        "import sys, numpy as np; from tagger import models\n"
        "folder = sys.argv[1]\n"
        "model = models.load_model(f'{folder}/model.keras')\n"
        "scores = model.predict(np.load(f'{folder}/x.npy'), verbose=0)\n"
        "np.save(f'{folder}/y.npy', scores)\n"
        "assert 'tensorflow' not in sys.modules, 'models import TensorFlow'\n"
    )
    tried = 0
    for backend in ("jax", "torch"):
        if subprocess.run(
            [sys.executable, "-c", f"import {backend}"], capture_output=True
        ).returncode:
            continue
        environment = os.environ | {"KERAS_BACKEND": backend}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=REPOSITORY, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        # float32 sums in another order
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)
        tried += 1
    if not tried:
        pytest.skip("neither jax nor torch is installed")


def test_unknown_names_and_options_say_what_to_choose():
    with pytest.raises(
        ValueError, match="Unknown model 'vgg42'. Choose one of: sample_cnn"
    ):
        models.build_model("vgg42")
    with pytest.raises(ValueError, match="Unknown block 'x'. Choose one of: se, rese"):
        models.build_model("sample_cnn", block="x")
    with pytest.raises(ValueError, match="at least 59049 samples, not 100"):
        models.build_model("sample_cnn", num_samples=100)
    with pytest.raises(ValueError, match="3 tags need 3 names. Received: 2"):
        TagScores(3, ("a", "b"))
    with pytest.raises(ValueError, match="must be 'drop' or 'pad'"):
        AudioWindow(16000, 100, "cut")


def test_a_file_that_is_no_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model file"):
        models.load_model(tmp_path / "nothing.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="is no .keras model file"):
        models.load_model(tmp_path / "text.keras")
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as file:
        file.writestr("a.txt", "no model")
    with pytest.raises(ValueError, match="is no model Keras can read"):
        models.load_model(tmp_path / "zip.keras")
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="is no tagger of this project"):
        models.load_model(tmp_path / "other.keras")


# --- The original sample-level CNNs ---------------------------------------------------


@pytest.mark.parametrize(
    ("block", "multi", "parameters"),
    [  # counted on the original's models
        ("se", True, 24749618), ("se", False, 23935026),
        ("rese", True, 26993202), ("rese", False, 26178610),
        ("res", True, 4933938), ("res", False, 4119346),
        ("basic", True, 2690354), ("basic", False, 1875762),
    ],
)  # fmt: skip
def test_parameters_are_as_many_as_the_originals(block, multi, parameters):
    model = models.build_model("sample_cnn", block=block, multi=multi)
    assert model.count_params() == parameters


def test_initialisation_and_normalisation_are_the_originals():
    model = models.build_model(
        "sample_cnn", block="rese", num_filters=4, weight_decay=0.1
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv1D):
            expected = "GlorotUniform" if "shortcut" in layer.name else "HeUniform"
            assert type(layer.kernel_initializer).__name__ == expected
            assert layer.kernel_regularizer.l2 == pytest.approx(0.1)
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.epsilon, layer.momentum) == (1e-3, 0.99)
        if isinstance(layer, keras.layers.Dropout):
            assert layer.rate == (0.5 if layer.name == "head_dropout" else 0.2)


def narrow_reference(block, multi):
    """Weights, input, scores and excitations made by the original code."""
    prefix = f"{block}_{multi}|"
    with np.load(REFERENCES / "sample_cnn.npz") as held:
        arrays = {
            n.removeprefix(prefix): held[n] for n in held.files if n.startswith(prefix)
        }
    weights = {name: a.astype(np.float32) for name, a in arrays.items() if "/" in name}
    waveform = np.random.RandomState(0).standard_normal((2, 59049)).astype(np.float32)
    waveform *= np.float32([[0.3], [0.02]])
    gates = [arrays[f"excitation{d}"] for d in range(9) if f"excitation{d}" in arrays]
    return weights, waveform, arrays["scores"], gates


def excitations(model, waveform):
    gates = [
        layer.output for layer in model.layers if isinstance(layer, SqueezeExcitation)
    ]
    return keras.Model(model.input, gates).predict(waveform, verbose=0) if gates else []


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
def test_converted_sample_cnn_reproduces_the_originals_scores_and_excitations(
    block, multi
):
    weights, waveform, scores, gates = narrow_reference(block, multi)
    model = conversion.convert_sample_cnn(weights)
    # float32 sums in another order
    np.testing.assert_allclose(model.predict(waveform, verbose=0), scores, atol=1e-5)
    ours = excitations(model, waveform)
    assert len(ours) == len(gates) == (9 if "se" in block else 0)
    for mine, theirs in zip(ours, gates, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def large_references():
    """Names alone: the folder may be absent when tests are collected."""
    return [
        f"resemul_{block}_{multi}"
        for block in BLOCKS
        for multi in ("multi", "nomulti")
    ] + [
        "resemul_basic_nomulti_f32",
        "resemul_res_multi_f32",
        "resemul_rese_nomulti_f16",
        "resemul_se_multi_f16",
    ]  # fmt: skip


# The helper beside the references leaves its json files open.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", large_references())
def test_full_size_models_reproduce_the_originals_on_real_music(
    shared, name, monkeypatch
):
    monkeypatch.syspath_prepend(shared / "reference")
    from load_reference import load_case

    folder = shared / "reference/random" / name
    weights, cases, meta = load_case(folder)
    model = conversion.convert_sample_cnn(weights)
    assert model.count_params() == meta["n_params"]
    for (_, waveform, scores, _), case in zip(cases, meta["cases"], strict=True):
        ours = model.predict(waveform, verbose=0)
        np.testing.assert_allclose(ours, scores, atol=case["suggested_atol_outputs"])
        gates = excitations(model, waveform)
        if gates:
            with np.load(folder / "excitations.npz") as held:
                for mine, source in zip(gates, meta["excitation_layers"], strict=True):
                    np.testing.assert_allclose(mine, held[source], atol=1e-4)  # float32
        for path in folder.glob("*.hdf5"):
            legacy = conversion.load_model(path).predict(waveform, verbose=0)
            np.testing.assert_array_equal(legacy, ours)
