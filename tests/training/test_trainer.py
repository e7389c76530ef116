"""Stages, checkpoints and restarts."""

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest
from conftest import REPOSITORY, XLA_IN_HASTE
from narrow import narrow_options

from tagger import models, storage
from tagger.data.clips import open_shards
from tagger.evaluation import metrics
from tagger.training import (
    callbacks,
    devices,
    optimizers,
    recipes,
    runs,
    tasks,
    trainer,
)

OPTIONS = {"num_filters": 2, "block": "basic", "multi": False}


# Keras leaves its csv log open when an error ends a fit.
HALTED = (
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
)


def halted(test):
    """Marks a test whose training ends in an error."""
    for mark in HALTED:
        test = mark(test)
    return test


def recipe(**options):
    shortened = {"num_stages": 2, "batch_size": 8, "max_epochs": 2} | options
    return recipes.override(recipes.RECIPES["resemul"], **shortened)


def sgd(rate, epochs, **options):
    return recipes.Stage(
        optimizer="SGD",
        learning_rate=rate,
        max_epochs=epochs,
        patience=epochs,
        **options,
    )


def train(built, folder, options=OPTIONS, how=None, **run):
    model = models.Architecture("sample_cnn", options)
    task, run = tasks.Labels(open_shards(built)), trainer.RunOptions(**run)
    return trainer.train(task, model, how or recipe(), folder, run)


def logged(folder):
    """Returns the rows of training.csv."""
    return list(csv.DictReader((folder / "training.csv").read_text().splitlines()))


def test_a_run_leaves_what_its_docstring_says(trained, built):
    run = json.loads((trained / "run.json").read_text())
    assert run["model"]["num_filters"] == 4 and run["recipe"]["batch_size"] == 8
    assert run["data"]["checksum"] == open_shards(built).manifest.checksum()
    assert {"python", "keras", "numpy", "tensorflow"} <= set(run["versions"])
    for stage in ("0", "1"):
        result = json.loads((trained / stage / "result.json").read_text())
        assert 0 <= result["test"]["roc_auc"] <= 1 and 0 <= result["val"]["pr_auc"] <= 1
        assert len(list((trained / stage).glob("ckpt-*.keras"))) == 1
        assert list((trained / stage / "train").iterdir())  # TensorBoard
        rows = logged(trained / stage)
        assert [row["epoch"] for row in rows] == ["0", "1"]
        best = min(float(row["val_loss"]) for row in rows)
        # The file name has nine digits; a float32 is exact to six.
        assert result["val"]["loss"] == pytest.approx(best, rel=1e-5)
        assert not list((trained / stage).glob("resume*"))


def test_the_final_model_is_the_best_checkpoint_and_tells_tags_and_rate(trained, built):
    best = min(
        trained.glob("*/ckpt-*.keras"), key=lambda path: float(path.stem.split("=")[1])
    )
    assert_same_weights(trained / "model.keras", best)
    info = models.model_info(models.load_model(trained / "model.keras"))
    assert info.tags == open_shards(built).manifest.tags
    assert (info.sample_rate, info.segmentation.num_samples) == (22050, 59049)
    assert len(info.thresholds) == len(info.tags)
    assert all(0 < threshold <= 1 for threshold in info.thresholds)


