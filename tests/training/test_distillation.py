"""Students that learn nothing but a teacher's scores."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from narrow import narrow_options

from tagger import models
from tagger.data import records
from tagger.data.batches import ReadOptions
from tagger.data.clips import open_shards
from tagger.evaluation import metrics
from tagger.segmentation import INT16_SCALE
from tagger.training import callbacks, recipes, tasks, teacher_scores, trainer
from tagger.weights import composition, pretrained

TAGS = ("calm", "loud", "strange")


@pytest.fixture(scope="module")
def shards(built):
    return open_shards(built)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    keras.utils.set_random_seed(5)
    parts = [
        models.build_model(
            "sample_cnn", num_tags=2, tags=tags, **narrow_options("sample_cnn")
        )
        for tags in (TAGS[:2], TAGS[1:])
    ]
    folder = tmp_path_factory.mktemp("teacher")
    for number, part in enumerate(parts):
        models.save_model(part, folder / f"{number}.keras")
    composition.average([folder / "0.keras", folder / "1.keras"], folder / "both.keras")
    return folder / "both.keras"


def recipe_of(**options):
    shortened = {"batch_size": 8, "num_stages": 1, "max_epochs": 2} | options
    return recipes.override(recipes.RECIPES["distillation"], **shortened)


NARROW = models.Architecture("sample_cnn", narrow_options("sample_cnn"))


def train(shards, teacher, folder, recipe=None, model=NARROW, run=None, **options):
    task = tasks.Distillation(shards, teacher, **options)
    run = run or trainer.RunOptions()
    return trainer.train(task, model, recipe or recipe_of(), folder, run)


@pytest.mark.slow
def test_a_run_describes_teacher_and_loss_and_its_model_has_the_teachers_tags(
    shards, teacher, tmp_path
):
    options = {"embedding_weight": 0.5, "temperature": 2.0}
    best = train(shards, teacher, tmp_path / "run", **options)
    info = models.model_info(models.load_model(best))
    assert info.tags == TAGS and len(info.thresholds) == 3
    (result,) = (tmp_path / "run").glob("*/result.json")
    result = json.loads(result.read_text())
    assert set(result["val"]["tags"]) == set(TAGS) and "rho" in result["val"]
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["distillation"] == options
    assert run["teacher"] == pretrained.described(teacher)
    with pytest.raises(ValueError, match="holds a run with another distillation"):
        train(shards, teacher, tmp_path / "run", temperature=2.0)
    # Scores with embeddings serve runs that need no embeddings.
    assert len(list((tmp_path / "run").glob("scores-*"))) == 1


@pytest.mark.nightly
def test_an_interrupted_run_ends_with_the_weights_of_a_whole_one(
    shards, teacher, tmp_path, monkeypatch
):
    options = {"embedding_weight": 0.5, "scores_dir": tmp_path / "scores"}
    whole = models.load_model(train(shards, teacher, tmp_path / "whole", **options))
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Validate, "on_epoch_end", stop_after(2))
        with pytest.raises(KeyboardInterrupt):
            train(shards, teacher, tmp_path / "stopped", **options)
    best = train(shards, teacher, tmp_path / "stopped", **options)
    stopped = models.load_model(best)
    for one, other in zip(whole.weights, stopped.weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_stage_that_is_repeated_ends_with_the_same_weights(shards, teacher, tmp_path):
    """The teacher, which each process loads, may not move the random numbers."""
    recipe = recipe_of(num_stages=2, max_epochs=1)
    best = train(shards, teacher, tmp_path / "run", recipe)
    (last,) = (tmp_path / "run/1").glob("*.keras")
    once = models.load_model(last).get_weights()
    shutil.rmtree(tmp_path / "run/1")
    best.unlink()
    train(shards, teacher, tmp_path / "run", recipe)
    (last,) = (tmp_path / "run/1").glob("*.keras")
    for one, other in zip(once, models.load_model(last).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def stop_after(num_epochs):
    """Returns a `Validate.on_epoch_end` that is interrupted in its last epoch."""
    on_epoch_end = callbacks.Validate.on_epoch_end

    def interrupted(self, epoch, logs=None):
        on_epoch_end(self, epoch, logs)
        if epoch + 1 == num_epochs:
            raise KeyboardInterrupt

    return interrupted


def task_of(shards, teacher, folder):
    return tasks.Distillation(shards, teacher, scores=folder)


def test_a_teachers_graph_scores_like_its_network(
    shards, teacher, tmp_path, monkeypatch
):
    rule = models.model_info(models.load_model(teacher)).segmentation
    stored, found = teacher_scores.Stored(teacher, rule, has_embeddings=True), []
    assert teacher_scores.read_graph(teacher)
    for name in ("graph", "network"):
        folder = stored.store(shards, "train", tmp_path / name)
        paths = sorted(folder.glob("*.tfrecord"))
        rows = [row for path in paths for row in records.read_shard(path)]
        found.append(np.frombuffer(b"".join(rows), "<f4"))
        monkeypatch.setattr(teacher_scores, "read_graph", lambda path: None)
    np.testing.assert_allclose(*found, atol=1e-4)
    assert not np.array_equal(*found)  # they are computed in two ways


def test_labels_of_a_segment_are_the_teachers_outputs(shards, teacher, tmp_path):
    model = models.build_model("sample_cnn", num_tags=3, **narrow_options("sample_cnn"))
    segmentation = models.model_info(model).segmentation
    stored = teacher_scores.Stored(teacher, segmentation, has_embeddings=True)
    without = dataclasses.replace(stored, has_embeddings=False)
    assert without.matching_stored(tmp_path, shards) == without
    folder = stored.store(shards, "train", tmp_path)
    assert without.matching_stored(tmp_path, shards) == stored
    task = task_of(shards, teacher, folder)
    plan = tasks.BatchPlan(segmentation, 6, ReadOptions())
    segments, labels = task.batches(plan).batch(0)
    loaded = models.load_model(teacher)
    waveforms = np.array(segments, np.float32) / INT16_SCALE
    scores, embeddings = models.with_embedding(loaded, "embedding").predict_on_batch(
        waveforms
    )
    np.testing.assert_allclose(labels[:, :3], scores, atol=1e-6)
    np.testing.assert_allclose(labels[:, 3:], embeddings, atol=1e-5)
    (folder / "train-00000-of-00001.tfrecord").touch()  # an unrelated file stays
    before = sorted(path.stat().st_mtime_ns for path in folder.iterdir())
    (folder / ".tmp-12-train.tfrecord").touch()  # of a killed run
    assert stored.store(shards, "train", tmp_path) == folder
    assert not list(folder.glob(".tmp-*"))
    assert sorted(path.stat().st_mtime_ns for path in folder.iterdir()) == before
    name = next(path for path in folder.iterdir() if path.stat().st_size > 1000)
    whole = name.read_bytes()
    name.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    stored.store(shards, "train", tmp_path)  # scores the damaged file again
    assert name.read_bytes() == whole
    (folder / "about.json").write_text("{")  # nothing depends on it
    first = next(records.read_shard(name))
    for damaged in (b"", whole[: len(first) + 16], 2 * whole):  # in whole records
        name.write_bytes(damaged)
        stored.store(shards, "train", tmp_path)
        assert name.read_bytes() == whole
    assert task_of(shards, teacher, folder).batches(plan).batch(0)[1].any()


def test_the_teacher_agrees_with_itself(shards, teacher, tmp_path):
    loaded = models.load_model(teacher)
    info = models.model_info(loaded)
    stored = teacher_scores.Stored(teacher, info.segmentation)
    folder = stored.store(shards, "val", tmp_path)
    task = task_of(shards, teacher, folder)
    predict = models.with_record_inputs(loaded, "int16").predict_on_batch
    found = task.evaluate(predict, info, "val")
    assert found.metrics == ("rho", "roc_auc", "pr_auc")
    assert metrics.macro(found)["rho"] > 0.999 and metrics.macro(found)["roc_auc"] == 1
    np.testing.assert_allclose(found.teacher_scores, found.scores, atol=1e-6)
    score = found.scores
    entropy = -(score * np.log(score) + (1 - score) * np.log(1 - score)).mean()
    assert found.loss == pytest.approx(entropy, abs=1e-3)


def test_what_does_not_fit_is_said(shards, teacher, tmp_path):
    with pytest.raises(ValueError, match="temperature must be above 0, not 0"):
        tasks.Distillation(shards, teacher, temperature=0)
    with pytest.raises(ValueError, match="embedding_weight must be at least 0, not -1"):
        tasks.Distillation(shards, teacher, embedding_weight=-1)
    with pytest.raises(ValueError, match="random crops. Add `crops_per_clip=0`"):
        train(shards, teacher, tmp_path, recipes.RECIPES["won2020"])
    other = models.build_model("fcn", **narrow_options("fcn"), num_tags=2, tags="ab")
    models.save_model(other, tmp_path / "other.keras")
    with pytest.raises(ValueError, match="expects 16000 Hz but"):
        train(shards, tmp_path / "other.keras", tmp_path)
    with pytest.raises(ValueError, match="student fcn takes 464000"):
        fcn = models.Architecture("fcn", narrow_options("fcn"))
        train(shards, teacher, tmp_path, model=fcn)
    with pytest.raises(ValueError, match="Add `augment=`"):
        train(shards, teacher, tmp_path, recipe_of(transforms=("gain",)))
    with pytest.raises(ValueError, match="initial_stage=` must be 0 to 0, not 9"):
        run = trainer.RunOptions(initial_stage=9)
        train(shards, teacher, tmp_path, run=run)
    assert not list(tmp_path.glob("scores-*"))


def test_agreement_is_no_monitor_of_labels(built, tmp_path):
    task = tasks.Labels(open_shards(built))
    with pytest.raises(ValueError, match="val_rho is not measured in this"):
        trainer.train(task, NARROW, recipe_of(), tmp_path)


@pytest.mark.slow
def test_distillation_from_the_command_line(built, tmp_path, run_script, teacher):
    train = ("train.py", "--data-dir", built, "--train-dir", tmp_path / "run")
    options = ("--num-filters", 2, "--alpha", 1, "--batch-size", 8)
    options += ("--num-lr-decays", 1, "--max-epochs", 1)
    done = run_script(*train, "--teacher", teacher, *options, "--rounds", 2)
    assert done.returncode == 2
    assert "--rounds needs --teacher and --unlabelled" in done.stderr
    options += ("--scores-dir", tmp_path / "scores", "--temperature", 2)
    done = run_script(*train, "--teacher", teacher, *options)
    assert done.returncode == 0, done.stderr
    assert "agreement with the teacher: rho" in done.stdout
    (folder,) = (tmp_path / "scores").glob("scores-*")
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*-of-*")}
    other = ("--train-dir", tmp_path / "other", "--teacher", teacher, *options)
    done = run_script("train.py", "--data-dir", built, *other, "--seed", 1)
    assert done.returncode == 0, done.stderr
    assert written == {path: path.stat().st_mtime_ns for path in folder.glob("*-of-*")}
    assert any(path.name.startswith("train-") for path in written)
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["recipe"]["stages"][0]["optimizer"] == "Adam"
