"""train --from: what starts from the base model, what stays, and how it resumes."""

import json

import keras
import numpy as np
import pytest
from conftest import fails
from narrow import narrow_model, scores_of

from tagger import models
from tagger.training import fine_tuning, optimizers, recipes


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Returns the file of a narrow model whose batch norm has seen other music."""
    path = tmp_path_factory.mktemp("base") / "base.keras"
    model = narrow_model("vgg_pons")
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(random.normal(0, 0.1, layer.moving_mean.shape))
    models.save_model(model, path)
    return path


def weights_by_layer(path):
    model = models.load_model(path)
    return {layer.name: layer.get_weights() for layer in model.layers}


def changed(base, path):
    """Returns the names of the layers whose weights differ from the base model's."""
    before, after = weights_by_layer(base), weights_by_layer(path)
    return {
        name
        for name, weights in before.items()
        if name != "head_scores"
        and any(
            (one != other).any()
            for one, other in zip(weights, after[name], strict=True)
        )
    }


def train(run_script, base, shards, folder, *options):
    return run_script(
        *("train.py", "--from", base, "--data-dir", shards, "--train-dir", folder),
        *("--max-epochs", 1, "--batch-size", 8, *options),
    )


def test_tags_that_the_base_knows_keep_their_scores(base):
    built = fine_tuning.Base(base).build(("new", "slow"), 2)
    old = models.load_model(base)
    x = np.random.RandomState(0).uniform(-0.3, 0.3, (2, *built.input_shape[1:]))
    x = x.astype(np.float32)
    scores, before = scores_of(built, x), scores_of(old, x)
    np.testing.assert_allclose(
        scores[:, 1], before[:, old.layers[-1].tags.index("slow")]
    )
    assert built.layers[-1].tags == ("new", "slow")


def test_the_same_tags_are_the_same_model(base):
    old = models.load_model(base)
    built = fine_tuning.Base(base).build(old.layers[-1].tags, 3)
    for one, other in zip(built.get_weights(), old.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_run_of_the_recipe_transfer(base, built_at, tmp_path, run_script):
    """First the head alone, then everything; the frozen statistics stay at first."""
    shards, folder = built_at(16000), tmp_path / "log"
    done = train(run_script, base, shards, folder)
    assert done.returncode == 0, done.stderr
    assert not changed(base, next((folder / "0").glob("*.keras")))
    last = changed(base, next((folder / "1").glob("*.keras")))
    assert {"block1_conv", "block1_norm", "block5_conv"} <= last
    described = json.loads((folder / "run.json").read_text())
    assert described["from"]["name"] == "base.keras"
    assert len(described["from"]["digest"]) == 64
    stages = described["recipe"]["stages"]
    assert [stage.get("freeze", "none") for stage in stages] == ["backbone", "none"]
    assert stages[1]["backbone_rate"] == 0.1
    done = train(run_script, base, shards, folder)
    assert "Stage" not in done.stdout  # finished
    other = tmp_path / "other.keras"
    models.save_model(narrow_model("vgg_pons"), other)
    fails(train(run_script, other, shards, folder), "another base model")
    assert models.load_model(folder / "model.keras").layers[1].trainable


@pytest.mark.slow
@pytest.mark.parametrize(
    ("freeze", "frozen", "free"),
    [
        ("frontend", ["input_norm"], ["block1_conv"]),
        ("block2_pool", ["input_norm", "block1_conv", "block2_norm"], ["block3_conv"]),
    ],
)
def test_frozen_layers_keep_weights_and_statistics(
    freeze, frozen, free, base, built_at, tmp_path, run_script
):
    done = train(
        *(run_script, base, built_at(16000), tmp_path / "log"),
        *("--recipe", "won2020", "--freeze", freeze),
        *("--backbone-learning-rate", 0.5),
    )
    assert done.returncode == 0, done.stderr
    found = changed(base, tmp_path / "log/model.keras")
    assert not found & set(frozen) and set(free) <= found


def test_the_factor_slows_everything_but_the_head():
    stage = recipes.Stage(
        optimizer="SGD",
        learning_rate=1.0,
        max_epochs=1,
        patience=1,
        backbone_rate=0.25,
    )
    recipe = recipes.TrainingRecipe(batch_size=1, stages=(stage,))
    backbone, head = keras.Variable(np.zeros(3)), keras.Variable(np.zeros(3))
    optimizer = optimizers.make_optimizer(stage, recipe, [head])
    optimizer.apply([keras.ops.ones(3)] * 2, [backbone, head])
    np.testing.assert_allclose(backbone.numpy(), -0.25)
    np.testing.assert_allclose(head.numpy(), -1)


def test_freezing_the_backbone_trains_only_heads():
    frozen = recipes.override(recipes.RECIPES["won2020"], freeze="backbone")
    assert {stage.freeze for stage in frozen.stages} == {"backbone"}
    assert len(frozen.stages) == 4


@pytest.mark.slow
def test_mixed_precision_reaches_the_layers_of_the_base(
    base, built_at, tmp_path, run_script
):
    done = train(
        *(run_script, base, built_at(16000), tmp_path / "log"),
        *("--precision", "mixed_float16", "--freeze", "backbone"),
    )
    assert done.returncode == 0, done.stderr
    with optimizers.precision("mixed_float16"):
        model = fine_tuning.Base(base).build(("a",), 1)
    assert model.get_layer("block1_conv").compute_dtype == "float16"
    assert model.get_layer("frontend").compute_dtype == "float32"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--freeze", "block9"], ["no layer 'block9' to freeze", "Did you mean"]),
        (["--freeze", "head_scores"], ["leaves nothing to train"]),
        (["--architecture", "fcn"], ["--from or --architecture, not both"]),
        (
            ["--num-filters", "4"],
            ["no option --num-filters", "It is an option of sample_cnn"],
        ),
        (["--data-dir", "BUILT"], ["expects 16000 Hz but"]),
    ],
)
def test_wrong_options_are_a_sentence(
    options, words, base, built_at, built, tmp_path, run_script
):
    options = [built if one == "BUILT" else one for one in options]
    done = train(run_script, base, built_at(16000), tmp_path / "log", *options)
    fails(done, *words)
    assert not (tmp_path / "log").exists()


def test_options_that_need_a_base_say_so(built, run_script):
    for options in (["--freeze", "none"], ["--recipe", "transfer"]):
        fails(run_script("train.py", "--data-dir", built, *options), "--from")


def test_a_model_that_reads_waveforms_has_no_frontend():
    with pytest.raises(ValueError, match="no frontend to freeze"):
        fine_tuning.frozen_layers(narrow_model("sample_cnn"), "frontend")
