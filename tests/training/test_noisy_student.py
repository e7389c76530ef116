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
from tagger.models import registry
from tagger.training import recipes, tasks


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
    return tasks.NoisyStudent(shards, shards, teacher, **options)


def plan_of(teacher, batch_size, **options):
    segmentation = models.model_info(models.load_model(teacher)).segmentation
    options = ReadOptions(**options)
    return tasks.BatchPlan(segmentation, batch_size, options)


def logits_of(scores):
    return np.log(scores) - np.log(1 - scores)


RECIPE = recipes.override(recipes.RECIPES["resemul"], batch_size=8)


def test_a_skeptical_student_doubts_what_annotators_left_out(half_labelled, teacher):
    labels = np.array([[1.0, 0.0, 0.0]])
    scores = np.array([[0.8, 0.5, 0.25]])
    plain = -(np.log(0.8) + np.log(0.5) + np.log(0.75)) / 3
    skeptical = -(np.log(0.8) + 0.1 * np.log(0.5) + np.log(0.75)) / 3

    def loss(kind, of_teacher):
        found = task_of(half_labelled, teacher, labelled_loss=kind).loss(RECIPE)
        return float(found(labels, np.c_[logits_of(scores), [of_teacher]])[0])

    assert loss("bce", [0.1, 0.9, 0.0]) == pytest.approx(plain)
    assert loss("skeptical", [0.1, 0.9, 0.0]) == pytest.approx(skeptical)
    # A teacher with scores of zero gives every missing tag its full weight.
    assert loss("skeptical", [0.0, 0.0, 0.0]) == pytest.approx(plain)


def test_a_batchs_loss_is_the_sum_of_both_parts_means(half_labelled, teacher):
    """Of seven segments, at a labelled share of .4, three are labelled."""
    task = task_of(half_labelled, teacher, labelled_share=0.4)
    _, labels, weights = task.batches(plan_of(teacher, 7)).batch(0)
    rng = np.random.default_rng(0)
    scores, of_teacher = rng.random((2, *labels.shape)).astype(np.float32)
    outputs = np.concatenate([logits_of(scores), of_teacher], axis=1)
    rows = task.loss(RECIPE)(labels, outputs)

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
    fed = task.training_model(model, RECIPE)
    batches = task.batches(plan_of(teacher, 8))
    (segments, unlabelled), labels, weights = batches.batch(0)
    np.testing.assert_array_equal(unlabelled, [0] * 4 + [1] * 4)
    np.testing.assert_array_equal(labels[4:], UNLABELLED)
    assert set(np.unique(labels[:4])) <= {0, 1}
    both = fed([segments, unlabelled], training=True)
    logits, heard = np.split(np.array(both), 2, axis=1)
    waveforms = np.array(segments, np.float32) / 32768
    alone = models.load_model(teacher).predict_on_batch(waveforms)
    np.testing.assert_allclose(heard, alone, atol=1e-6)  # no augmentation, no dropout
    assert np.abs(logits - logits_of(heard)).max() > 1e-3
    before = [np.array(weight) for weight in fed.get_layer("teacher").weights]
    assert before
    fed.compile("sgd", loss=task.loss(RECIPE))
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
    with pytest.raises(ValueError, match="holds no student clips"):
        tasks.NoisyStudent(half_labelled, open_shards(built), teacher)
    with pytest.raises(ValueError, match="Unknown labelled_loss 'mse'. Choose one of:"):
        task_of(half_labelled, teacher, labelled_loss="mse")
    with pytest.raises(ValueError, match="share must be above 0 and below 1, not 1"):
        task_of(half_labelled, teacher, labelled_share=1)
    with pytest.raises(ValueError, match="fcn has no predefined smaller size"):
        registry.smaller("fcn", {})
    name = "music_tagging_transformer"
    tags = half_labelled.manifest.tags
    longer = models.build_model(name, num_tags=10, tags=tags, **narrow_options(name))
    with pytest.raises(ValueError, match="teacher sample_cnn takes 59049 samples, but"):
        task_of(half_labelled, teacher).check(longer, RECIPE)


@pytest.mark.nightly
def test_two_rounds_of_distillation_from_the_command_line(
    half_labelled, teacher, tmp_path, run_script
):
    done = run_script(
        *("train.py", "--data-dir", half_labelled.directory, "--train-dir", tmp_path),
        *("--teacher", teacher, "--unlabelled", half_labelled.directory),
        *("--student", "distillation", "--labelled-loss", "skeptical", "--rounds", 2),
        *("--num-filters", 2, "--alpha", 1, "--batch-size", 8),
        *("--num-lr-decays", 2, "--max-epochs", 1),
    )
    assert done.returncode == 0, done.stderr
    runs = [json.loads((tmp_path / f"round{n}/run.json").read_text()) for n in (1, 2)]
    assert runs[0]["teacher"] != runs[1]["teacher"]
    assert runs[0]["noisy_student"]["labelled_loss"] == "skeptical"
    info = models.model_info(models.load_model(tmp_path / "round2/model.keras"))
    assert info.tags == half_labelled.manifest.tags
