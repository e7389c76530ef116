"""The contract tests of every model in MODELS."""

import re
import sys
import zipfile

import keras
import numpy as np
import pytest
from conftest import needs_bfloat16, run_on_backend
from drawn import draw_music
from narrow import music, narrow_model, narrow_options, scores_of

from tagger import models


@pytest.fixture(params=models.MODELS, scope="module")
def narrow(request):
    """Returns a narrow model; no test changes its weights."""
    return narrow_model(request.param)


@pytest.fixture(scope="module")
def exact(narrow):
    """Returns the scores of the narrow model for `music`."""
    return scores_of(narrow, music(narrow))


# --- Contracts ------------------------------------------------------------------------


def test_scores_are_probabilities_per_tag(exact):
    assert exact.shape == (2, 3) and exact.dtype == np.float32
    assert ((exact > 0) & (exact < 1)).all()


@pytest.fixture
def zeros_to_begin_with(monkeypatch):
    """Initialises weights with zeros, because drawing full-size ones takes seconds."""
    monkeypatch.setattr(
        keras.initializers.VarianceScaling,
        "__call__",
        lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype),
    )


@pytest.mark.parametrize("name", models.MODELS)
def test_stored_facts_are_those_of_the_default_model(name, zeros_to_begin_with):
    """The expected numbers are those of the originals (see test_originals.py)."""
    from tagger.models import registry

    if name in registry._stored_facts():
        assert registry._stored_facts()[name] == registry.derive_facts(name)


@pytest.mark.parametrize("name", models.MODELS)
def test_published_scores_belong_to_models_that_can_be_built(name):
    from tagger.training import recipes

    entry = models.MODELS[name]
    assert entry.recipe in recipes.RECIPES
    for options in {tuple(sorted(one.options.items())) for one in entry.published}:
        assert models.build_model(name, **narrow_options(name) | dict(options))
    assert all(0.5 < published.roc_auc < 1 for published in entry.published)


def test_encoders_of_others_are_named():
    others = {row.model for row in models.registry.all_published()} - set(models.MODELS)
    assert {name.split()[0].split("-")[0] for name in others} == {
        "MERT", "MULE", "MuQ", "MusicFM", "OMAR",
    }  # fmt: skip


def test_a_saved_model_carries_tags_rate_and_segment_and_scores_the_same(
    narrow, exact, tmp_path
):
    narrow.save(tmp_path / "model.keras")
    loaded = models.load_model(tmp_path / "model.keras")
    assert models.model_info(loaded) == models.model_info(narrow)
    scores = scores_of(loaded, music(narrow))
    np.testing.assert_allclose(scores, exact, atol=1e-6)


def test_layer_names_are_chosen(narrow):
    for layer in narrow.layers:
        if type(layer).__module__.startswith("tagger"):
            continue  # a class token may be called class_token
        # Keras names an unnamed layer conv1d, conv1d_1, max_pooling1d_7 …
        automatic = re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", type(layer).__name__).lower()
        assert not re.fullmatch(rf"{automatic}(_\d+)?", layer.name), layer.name


def test_gradient_reaches_every_trainable_weight(narrow):
    import tensorflow as tf

    model = narrow_model(narrow.name)  # a training step changes the batch norms' means
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(music(model, 4), training=True) - 0.3))
    weights = model.trainable_weights
    for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
        assert gradient is not None and np.isfinite(gradient).all(), weight.path
        # A batch norm subtracts the bias before it, whose gradient is only rounding.
        if not weight.path.endswith("bias"):
            assert np.abs(gradient).max() > 0, weight.path


def test_scores_do_not_depend_on_batch_neighbours(narrow):
    x = music(narrow, 3)
    x[1] *= 1e-3
    together = scores_of(narrow, x)
    alone = scores_of(narrow, x[1:2])
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)  # float32 sums by batch


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param("mixed_float16", marks=pytest.mark.slow),
        pytest.param("mixed_bfloat16", marks=needs_bfloat16),
    ],
)
def test_mixed_precision_scores_stay_close(narrow, exact, policy):
    keras.config.set_dtype_policy(policy)
    try:
        mixed = models.build_model(
            narrow.name, num_tags=3, **narrow_options(narrow.name)
        )
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(narrow.get_weights())
    if models.MODELS[narrow.name].facts.frontend != "waveform":
        frontends_of = [
            keras.Model(model.input, model.get_layer("frontend").output)
            for model in (mixed, narrow)
        ]
        ours, theirs = (scores_of(m, music(narrow)) for m in frontends_of)
        np.testing.assert_array_equal(ours, theirs)
    scores = mixed.predict_on_batch(music(narrow))
    assert scores.dtype == np.float32
    # bfloat16 keeps 8 bits, which gives 1e-2 after eleven layers; float16 keeps 11.
    np.testing.assert_allclose(scores, exact, atol=3e-2 if "b" in policy else 5e-3)