@pytest.mark.slow
def test_a_stage_starts_from_the_best_checkpoint_before_it(
    built, tmp_path, monkeypatch
):
    # At a tiny learning rate, a stage keeps the weights it started with.
    stages = sgd(0.05, 2), sgd(0.05, 3), sgd(1e-12, 1)
    how = recipes.TrainingRecipe(batch_size=8, stages=stages)
    train(built, tmp_path, how=how)
    before = runs.RunFolder(tmp_path).best_checkpoint(2)
    (last,) = runs.RunFolder(tmp_path).stage(2).checkpoints()
    started, ended = (models.load_model(path) for path in (before, last))
    for a, b in zip(started.trainable_weights, ended.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # SGD moved by 1e-12


# CPUs compute float16 slowly, so segments are short wherever possible.
SHORT = {
    "self_attention": {"num_samples": 16320},
    "music_tagging_transformer": {"num_samples": 55125},
    "cnn_self_attention": {"num_samples": 48000},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(name, "mixed_float16", marks=[] if usual else pytest.mark.nightly)
        for name in models.MODELS
        for usual in [name == "sample_cnn"]
    ]
    + [("music_tagging_transformer", "mixed_bfloat16")],  # has the range of float32
)
def test_every_model_trains_for_200_finite_steps_in_mixed_precision(
    name, precision, built_at, tmp_path, monkeypatch
):
    optimizers, make = [], trainer.make_optimizer
    monkeypatch.setattr(
        trainer,
        "make_optimizer",
        lambda *of: optimizers.append(make(*of)) or optimizers[-1],
    )
    shards = open_shards(built_at(models.MODELS[name].facts.sample_rate))
    stage = recipes.Stage(
        optimizer="Adam", learning_rate=1e-3, max_epochs=1, patience=1
    )
    crops_per_clip = -(-200 // shards.manifest.num_clips("train"))
    # With batches of one, 200 steps take half the time.
    recipe = recipes.TrainingRecipe(
        batch_size=1,
        stages=(stage,),
        crops_per_clip=crops_per_clip,
        precision=precision,
    )
    # Validation fails if weights are no longer finite.
    options = narrow_options(name) | SHORT.get(name, {})
    model = models.Architecture(name, options)
    best = trainer.train(tasks.Labels(shards), model, recipe, tmp_path / "log")
    (optimizer,) = optimizers
    if precision == "mixed_float16":
        # Steps with a gradient that is not finite do not count; the first steps find a
        # scale that float16 can hold.
        assert optimizer.dynamic_scale >= 1
        optimizer = optimizer.inner_optimizer
    assert optimizer.iterations >= 195
    model = models.load_model(best)
    assert models.model_info(model).tags == shards.manifest.tags
    result = json.loads((tmp_path / "log/0/result.json").read_text())
    assert result["test"]["num_clips"] == 6
    run = json.loads((tmp_path / "log/run.json").read_text())
    assert run["model"].keys() >= models.default_options(name).keys()


def test_a_build_of_another_rate_names_the_command_that_builds_it(built, tmp_path):
    with pytest.raises(ValueError, match="fcn expects 16000 Hz .* 22050 Hz") as caught:
        task = tasks.Labels(open_shards(built))
        trainer.train(task, models.Architecture("fcn"), recipe(), tmp_path)
    command = "python build_mtt.py --sample-rate 16000 --output"
    assert command in str(caught.value)


def test_weight_decay_is_pytorchs():
    """By hand, Nesterov SGD: v = m v + g, w -= lr (g + m v) with g = gradient + λ w."""
    options = {"momentum": 0.9, "nesterov": True}
    stage = sgd(0.1, 1, options=options, weight_decay=0.01)
    optimizer = optimizers.make_optimizer(stage, recipe())
    weight = keras.Variable([1.0, -2.0])
    expected, velocity = np.array([1.0, -2.0]), 0
    for gradient in ([0.5, 0.25], [-1.0, 2.0], [0.0, 0.0]):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [weight])
        decayed = np.array(gradient) + 0.01 * expected
        velocity = 0.9 * velocity + decayed
        expected = expected - 0.1 * (decayed + 0.9 * velocity)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6)


def test_a_finished_run_is_not_run_again(trained, built, tmp_path, run_script):
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "model.keras").unlink()
    done = run_script(
        *("train.py", "--data-dir", built, "--train-dir", copy, "--num-filters", 4),
        *("--batch-size", 8, "--num-lr-decays", 2, "--max-epochs", 2, "--alpha", 2),
    )
    assert done.returncode == 0, done.stderr
    assert "epoch" not in done.stdout
    assert_same_weights(copy / "model.keras", trained / "model.keras")


def weights_of(path):
    """Returns every array of a .keras file."""
    arrays = {}
    with zipfile.ZipFile(path) as file:
        content = h5py.File(io.BytesIO(file.read("model.weights.h5")))
    content.visititems(
        lambda name, item: (
            arrays.__setitem__(name, item[()])
            if isinstance(item, h5py.Dataset)
            else None
        )
    )
    return arrays


def assert_same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], name)


def command_of(built, folder, *options):
    command = [sys.executable, "train.py", "--data-dir", built, "--train-dir", folder]
    command += ["--block", "basic", "--no-multi", "--num-filters", 2]
    command += ["--batch-size", 8, *options]
    command += ["--num-lr-decays", 2, "--max-epochs", 2, "--checkpoint-minutes", 0]
    return [str(part) for part in command]


