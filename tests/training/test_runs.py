"""The record of a run: what must be the same to resume, and what lists it."""

import json
import shutil
import subprocess

import keras
import numpy as np
import pytest
from narrow import narrow_options

from tagger import models
from tagger.data.clips import open_shards
from tagger.training import recipes, run_table, runs, tasks, trainer

MODEL = models.Architecture("sample_cnn", narrow_options("sample_cnn"))


def recipe_of(**options):
    shortened = {"num_stages": 2, "batch_size": 8, "max_epochs": 1} | options
    return recipes.override(recipes.RECIPES["resemul"], **shortened)


def train(built, folder, how=None, **run):
    task, run = tasks.Labels(open_shards(built)), trainer.RunOptions(**run)
    return trainer.train(task, MODEL, how or recipe_of(), folder, run)


@pytest.fixture(scope="module")
def run(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    train(built, folder)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def changed(folder, **parts):
    path = folder / "run.json"
    held = json.loads(path.read_text()) | parts
    path.write_text(json.dumps({k: v for k, v in held.items() if v is not None}))


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("teacher", {"name": "a.keras", "digest": "x"}, "another teacher"),
        ("unlabelled", {"checksum": "x"}, "another unlabelled music"),
        ("noisy_student", {"labelled_share": 0.5}, "another noisy student"),
        ("from", {"name": "base.keras", "digest": "x"}, "another base model"),
    ],
)
def test_a_run_that_learned_something_else_is_refused(copy, built, part, value, named):
    """In both directions: a part that only one of them has counts."""
    held = json.loads((copy / "run.json").read_text())
    changed(copy, **{part: value})
    with pytest.raises(ValueError, match=f"holds a run with {named}"):
        train(built, copy)
    folder = runs.RunFolder(copy)
    changed(copy, **{part: None})
    with pytest.raises(ValueError, match=f"holds a run with {named}"):
        folder.describe(held | {part: value})


def test_a_run_json_of_before_describes_the_same_run(copy, built):
    """Fields that came later have the defaults that these runs had."""
    held = json.loads((copy / "run.json").read_text())
    for name in ("transforms", "loss"):
        del held["recipe"][name]
    for stage in held["recipe"]["stages"]:
        del stage["freeze"], stage["backbone_rate"]
    changed(copy, recipe=held["recipe"], arguments=None)
    assert train(built, copy).exists()


@pytest.mark.slow
def test_a_repeated_stage_writes_the_best_model_anew(copy, built):
    best = copy / "model.keras"
    best.write_bytes(b"of another last stage")
    shutil.rmtree(copy / "1")
    assert models.load_model(train(built, copy))


def test_a_damaged_checkpoint_is_named(copy, built):
    (copy / "model.keras").unlink()
    for path in copy.glob("*/ckpt-*.keras"):
        path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="ckpt-.*is not a model that Keras can read"):
        train(built, copy)


def test_the_commit_is_that_of_this_code_alone(tmp_path, monkeypatch):
    assert trainer._git_state()
    package = tmp_path / "venv/site-packages"
    package.mkdir(parents=True)
    for command in (["init"], ["commit", "--allow-empty", "-m", "theirs"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(
            ["git", *identity, *command], cwd=tmp_path, check=True, capture_output=True
        )
    monkeypatch.setattr(trainer, "__file__", str(package / "trainer.py"))
    assert trainer._git_state() is None


@pytest.mark.slow
def test_a_run_is_repeated_from_its_record(built, tmp_path, run_script):
    options = ("--block", "basic", "--no-multi", "--num-filters", 2)
    options += ("--batch-size", 8, "--max-epochs", 1, "--num-lr-decays", 1)
    options += ("--seed", 3, "--data-dir", built)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    done = run_script("train.py", *options, "--train-dir", first)
    assert done.returncode == 0, done.stderr
    config = ("train.py", "--config", first / "run.json", "--train-dir")
    done = run_script(*config, second)
    assert done.returncode == 0, done.stderr
    weights = [
        models.load_model(f / "model.keras").get_weights() for f in (first, second)
    ]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
    done = run_script(*config, third, "--seed", 4, "--lr", 0.02)
    assert done.returncode == 0, done.stderr
    rows = run_table.table([first, second, third]).splitlines()
    assert rows[0].startswith("sample_cnn, demo, ")
    (same,) = (row for row in rows if str(second) in row)
    assert str(first) in same and "± .000" in same
    differing = {row.strip() for row in rows if row.startswith("    ")}
    assert differing == {"learning_rate=0.01", "learning_rate=0.02"}
    (other,) = (row for row in rows if str(third) in row)
    assert "±" not in other


def test_an_unfinished_run_says_how_far_it_is(copy, tmp_path):
    (copy / "model.keras").unlink()
    (copy / "1/result.json").unlink()
    assert "copy (1 of 2 stages)" in run_table.table([copy])
    with pytest.raises(ValueError, match="holds no run: there is no run.json"):
        run_table.table([tmp_path])


def test_a_line_of_an_epoch_fits_a_terminal(run, capsys, built, tmp_path):
    train(built, tmp_path, recipe_of(num_stages=1))
    lines = capsys.readouterr().out.splitlines()
    (epoch,) = (line for line in lines if line.startswith("epoch"))
    assert epoch.startswith("epoch 1/1  loss .") and epoch.endswith("best")
    assert {"val", "ROC", "PR"} <= set(epoch.split())
    assert "Stage 0 of 0–0: SGD, learning rate 0.01" in lines
    assert max(map(len, lines)) <= 80


@pytest.mark.slow
def test_callbacks_of_trackers_get_the_scores(built, tmp_path):

    class Tracker(keras.callbacks.Callback):
        seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append((epoch, set(logs)))

    train(built, tmp_path, recipe_of(num_stages=1), callbacks=[Tracker()])
    scores = {"loss", "val_loss", "val_roc_auc", "val_pr_auc"}
    assert Tracker.seen == [(0, scores)]