@needs_bfloat16
def test_bfloat16_convolutions_ignore_what_lies_behind_their_channels():
    """The smallest program in which AMX kernels of oneDNN 3.7 returned NaN.

    8 channels fill a quarter of an AMX tile; the rest of the tile is read from memory
    that held NaNs before. Without AMX nothing is read there. See `tagger/__init__.py`.
    """
    tf = pytest.importorskip("tensorflow")
    x = tf.ones((2, 118, 1, 8), tf.bfloat16)
    kernel = tf.ones((3, 3, 8, 8), tf.bfloat16)

    @tf.function
    def convolved(x):
        x = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), tf.zeros(8, tf.bfloat16))
        return tf.cast(x, tf.float32) * 0.5  # the norm behind it

    for _ in range(20):
        nans = tf.fill((tf.size(x) * 8,), tf.cast(np.nan, tf.bfloat16)) * 2
        del nans  # the next tensor is given its memory
        assert np.isfinite(convolved(x)).all()


def test_int16_feed_scores_as_the_waveform_does(narrow):
    x = (
        np.random.RandomState(0)
        .randint(-32768, 32767, music(narrow).shape)
        .astype(np.int16)
    )
    fed = scores_of(models.with_record_inputs(narrow, "int16"), x)
    np.testing.assert_allclose(fed, scores_of(narrow, x.astype("f") / 32768), atol=1e-6)
    assert models.with_record_inputs(narrow, "float32") is narrow


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_backend_gives_the_same_scores(backend, tmp_path):
    """Runs all models in one process, because a backend takes seconds to start."""
    expected = {}
    for name in models.MODELS:
        model = narrow_model(name)
        model.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", music(model))
        expected[name] = scores_of(model, music(model))
    code = (
        "import sys, pathlib, keras, numpy as np; from tagger import models\n"
        "assert 'tensorflow' not in sys.modules, 'models import TensorFlow'\n"
        "for path in pathlib.Path(sys.argv[1]).glob('*.keras'):\n"
        "    model = models.load_model(path)\n"
        "    x = np.load(path.with_suffix('.npy'))\n"
        "    scores = keras.ops.convert_to_numpy(model.predict_on_batch(x))\n"
        "    np.save(path.with_suffix('.y.npy'), scores)\n"
    )
    run_on_backend(backend, code, tmp_path)
    for name, scores in expected.items():
        # float32 sums in another order, behind decibels of near silence
        np.testing.assert_allclose(
            np.load(tmp_path / f"{name}.y.npy"), scores, atol=1e-4, err_msg=name
        )


def test_the_network_behind_the_frontend_scores_the_same(narrow, exact):
    if models.MODELS[narrow.name].facts.frontend == "waveform":
        with pytest.raises(ValueError, match="reads the waveform itself"):
            models.feature_network(narrow)
        return
    frontend = narrow.get_layer("frontend")
    features = np.asarray(frontend(music(narrow)))
    network = models.feature_network(narrow)
    assert network.input_shape[1:] == features.shape[1:]
    np.testing.assert_allclose(scores_of(network, features), exact, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["short_chunk_cnn", "music_tagging_transformer", "musicnn_pons"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("musicnn", "cnn_self_attention", "short_chunk_resnet", "crnn",
                     "harmonic_cnn")
    ],
)  # fmt: skip
def test_a_loaded_model_takes_any_length(name, tmp_path):
    narrow_model(name).save(tmp_path / "model.keras")
    loaded = models.load_model(tmp_path / "model.keras")
    info = models.model_info(loaded)
    assert loaded.input_shape == (None, None)
    longer = draw_music(3 * info.segmentation.num_samples // 2, info.sample_rate)
    built = models.build_model(
        name, num_tags=3, **narrow_options(name) | any_length(name, longer.shape[1])
    )
    built.set_weights(loaded.get_weights())
    np.testing.assert_allclose(
        scores_of(loaded, longer), scores_of(built, longer), atol=1e-5
    )
    segmentation = loaded.get_layer("audio_input")
    shortest = draw_music(segmentation.min_samples, info.sample_rate)
    assert np.isfinite(scores_of(loaded, shortest)).all()
    with pytest.raises(
        ValueError, match=f"takes waveforms of at least {segmentation.min_samples}"
    ):
        loaded(shortest[:, :-1])
    loaded.save(tmp_path / "again.keras")
    again = models.load_model(tmp_path / "again.keras")
    assert models.model_info(again) == info


def any_length(name, num_samples):
    """Returns the option that builds a model for this number of samples."""
    if name == "musicnn_pons":
        return {"num_frames": (num_samples - 512) // 256 + 1}
    return {"num_samples": num_samples}


def test_a_waveform_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="positions has 513 positions but the sequen"):
        models.build_model("music_tagging_transformer", num_samples=22050 * 60)


def test_unknown_names_and_options_say_what_to_choose():
    with pytest.raises(
        ValueError, match="Unknown model 'vgg42'. Choose one of: sample_cnn"
    ):
        models.build_model("vgg42")
    with pytest.raises(ValueError, match="Unknown block 'x'. Choose one of: se, rese"):
        models.build_model("sample_cnn", block="x")
    with pytest.raises(ValueError, match="at least 59049 samples, not 100"):
        models.build_model("sample_cnn", num_samples=100)
    with pytest.raises(ValueError, match="Unknown front_end 'x'. Choose one of: pons"):
        models.build_model("self_attention", front_end="x")
    with pytest.raises(ValueError, match="is the model sample_cnn_lee"):
        models.build_model("self_attention", front_end="lee", back_end="cnn")
    with pytest.raises(ValueError, match="Unknown size 'tiny'. Choose one of: teacher"):
        models.build_model("music_tagging_transformer", size="tiny")
    with pytest.raises(ValueError, match="Unknown log-mel preset 'x'"):
        models.build_model("fcn", log_mel="x")


def test_a_file_that_is_no_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model file"):
        models.load_model(tmp_path / "nothing.keras")
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="is not a .keras model file"):
        models.load_model(tmp_path / "text.keras")
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as file:
        file.writestr("a.txt", "no model")
    with pytest.raises(ValueError, match="was not made by this project"):
        models.load_model(tmp_path / "zip.keras")
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="was not made by this project"):
        models.load_model(tmp_path / "other.keras")