def progress_of(stage_dir):
    """Returns the epoch and step at which an interrupted stage would resume."""
    try:
        with np.load(stage_dir / "resume.npz") as state:
            held = json.loads(str(state["state"]))
            return held["epoch"], held["step"]
    except (OSError, ValueError, zipfile.BadZipFile):
        return (0, 0)


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(
            ["while a checkpoint is written"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [
                "within the second epoch",
                "within the first epoch",
                "at the switch",
                "at the last step",
            ],
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["epoch", "stage"],
)
def test_a_run_killed_at_any_moment_ends_with_the_weights_of_one_that_was_not(
    chosen, built, tmp_path
):
    """Uses kill -9 within an epoch, while a checkpoint is written, after a stage."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(
        command_of(built, whole, "--augment"), cwd=REPOSITORY, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    moments = {
        "within the first epoch": lambda: progress_of(killed / "0") >= (0, 5),
        "within the second epoch": lambda: progress_of(killed / "0") >= (1, 3),
        "while a checkpoint is written": lambda: (
            list(killed.glob("0/unfinished*.keras"))
            or (killed / "0/result.json").exists()
        ),
        "at the switch": lambda: (killed / "1").is_dir(),
        "at the last step": lambda: progress_of(killed / "1") >= (1, 14),
    }
    for moment in chosen:
        has_come = moments[moment]
        process = subprocess.Popen(
            command_of(built, killed, "--augment"),
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.time() + 240
        while not has_come():
            assert process.poll() is None and time.time() < deadline, moment
            time.sleep(0.002)
        process.kill()
        process.wait()
    done = subprocess.run(
        command_of(built, killed, "--augment"), cwd=REPOSITORY, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert_same_weights(whole / "model.keras", killed / "model.keras")
    for stage in ("0", "1"):
        csvs = [(folder / stage / "training.csv") for folder in (whole, killed)]
        assert csvs[0].read_text() == csvs[1].read_text()
        assert not list((killed / stage).glob("unfinished*"))


@pytest.mark.slow
def test_half_written_files_are_never_loaded(built, tmp_path):
    folder = tmp_path / "0"
    folder.mkdir()
    (folder / "unfinished-ckpt-e000-val_loss=0.1.keras").write_bytes(b"half")
    (folder / "unfinished-resume.npz").write_bytes(b"half")
    best = train(built, tmp_path, how=recipe(num_stages=1, max_epochs=1))
    assert models.load_model(best)
    assert not list(folder.glob("unfinished*")) and not list(folder.glob("resume*"))


def test_another_model_recipe_or_data_in_the_folder_is_refused(trained, built):
    with pytest.raises(ValueError, match="holds a run with another model"):
        train(built, trained)
    same = {"block": "se", "multi": True, "alpha": 2.0, "dropout_rate": 0.5,
            "weight_decay": 0.0, "num_filters": 4}  # fmt: skip
    with pytest.raises(ValueError, match="holds a run with another recipe"):
        train(built, trained, same, how=recipe(num_stages=3))


def test_a_run_of_resemul_is_refused_with_the_command_that_goes_on(built, tmp_path):
    for stage, name in ((0, "ckpt-e012-l0.1500"), (1, "ckpt-e003-l0.1400")):
        (tmp_path / str(stage)).mkdir()
        (tmp_path / f"{stage}/{name}.hdf5").touch()
    best = re.escape(str(tmp_path / "1/ckpt-e003-l0.1400.hdf5"))
    with pytest.raises(ValueError, match=f"run of the original resemul.*from={best}`"):
        train(built, tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_a_recipe_can_choose_transforms(built):
    chosen = recipe(augment=True, transforms=("gain", "delay"))
    assert tasks.augmentation_of(chosen, 16000, "x").names == ("gain", "delay")
    wrong = recipe(augment=True, transforms=("echo",))
    with pytest.raises(ValueError, match="Unknown transform 'echo'. Choose among"):
        tasks.augmentation_of(wrong, 16000, "x")
    with pytest.raises(ValueError, match="Add `augment=`"):
        train(built, "unused", how=recipe(transforms=("gain",)))


def test_bad_stages_and_batches_are_refused_before_the_work(built, tmp_path):
    with pytest.raises(ValueError, match="`initial_stage=` must be 0 to 1, not 2"):
        train(built, tmp_path / "a", initial_stage=2)
    with pytest.raises(
        ValueError, match="holds fewer train segments than one batch of 121"
    ):
        train(built, tmp_path / "b", how=recipe(batch_size=121))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Cannot write to .*Choose another `train_dir=`"):
        train(built, tmp_path / "file" / "log")


@pytest.mark.slow
def test_a_diverging_run_says_so_every_time(built, tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="Training diverged: .* smaller `lr=`"):
            train(built, tmp_path, how=recipe(learning_rate=1e30, num_stages=1))


def test_patience_counts_on_after_a_restart(built, tmp_path):
    """The loss never falls: the third epoch, in the second run, exhausts patience."""
    losses = iter((0.5, 0.6, 0.5000001))
    scored = metrics.Evaluation(
        "demo", "val", "", ("a",), np.array(["1", "2"]), np.array([[0], [1]]),
        np.array([[0.1], [0.9]]), 0.0,
    )  # fmt: skip

    def evaluate(*args):
        return dataclasses.replace(scored, loss=next(losses))

    model = models.build_model("sample_cnn", num_tags=10, **OPTIONS)
    model.compile("sgd", "binary_crossentropy")
    model.optimizer.build(model.trainable_variables)
    stage = dataclasses.replace(sgd(0.01, 9), patience=2)
    found, folder = devices.choose(), runs.StageFolder(tmp_path)
    task = tasks.Labels(open_shards(built))
    object.__setattr__(task, "evaluate", evaluate)
    copy = callbacks.ScoringModel(lambda: model, task, found)

    def begin():
        state = runs.StageState()
        resume = callbacks.Resume(stage, folder, state, 10)
        chain = [
            callbacks.Validate(model, copy, "val_loss", found.share, tmp_path),
            callbacks.KeepBest(copy, "val_loss", folder, state),
            resume,
        ]
        for callback in chain:
            callback.set_model(model)
        resume.restore(model)
        return chain, state

    def end_epoch(chain, epoch):
        logs = {}
        for callback in chain:
            callback.on_epoch_end(epoch, logs)

    chain, _ = begin()
    for epoch in range(2):
        end_epoch(chain, epoch)
    chain, state = begin()
    assert state.epoch == 2 and not chain[-1].is_over()
    assert [row["val_loss"] for row in state.history] == pytest.approx([0.5, 0.6])
    end_epoch(chain, 2)  # a gain of a millionth does not count
    assert chain[-1].is_over() and model.stop_training
    (best,) = folder.checkpoints()
    assert best.name == "ckpt-e000-val_loss=0.5.keras"


@pytest.mark.parametrize("content", [b"", b"text", "old"])
def test_a_state_that_does_not_fit_says_which_file_to_delete(tmp_path, content):
    path = tmp_path / "resume.npz"
    if content == "old":  # an array per number, as earlier versions wrote
        np.savez(path, **{"0": np.zeros(3), "history": "[]"})
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="resume.npz is not a state .* Delete it"):
        runs.StageState.load(path, {"weight 0": np.zeros(3)})
    runs.StageState(1, 2).save(path, {"weight 0": np.zeros(4)})
    with pytest.raises(ValueError, match="weight 0 has the shape .4,.*Delete it"):
        runs.StageState.load(path, {"weight 0": np.zeros(3)})


def test_a_state_of_another_order_of_the_batches_is_refused(tmp_path):
    np.savez(tmp_path / "resume.npz", state='{"epoch": 1, "step": 2}')
    with pytest.raises(ValueError, match="in the order of an earlier version"):
        runs.StageState.load(tmp_path / "resume.npz", {})


@pytest.mark.slow
def test_jax_scores_the_weights_of_the_epoch_also_under_python_o(built, tmp_path):
    """fit trains copies of JAX's variables; no assert may write them back."""
    pytest.importorskip("jax")
    command = command_of(built, tmp_path, "--num-lr-decays", 1, "--lr", 0.1)
    done = subprocess.run(
        [command[0], "-O", *command[1:]],
        cwd=REPOSITORY,
        env=os.environ | XLA_IN_HASTE | {"KERAS_BACKEND": "jax"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(row["val_loss"]) for row in logged(tmp_path / "0")]
    assert len(set(losses)) == len(losses) > 1  # stale weights would give equal losses


def test_a_later_stage_needs_an_earlier_checkpoint(built, tmp_path):
    with pytest.raises(
        ValueError, match="`initial_stage=1` starts from the best check"
    ):
        train(built, tmp_path, initial_stage=1)


def test_a_run_json_of_others_and_another_seed_are_refused(trained, built, tmp_path):
    (tmp_path / "run.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="does not describe a run of this project"):
        train(built, tmp_path)


def test_a_second_run_in_the_folder_is_kept_out(built, tmp_path):
    pytest.importorskip("fcntl")
    with storage.writer_lock(tmp_path, "--train-dir"):
        with pytest.raises(OSError, match="Another run is writing to .*`train_dir=`"):
            train(built, tmp_path)


@halted
def test_a_full_disk_is_said_before_a_checkpoint_breaks(built, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="a checkpoint needs .* MB.* Free some space"):
        train(built, tmp_path, how=recipe(num_stages=1))
    assert not list(tmp_path.rglob("*.keras"))
