"""Teachers, students and their losses."""

import dataclasses
import json

import numpy as np
import pytest
from narrow import narrow_options

from tagger import models
from tagger.data import building
from tagger.data.batches import ReadOptions
from tagger.data.clips import UNLABELLED, open_shards
from tagger.datasets import magnatagatune
from tagger.training import noisy_student, recipes, trainer


@pytest.fixture(scope="module")
def half_labelled(_corpus, tmp_path_factory):
    """Returns the demo clips' shards with every second train clip unlabelled."""
    annotations = magnatagatune.load_annotations(_corpus)
    splits = annotations.splits.astype("<U7")
    splits[np.flatnonzero(splits == "train")[::2]] = "student"
    folder = tmp_path_factory.mktemp("half")
    building.build(
        dataclasses.replace(annotations, splits=splits),
        folder,
        num_audios_per_shard=4,
        num_workers=2,
    )
    return open_shards(folder)


@pytest.fixture(scope="module")
def teacher(half_labelled, tmp_path_factory):
    tags, options = half_labelled.manifest.tags, narrow_options("sample_cnn")
    model = models.build_model("sample_cnn", num_tags=10, tags=tags, **options)
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    models.save_model(model, path)
    return path


def task_of(shards, teacher, **options):
    options = noisy_student.StudentOptions(**options)
    return noisy_student.NoisyStudentTask(shards, shards, teacher, options)


def plan_of(teacher, batch_size, **options):
    segmentation = models.model_info(models.load_model(teacher)).segmentation
    options = ReadOptions(**options)
    return trainer.BatchPlan(segmentation, batch_size, options)


def test_losses_by_hand():
    labels = np.array([[1.0, 0.0, 0.0]])
    scores = np.array([[0.8, 0.5, 0.25]])
    teacher = np.array([[0.1, 0.9, 0.0]])
    plain = -(np.log(0.8) + np.log(0.5) + np.log(0.75)) / 3
    skeptical = -(np.log(0.8) + 0.1 * np.log(0.5) + np.log(0.75)) / 3
    loss = noisy_student.labelled_loss
    assert float(loss(labels, scores, teacher)[0]) == pytest.approx(plain)
    doubted = float(loss(labels, scores, teacher, "skeptical")[0])
    assert doubted == pytest.approx(skeptical)
    # A teacher with scores of zero gives every missing tag its full weight.
    certain = float(loss(labels, scores, np.zeros((1, 3)), "skeptical")[0])
    assert certain == pytest.approx(plain)


def test_a_batchs_loss_is_the_sum_of_both_parts_means(half_labelled, teacher):
    """Of seven segments, at a labelled share of .4, three are labelled."""
    task = task_of(half_labelled, teacher, labelled_share=0.4)
    _, labels, weights = task.batches(plan_of(teacher, 7)).batch(0)
    rng = np.random.default_rng(0)
    scores, of_teacher = rng.random((2, *labels.shape)).astype(np.float32)
    rows = task.loss(labels, np.concatenate([scores, of_teacher], axis=1))

    def entropy(target, score):
        terms = target * np.log(score) + (1 - target) * np.log(1 - score)
        return -terms.mean()

    expected = entropy(labels[:3], scores[:3]) + entropy(of_teacher[3:], scores[3:])
    assert float(np.mean(rows * weights)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_teacher_hears_clean_music_and_the_student_noised(half_labelled, teacher):
    task = task_of(half_labelled, teacher)
    model = models.build_model(
        "sample_cnn", num_tags=10, **narrow_options("sample_cnn")
    )
    model.load_weights(teacher)  # so that both give the same scores for the same input
    fed = task.training_model(model, recipes.resemul(batch_size=8))
    batches = task.batches(plan_of(teacher, 8))
    (segments, unlabelled), labels, weights = batches.batch(0)
    np.testing.assert_array_equal(unlabelled, [0] * 4 + [1] * 4)
    np.testing.assert_array_equal(labels[4:], UNLABELLED)
    assert set(np.unique(labels[:4])) <= {0, 1}
    both = fed([segments, unlabelled], training=True)
    student, heard = np.split(np.array(both), 2, axis=1)
    waveforms = np.array(segments, np.float32) / 32768
    alone = models.load_model(teacher).predict_on_batch(waveforms)
    np.testing.assert_allclose(heard, alone, atol=1e-6)  # no augmentation, no dropout
    assert np.abs(student - heard).max() > 1e-3
    before = [np.array(weight) for weight in fed.get_layer("teacher").weights]
    assert before
    fed.compile("sgd", loss=task.loss)
    fed.train_on_batch([segments, unlabelled], labels, sample_weight=weights)
    for old, weight in zip(before, fed.get_layer("teacher").weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    assert len(fed.trainable_variables) == len(model.trainable_variables)
    noised = np.array(fed.get_layer("noise")(waveforms, training=True))
    assert np.abs(noised - waveforms).max() > 0.01


def test_an_epoch_holds_each_labelled_segment_once(half_labelled, teacher):
    """It does, although labelled and unlabelled epochs have different lengths."""
    task = task_of(half_labelled, teacher, labelled_share=0.75)
    batches = task.batches(plan_of(teacher, 8, seed=3))
    labelled = [
        segment.tobytes()
        for number in range(len(batches))
        for segment in batches.batch(len(batches) + number)[0][0][:6]
    ]
    assert len(set(labelled)) == len(labelled) > 6


def test_what_does_not_fit_is_said(half_labelled, teacher, built, tmp_path):
    shards, recipe = half_labelled, recipes.resemul(batch_size=8)
    with pytest.raises(ValueError, match="holds no student clips"):
        noisy_student.NoisyStudentTask(shards, open_shards(built), teacher)
    for wrong in ({"labelled_loss": "mse"}, {"student": "idle"}):
        with pytest.raises(ValueError, match="Unknown .*. Choose one of: "):
            noisy_student.StudentOptions(**wrong)
    with pytest.raises(ValueError, match="between 0 and 1, not 1"):
        noisy_student.StudentOptions(labelled_share=1)
    data = noisy_student.StudentData(shards, shards, teacher)
    student = noisy_student.StudentOptions("distillation")
    with pytest.raises(ValueError, match="fcn has no predefined smaller size"):
        noisy_student.train("fcn", {}, recipe, data, tmp_path, student)
    name = "music_tagging_transformer"
    longer = models.build_model(name, num_tags=10, **narrow_options(name))
    with pytest.raises(ValueError, match="teacher sample_cnn takes 59049 samples, but"):
        task_of(shards, teacher).training_model(longer, recipe)


@pytest.mark.nightly
def test_two_rounds_of_distillation_from_the_command_line(
    half_labelled, teacher, tmp_path, run_script
):
    done = run_script(
        *("train.py", "--data-dir", half_labelled.directory, "--train-dir", tmp_path),
        *("--teacher", teacher, "--unlabelled", half_labelled.directory),
        *("--student", "distillation", "--labelled-loss", "skeptical", "--rounds", 2),
        "--cache-scores",
        *("--num-filters", 2, "--alpha", 1, "--batch-size", 8),
        *("--num-lr-decays", 1, "--max-epochs", 1),
    )
    assert done.returncode == 0, done.stderr
    runs = [json.loads((tmp_path / f"round{n}/run.json").read_text()) for n in (1, 2)]
    assert runs[0]["teacher"] != runs[1]["teacher"]
    assert runs[0]["noisy_student"]["labelled_loss"] == "skeptical"
    info = models.model_info(models.load_model(tmp_path / "round2/model.keras"))
    assert info.tags == half_labelled.manifest.tags