# --- The original sample-level CNNs ---------------------------------------------------


@pytest.mark.parametrize(
    ("block", "multi", "parameters"),
    [  # counted in the original's models
        ("se", True, 24749618), ("se", False, 23935026),
        ("rese", True, 26993202), ("rese", False, 26178610),
        ("res", True, 4933938), ("res", False, 4119346),
        ("basic", True, 2690354), ("basic", False, 1875762),
    ],
)  # fmt: skip
def test_parameters_are_as_many_as_the_originals(
    block, multi, parameters, zeros_to_begin_with
):
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


# --- Models from outside --------------------------------------------------------------

OUTSIDE = """
import keras
from tagger.models.layers import AudioInput, TagScores
from tagger.segmentation import Segmentation

def tiny(num_tags=50, tags=None, width=4, floor_db=-80.0, vocabulary=20000):
    waveform = keras.Input((8000,), name="waveform")
    x = AudioInput(22050, Segmentation(8000), name="audio_input")(waveform)
    x = keras.layers.Reshape((-1, 80), name="frames")(x)
    x = keras.layers.Dense(width, activation="relu", name="hidden")(x)
    x = keras.layers.GlobalMaxPooling1D(name="pool")(x)
    return keras.Model(waveform, TagScores(num_tags, tags, name="head_scores")(x))

def no_scores(num_tags=50, tags=None):
    x = keras.Input((8000,))
    return keras.Model(x, keras.layers.Dense(num_tags)(x))

def no_tags(width=4):
    pass

def no_default(num_tags, tags, width, **others):
    pass
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(OUTSIDE)
    (tmp_path / "broken.py").write_text("def f(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_models", None)


@pytest.mark.slow
def test_a_model_from_outside_trains_and_tags(outside, built, run_script):
    done = run_script(
        *("train.py", "--architecture", "my_models:tiny", "--data-dir", built),
        *("--train-dir", "log", "--width", 3, "--max-epochs", 1),
        *("--batch-size", 8),
        cwd=outside,
    )
    assert done.returncode == 0, done.stderr
    model = models.load_model(outside / "log/model.keras")
    assert model.get_layer("hidden").units == 3
    done = run_script("eval.py", "log/model.keras", "--data-dir", built, cwd=outside)
    assert "test macro: ROC-AUC" in done.stdout
    done = run_script("-m", "tagger", "models", "show", "my_models:tiny", cwd=outside)
    assert "width = 4" in done.stdout and "8000 samples" in done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_package:f", "Cannot import the module .*No module named"),
        ("my_models:tinny", "my_models has no function 'tinny'. Did you mean tiny"),
        ("my_models:no_tags", "must take the arguments num_tags and tags"),
        ("my_models:no_scores", "must return a keras.Model from waveforms"),
        ("my_models:no_default", "needs a default for its argument width"),
        ("broken:f", "Cannot import the module .*SyntaxError"),
        (":f", "Cannot import the module"),
    ],
)
def test_a_wrong_model_from_outside_is_a_sentence(name, says, outside):
    with pytest.raises(ValueError, match=says):
        models.build_model(name)
