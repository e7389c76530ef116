"""Recipes are those of the papers, and can be changed."""

import dataclasses
import math

import numpy as np
import pytest

from tagger.training import recipes
from tagger.training.recipes import RECIPES, override, settings


def test_resemul_recipe_is_the_papers():
    recipe = RECIPES["resemul"]
    rates = [stage.learning_rate for stage in recipe.stages]
    np.testing.assert_allclose(rates, [0.01, 0.002, 0.0004, 0.00008, 0.000016])
    assert {(stage.patience, stage.max_epochs) for stage in recipe.stages} == {(2, 100)}
    assert recipe.batch_size == 23
    for stage in recipe.stages:
        assert stage.optimizer == "SGD" and stage.step_decay == 1e-6
        assert stage.options == {"momentum": 0.9, "nesterov": True}


def test_won_recipes_are_the_papers():
    for name, epochs in (("won2019", 60), ("won2020", 80)):
        stages = RECIPES[name].stages
        assert [stage.optimizer for stage in stages] == ["Adam", "SGD", "SGD", "SGD"]
        assert [stage.learning_rate for stage in stages] == [1e-4, 1e-3, 1e-4, 1e-5]
        assert [stage.max_epochs for stage in stages] == [epochs, 20, 20, epochs]
        assert all(stage.patience is None for stage in stages)
        assert stages[1].options == {"momentum": 0.9, "nesterov": True}
        assert [stage.weight_decay for stage in stages[1:]] == 3 * [1e-4]
    # In 2020 the authors gave Adam the same weight decay, in 2019 none.
    assert RECIPES["won2020"].stages[0].weight_decay == 1e-4
    assert RECIPES["won2019"].stages[0].weight_decay == 0
    assert RECIPES["transformer"].stages[0].patience == 40
    assert RECIPES["transformer"].stages[0].weight_decay == 0
    assert RECIPES["multi_scale"].batch_size == 20
    assert RECIPES["multi_scale"].stages[0].weight_decay == 1e-4
    monitors = {name: recipe.monitor for name, recipe in RECIPES.items()}
    others = {"resemul": "val_loss", "transformer": "val_loss"}
    others |= {"distillation": "val_rho"}  # ours
    assert monitors == dict.fromkeys(RECIPES, "val_roc_auc") | others


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_gets_its_own_settings_stays_as_it_is(name):
    recipe = RECIPES[name]
    same = settings(recipe)
    del same["freeze"], same["backbone_rate"]  # of the first stage only
    assert override(recipe) == recipe == override(recipe, **same)
    shorter = override(recipe, max_epochs=3, batch_size=7)
    assert shorter.batch_size == 7
    assert max(stage.max_epochs for stage in shorter.stages) == 3
    slower = override(recipe, learning_rate=recipe.stages[0].learning_rate / 2)
    for one, other in zip(recipe.stages, slower.stages, strict=True):
        assert other.learning_rate == pytest.approx(one.learning_rate / 2)


def test_settings_reach_the_stages_that_they_are_about():
    stages = override(RECIPES["resemul"], num_stages=2, lr_decay=0.5, momentum=0).stages
    assert [stage.learning_rate for stage in stages] == [0.01, 0.005]
    assert {stage.options["momentum"] for stage in stages} == {0}
    patient = override(RECIPES["won2020"], patience=3, momentum=0.5).stages
    assert [stage.patience for stage in patient] == 4 * [3]
    momenta = [stage.options.get("momentum") for stage in patient]
    assert momenta == [None, 0.5, 0.5, 0.5]
    head, everything = override(RECIPES["transfer"], freeze="frontend").stages
    assert (head.freeze, everything.freeze) == ("backbone", "frontend")
    (head,) = override(RECIPES["transfer"], freeze="backbone").stages
    with pytest.raises(ValueError, match="no num_stages. It has: .*learning_rate"):
        override(RECIPES["won2020"], num_stages=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": math.inf}, "learning_rate must be above 0, not inf"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0, not -1"),
        ({"momentum": 1.0}, "momentum must be from 0 to below 1, not 1"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"crops_per_clip": -1}, "crops_per_clip must be at least 0, not -1"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0, not 0"),
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1, not 0"),
        ({"num_stages": 0}, "stages must not be empty"),
        ({"monitor": "val_f1"}, "Unknown monitor 'val_f1'. Choose one of: val_loss"),
        ({"precision": "int8"}, "Unknown precision 'int8'. Choose one of: float32"),
    ],
)
def test_what_is_out_of_range_is_said(changes, message):
    with pytest.raises(ValueError, match=message):
        override(RECIPES["resemul"], **changes)


def test_stages_are_data():
    stage = RECIPES["won2020"].stages[0]
    assert recipes.Stage(**dataclasses.asdict(stage)) == stage
