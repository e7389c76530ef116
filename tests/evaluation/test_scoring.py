"""Compares clip scores and metrics with hand arithmetic and scikit-learn."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from conftest import build_corpus, fails
from sklearn.metrics import average_precision_score, roc_auc_score

from tagger import models, plotting
from tagger.data import records
from tagger.data.clips import open_shards
from tagger.data.manifest import Manifest
from tagger.evaluation import (
    alignment,
    bootstrap,
    figures,
    metrics,
    published,
    rates,
    reliability,
    scoring,
)
from tagger.models import ModelInfo
from tagger.segmentation import Segmentation


def scored(labels, scores, tags=None):
    labels = np.array(labels, np.uint8)
    tags = tags or tuple(f"tag{i}" for i in range(labels.shape[1]))
    ids = np.arange(len(labels)).astype(str)
    return metrics.Evaluation(
        "demo", "test", "by hand", tags, ids, labels, np.array(scores), 0.0
    )


def test_hand_counted_metrics():
    # tag0: one pair of four in the wrong order; precision 1 and 2/3 at its positives.
    result = scored(
        [[1, 1], [0, 0], [1, 0], [0, 0]],
        [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.4]],
    )
    table = metrics.per_tag(result)
    assert table["roc_auc"].tolist() == [0.75, 0.0]
    assert table["pr_auc"].tolist() == pytest.approx([(1 + 2 / 3) / 2, 0.25])
    assert metrics.macro(result) == pytest.approx(
        {"roc_auc": 0.375, "pr_auc": (5 / 6 + 0.25) / 2}
    )
    assert metrics.macro_line(result) == "test macro: ROC-AUC 0.3750, PR-AUC 0.5417"


def test_tags_without_positive_or_negative_are_named_and_left_out():
    result = scored(
        [[1, 0, 1], [0, 0, 1]], [[0.9, 0.1, 0.2], [0.1, 0.2, 0.1]], ("a", "none", "all")
    )
    assert metrics.macro(result) == {"roc_auc": 1.0, "pr_auc": 1.0}
    assert "no positive or no negative clip: none, all" in metrics.report(result)
    content = json.loads(metrics.as_json(result, reliability.per_tag(result)))
    assert content["left_out"] == ["none", "all"]
    assert content["tags"]["none"] == {
        "positives": 0, "negatives": 2, "roc_auc": None, "pr_auc": None,
        "brier": pytest.approx(0.025), "ece": pytest.approx(0.15),
    }  # fmt: skip


def test_no_defined_tag_at_all_is_no_crash():
    result = scored([[1], [1]], [[0.1], [0.2]])
    assert np.isnan(metrics.macro(result)["roc_auc"])
    assert json.loads(metrics.as_json(result))["roc_auc"] is None


def info_of(shards, **changes):
    manifest = shards.manifest
    fields = dict(name="oracle", sample_rate=22050, segmentation=Segmentation(59049),
                  num_tags=len(manifest.tags), tags=manifest.tags)  # fmt: skip
    return ModelInfo(**fields | changes)


def test_clip_scores_are_the_mean_of_the_segments_for_any_predict_function(built):
    shards = open_shards(built)

    def loudness(segments):
        level = np.abs(segments.astype(float)).mean(axis=1, keepdims=True)
        return np.repeat(level, len(shards.manifest.tags), axis=1)

    result = scoring.evaluate(loudness, shards, info_of(shards), batch_size=7)
    assert len(result.clip_ids) == 6
    for name in shards.manifest.shard_names("test"):
        for example in records.read_shard(built / name):
            values = records.decode(example)
            row = result.clip_ids.tolist().index(values["clip_id"])
            whole = values["segments"][: 5 * 59049].astype(float)
            assert result.scores[row, 0] == pytest.approx(
                np.abs(whole).mean(), rel=1e-6
            )
            np.testing.assert_array_equal(result.labels[row], values["labels"])
    loud = list(result.tags).index("loud")
    assert metrics.per_tag(result)["roc_auc"].iloc[loud] == 1.0


def test_scores_do_not_depend_on_the_batch_size(built, trained):
    shards = open_shards(built)
    model = models.load_model(trained / "model.keras")
    predict, info = scoring.predictor(model, shards), models.model_info(model)
    a, b = (scoring.evaluate(predict, shards, info, batch_size=n) for n in (4, 30))
    # float32 sums depend on the batch.
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 16000}, "expects 16000 Hz but .* holds 22050 Hz"),
        ({"num_tags": 9, "tags": None}, "scores 9 tags but .* `num_tags=9`"),
    ],
)  # fmt: skip
def test_a_model_of_another_rate_or_number_of_tags_is_refused(built, changes, message):
    shards = open_shards(built)
    with pytest.raises(ValueError, match=message):
        scoring.evaluate(None, shards, info_of(shards, **changes))


def test_tags_are_aligned_by_name(built):
    """Compares a model with other tags, in another order, with columns set by hand."""
    shards = open_shards(built)
    tags = shards.manifest.tags
    places = [7, 2, 0]
    named = ("zither", *(tags[n] for n in places))
    info = info_of(shards, tags=named, num_tags=4)

    def scores(segments):
        level = np.abs(segments.astype(float)).mean(axis=1, keepdims=True) / 32768
        return level * np.arange(1, 5) / 5

    full = scoring.evaluate(
        lambda segments: np.repeat(scores(segments)[:, :1], 10, axis=1),
        shards,
        info_of(shards),
    )
    result = scoring.evaluate(scores, shards, info)
    assert result.tags == tuple(tags[n] for n in sorted(places))
    assert result.note == "3 tags in common, of 10 in the data and 4 in the model"
    assert result.note in metrics.report(result)
    np.testing.assert_array_equal(result.labels, full.labels[:, sorted(places)])
    assert result.columns == (3, 2, 1)  # of tags 0, 2 and 7
    by_loudness = metrics.per_tag(full)["roc_auc"][list(result.tags)]
    assert metrics.per_tag(result)["roc_auc"].tolist() == by_loudness.tolist()
    # A threshold belongs to a tag of the model, whatever its place in the data.
    never = [0.0, 2.0, 2.0, 2.0]
    assert metrics.macro_f1(result, never) == 0
    order = info_of(shards, tags=tags[::-1])
    assert "order them differently" in alignment.common_tags(order, shards).note


def test_models_that_must_match_exactly_are_told_the_difference(built):
    shards = open_shards(built)
    tags = shards.manifest.tags
    with pytest.raises(ValueError, match="different tags .*order them differently"):
        alignment.check_match(info_of(shards, tags=tags[::-1]), shards)
    with pytest.raises(ValueError, match="9 tags in common, of 10 in the data and 10"):
        alignment.check_match(info_of(shards, tags=(*tags[:-1], "zither")), shards)
    with pytest.raises(ValueError, match="share no tags: the model scores zither"):
        scoring.evaluate(None, shards, info_of(shards, tags=("zither",), num_tags=1))


def test_a_model_without_tags_takes_the_manifests_and_says_so(built):
    shards = open_shards(built)
    with pytest.warns(
        UserWarning, match="holds no tag names; using the names and order of"
    ):
        common = alignment.common_tags(info_of(shards, tags=None), shards)
    assert common.names == shards.manifest.tags


def test_a_split_whose_clips_were_all_skipped_is_named(corpus):
    for path in (corpus / "mp3").glob("[def]/*"):
        path.unlink()
    build_corpus(corpus, max_missing=1)
    shards = open_shards(corpus)
    with pytest.raises(ValueError, match="holds no test clips"):
        scoring.evaluate(None, shards, info_of(shards))


@pytest.mark.parametrize("num_tags", [1, 50])
def test_bar_plot_shows_every_tag_and_says_what_is_undefined(tmp_path, num_tags):
    random = np.random.RandomState(0)
    labels = random.randint(0, 2, (20, num_tags))
    labels[:, 0] = 0
    figure = figures.plot_scores(
        metrics.per_tag(scored(labels, random.rand(20, num_tags))), "title"
    )
    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == num_tags
    assert [text.get_text() for text in axes.texts] == ["no positive clip"]
    plotting.save(figure, tmp_path / "scores.svg")
    assert (tmp_path / "scores.svg").stat().st_size > 1000


def many(num_clips=200, seed=0):
    """Returns scores that are partly right about four tags."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_clips, 4)) < 0.3).astype(np.uint8)
    scores = rng.random((num_clips, 4)) + 0.5 * labels
    return scored(labels, scores.astype(np.float32))


def test_bootstrap_of_auc_agrees_with_the_formula_of_hanley_and_mcneil():
    one = many()
    one = scored(one.labels[:, :1], one.scores[:, :1])
    interval = bootstrap.bootstrap(one, 400)["roc_auc"]
    auc, positives = metrics.macro(one)["roc_auc"], one.labels.sum()
    negatives = len(one.labels) - positives
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2)
    variance = (variance + (negatives - 1) * (q2 - auc**2)) / (positives * negatives)
    assert interval.value == auc and interval.p_value is None
    width = 2 * 1.96 * np.sqrt(variance)  # the formula assumes exponential scores
    assert interval.high - interval.low == pytest.approx(width, rel=0.25)


def test_a_paired_comparison_draws_the_same_clips_for_both():
    one = many()
    noise = np.random.default_rng(1).normal(0, 1, one.scores.shape)
    worse = dataclasses.replace(one, scores=one.scores + noise)
    slightly = dataclasses.replace(one, scores=one.scores + 0.01 * noise)
    same = bootstrap.bootstrap(one, 20, one)["roc_auc"]
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    far = bootstrap.bootstrap(one, 110, worse)["roc_auc"]
    assert far.value > 0.1 and far.low > 0 and far.p_value < 0.02
    near = bootstrap.bootstrap(one, 60, slightly)["roc_auc"]
    alone = bootstrap.bootstrap(one, 60)["roc_auc"]
    # Pairing removes the variation that both models share.
    assert near.high - near.low < 0.2 * (alone.high - alone.low)
    others = dataclasses.replace(one, clip_ids=one.clip_ids[::-1])
    with pytest.raises(ValueError, match="not scored on the same clips"):
        bootstrap.bootstrap(one, 10, others)


def test_models_are_compared_only_on_the_same_tags(trained, built):
    shards = open_shards(built)
    info = models.model_info(models.load_model(trained / "model.keras"))
    alignment.check_comparable(info, info, shards)
    fewer = dataclasses.replace(
        info, tags=info.tags[1:], num_tags=info.num_tags - 1, thresholds=None
    )
    with pytest.raises(ValueError, match=f"only one of them scores {info.tags[0]}. C"):
        alignment.check_comparable(info, fewer, shards)
    faster = dataclasses.replace(info, sample_rate=44100)
    with pytest.raises(ValueError, match="expects 44100 Hz"):
        alignment.check_comparable(info, faster, shards)


def test_thresholds_have_the_best_f1_of_all():
    one = many(60)
    thresholds = metrics.best_thresholds(one)
    best = metrics.macro_f1(one, thresholds)
    for tag in range(4):
        for candidate in one.scores[:, tag]:
            tried = [*thresholds[:tag], candidate, *thresholds[tag + 1 :]]
            assert metrics.macro_f1(one, tried) <= best + 1e-12
    never = scored(np.zeros((3, 1)), np.full((3, 1), 0.5))
    assert metrics.best_thresholds(never) == [1.0]


def test_published_scores_stand_beside_ours_and_the_split_is_named():
    one = dataclasses.replace(
        many(), dataset="mtg_jamendo", split_rule="top50tags: split 0 by artist"
    )
    text = published.compare(one, "mine")
    assert "mine" in text and "this model, test split, 4 tags" in text
    assert "0.8324   0.2976  Won et al. 2020" in text and "'split 0'" in text
    assert "on 4 tags, the published ones on 50: the scores are not" in text
    with pytest.raises(ValueError, match="no published scores for demo, by hand, only"):
        published.compare(many(), "mine")
    with pytest.raises(ValueError, match=r"split 1.*only for mtg_jamendo \(split 0\)"):
        published.scores_on("mtg_jamendo", "top50tags: split 1 by artist")


def test_published_scores_are_those_of_the_same_test_set():
    """MagnaTagATune with clips that have no tag is another test set."""
    clean = published.scores_on("magnatagatune", "won: directories 0-b, c, d-f")
    whole = published.scores_on("magnatagatune", "pons: directories 0-b, c, d-f")
    assert {row.split for row in clean} == {"clean"} and len(clean) > 20
    assert min(row.pr_auc for row in clean if row.model.startswith("M")) > 0.46
    assert max(row.pr_auc for row in whole) < 0.42
    models = {row.model for row in whole}
    assert {"musicnn_pons", "MULE", "MuQ"} <= models and "musicnn" not in models
    for name in ("as built by resemul", "lee: Lee's lists"):
        assert published.scores_on("magnatagatune", name) == clean


def test_reliability_counted_by_hand():
    # .9 and .95 in one bin: a mean of .925, of which a half is right; .1 never is.
    result = scored([[1], [0], [0], [0]], [[0.9], [0.95], [0.1], [0.1]])
    errors = reliability.per_tag(result)
    assert errors["brier"]["tag0"] == pytest.approx((0.01 + 0.9025 + 0.02) / 4)
    assert errors["ece"]["tag0"] == pytest.approx((2 * 0.425 + 2 * 0.1) / 4)
    curve = reliability.curve(result)
    assert curve["clips"].tolist() == [2, 2]
    assert curve["score"].tolist() == pytest.approx([0.1, 0.925])
    assert curve["share"].tolist() == [0, 0.5]
    assert "Brier score 0.2331" in reliability.describe(errors)
    right = scored([[1, 0], [0, 1]], [[1.0, 0.0], [0.0, 1.0]])
    assert (reliability.per_tag(right) == 0).all(axis=None)
    from sklearn.calibration import calibration_curve

    one = many(500)
    one = dataclasses.replace(one, scores=1 / (1 + np.exp(-one.scores)))
    share, score = calibration_curve(one.labels.ravel(), one.scores.ravel(), n_bins=10)
    curve = reliability.curve(one)
    np.testing.assert_allclose(curve["share"], share)
    np.testing.assert_allclose(curve["score"], score, rtol=1e-6)


def test_tags_that_differ_are_named_after_holms_correction():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=(300, 20))
    same = rng.random((300, 20))
    better = same.copy()
    better[:, 3] = 0.5 * same[:, 3] + 0.5 * labels[:, 3]
    table = bootstrap.differences_per_tag(
        scored(labels, better), scored(labels, same), 200
    )
    assert table.index[0] == "tag3" and table["p_holm"].iloc[0] < 1e-6
    assert (table["p_holm"].iloc[1:] == 1).all()  # they are the same
    said = bootstrap.describe_tags(table)
    assert "over the 20 tags with 10 clips): tag3 +0." in said and "tag1" not in said
    # A tag with few clips has no p-value: its spread is not seen in resamples.
    labels[:, 5] = np.arange(300) < 9
    table = bootstrap.differences_per_tag(
        scored(labels, better), scored(labels, same), 200
    )
    assert "tag5" not in table.index and len(table) == 19
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=(300, 20))
    # By chance alone, one in twenty p-values is below .05; corrected, hardly any.
    noise = [scored(labels, rng.random((300, 20))) for _ in range(2)]
    table = bootstrap.differences_per_tag(*noise, 200)
    assert table["p_holm"].min() > 0.05 and (table["p_holm"] >= table["p"]).all()
    assert bootstrap.describe_tags(table).startswith("No tag's ROC-AUC differs")
    p = table["p"].to_numpy()
    expected = [min(max(p[: n + 1] * (20 - np.arange(n + 1))), 1) for n in range(20)]
    np.testing.assert_allclose(table["p_holm"], expected)


def test_loss_is_keras_cross_entropy(trained, built):
    shards = open_shards(built)
    model = models.load_model(trained / "model.keras")
    info = models.model_info(model)
    predict = scoring.predictor(model, shards)
    clips, rule = shards.clips("test"), info.segmentation
    segments = [clips.segments(number, rule) for number in range(len(clips))]
    scores = predict(np.concatenate(segments))
    labels = np.repeat(clips.labels, clips.num_segments(rule), axis=0)
    labels = labels.astype("float32")
    expected = np.mean(keras.losses.binary_crossentropy(labels, scores))
    result = scoring.evaluate(predict, shards, info, "test")
    assert result.loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_eval_compares_tunes_and_measures_robustness(
    trained, built, tmp_path, run_script
):
    model = trained / "model.keras"
    data = shutil.copytree(built, tmp_path / "data")
    refused = run_script("eval.py", model, "--data-dir", data, "--published")
    fails(refused, "There are no published scores for demo")
    manifest = (data / "manifest.json").read_text()
    assert '"dataset": "demo"' in manifest
    manifest = manifest.replace('"dataset": "demo"', '"dataset": "magnatagatune"')
    manifest = manifest.replace('"split_rule": "', '"split_rule": "won: ')
    (data / "manifest.json").write_text(manifest)
    tuned, plot = tmp_path / "tuned.keras", tmp_path / "robustness.png"
    done = run_script(
        *("eval.py", model, "--data-dir", data, "--bootstrap", 20),
        *("--compare-with", model, "--tune-thresholds", tuned),
        *("--published", "--robustness", plot, "--reliability", tmp_path / "r.png"),
    )
    assert done.returncode == 0, done.stderr
    assert "short_chunk_resnet" in done.stdout and "macro F1" in done.stdout
    assert "95 % interval" in done.stdout and "+0.0000" in done.stdout
    assert "No tag's ROC-AUC differs" in done.stdout and "Brier score" in done.stdout
    assert (tmp_path / "r.png").stat().st_size > 5_000
    assert "0.4 of peak" in done.stdout and plot.stat().st_size > 10_000
    assert models.model_info(models.load_model(tuned)).thresholds
    assert done.stdout.splitlines()[-1].startswith("test macro: ROC-AUC")


def scored_on(num_tags, num_clips=20):
    rng = np.random.default_rng(0)
    labels = (rng.random((num_clips, num_tags)) < 0.5).astype(np.uint8)
    tags = tuple(f"tag {n}" for n in range(num_tags))
    return metrics.Evaluation(
        "magnatagatune", "test", "won: a split", tags,
        np.arange(num_clips).astype(str), labels, labels * 0.9 + 0.05, 0.1,
    )  # fmt: skip


def test_only_scores_on_fifty_tags_are_ranked_among_the_published():
    ranked = published.compare(scored_on(50), "mine").splitlines()
    assert ranked[1].split()[0] == "mine"  # a perfect score comes first
    assert "not comparable" in published.compare(scored_on(14), "mine")


# --- Resamples, folds and maps of names -----------------------------------------------


@pytest.mark.parametrize("num_values", [3, 1000])  # many ties, and hardly any
def test_aucs_of_resamples_are_those_of_scikit_learn(num_values):
    random = np.random.default_rng(0)
    labels = random.integers(2, size=60).astype(np.uint8)
    scores = random.integers(num_values, size=60).astype(np.float32)
    draws = random.integers(60, size=(5, 60))
    weights = np.array([np.bincount(draw, minlength=60) for draw in draws])
    found = bootstrap.resampled_aucs(labels, scores, weights)
    for draw, (roc_auc, pr_auc) in zip(draws, found, strict=True):
        expected = roc_auc_score(labels[draw], scores[draw])
        assert roc_auc == pytest.approx(expected, abs=1e-12)
        expected = average_precision_score(labels[draw], scores[draw])
        assert pr_auc == pytest.approx(expected, abs=1e-12)


def test_scores_of_different_folds_are_not_compared():
    """Two models that rank perfectly, one of which scores everything higher."""
    labels = np.array([[1], [0], [0], [1], [1], [0]], np.uint8)
    scores = np.array([[0.3], [0.2], [0.1], [0.9], [0.8], [0.7]], np.float32)
    one = metrics.Evaluation(
        "d", "s", "r", ("t",), np.arange(6).astype(str), labels, scores, 0.0
    )
    assert metrics.macro(one)["roc_auc"] < 1
    apart = dataclasses.replace(one, folds=np.array([0, 0, 0, 1, 1, 1]))
    assert metrics.macro(apart) == {"roc_auc": 1, "pr_auc": 1}
    drawn = bootstrap.bootstrap(apart, 50)["roc_auc"]
    assert (drawn.low, drawn.high) == (1, 1)
    ends = bootstrap.intervals_per_tag(apart, 50)
    assert ends.loc["t", "pr_auc_low"] == 1


def test_the_mean_over_folds_weighs_positive_clips():
    labels = np.array([[1], [0], [1], [1], [1], [0]], np.uint8)
    scores = np.array([[0.1], [0.2], [0.9], [0.8], [0.7], [0.6]], np.float32)
    one = metrics.Evaluation(
        *("d", "s", "r", ("t",), np.arange(6).astype(str), labels, scores, 0.0),
        folds=np.array([0, 0, 1, 1, 1, 1]),
    )
    # Fold 0 with one positive clip has a ROC-AUC of 0, fold 1 with three has 1.
    assert metrics.macro(one)["roc_auc"] == 3 / 4


def test_an_interval_of_pr_auc_contains_its_value():
    """Resamples repeat clips, which raises PR-AUC: the intervals have no such bias."""
    random = np.random.default_rng(0)
    labels = (random.random((200, 3)) < 0.03).astype(np.uint8)
    labels[0] = 1
    scores = (labels * 0.5 + random.random((200, 3))).astype(np.float32)
    one = metrics.Evaluation(
        "d", "s", "r", ("a", "b", "c"), np.arange(200).astype(str), labels, scores, 0.0
    )
    interval = bootstrap.bootstrap(one, 300)["pr_auc"]
    assert interval.low < interval.value < interval.high
    middle = (interval.low + interval.high) / 2
    width = interval.high - interval.low
    assert abs(middle - interval.value) < width / 5


def test_thresholds_are_reached_by_the_given_number_of_clips():
    scores = np.random.default_rng(0).random((50, 4)).astype(np.float32)
    thresholds = rates.thresholds_reached_by(scores, np.array([1, 7, 49, 50]))
    for rounding in (-1e-6, 1e-6):
        reached = scores + rounding >= np.array(thresholds)
        assert reached.sum(axis=0).tolist() == [1, 7, 49, 50]


def test_a_map_pairs_tags_that_are_spelt_differently(built, trained, run_script):
    shards = open_shards(built)
    info = models.model_info(models.load_model(trained / "model.keras"))
    names = list(info.tags)
    other = dataclasses.replace(info, tags=(*names[1:], "hard rock"))
    tags = alignment.common_tags(other, shards, {names[0]: "hard rock"})
    assert tags.names == info.tags
    assert tags.model_columns == [len(names) - 1, *range(len(names) - 1)]
    # A model that spells the tag as the data does can be compared with the other.
    alignment.check_map({names[0]: "hard rock"}, [info, other], shards)
    alignment.check_comparable(info, other, shards, {names[0]: "hard rock"})
    command = ["eval.py", trained / "model.keras", "--data-dir", built]
    done = run_script(*command, "--rename", f"{names[0]}={names[1]}")
    assert done.returncode == 0, done.stderr
    fails(
        run_script(*command, "--rename", f"{names[0]}=nothing"),
        "has no tag 'nothing'",
        "Give DATA=MODEL",
    )
    fails(run_script(*command, "--rename", "rock"), "not a pair of tags")


def test_a_fold_is_scored_whatever_its_split(built, trained, tmp_path, run_script):
    folder = shutil.copytree(built, tmp_path / "shards")
    model = trained / "model.keras"
    command = ["eval.py", model, "--data-dir", folder, "--json"]
    fails(run_script(*command, "--fold", 1), "has no fold 1, because it was built")
    manifest = Manifest.load(folder)
    splits = {}
    for split in ("train", "val", "test"):
        splits |= dict.fromkeys(open_shards(folder).clips(split).ids.tolist(), split)
    manifest.folds = {clip_id: n % 2 for n, clip_id in enumerate(sorted(splits))}
    manifest.save(folder)
    done = run_script(*command, "--fold", 1)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["split"] == "fold 1" and found["num_clips"] == len(splits) // 2
    fails(run_script(*command, "--fold", 7), "has no fold 7, only 0, 1")
    done = run_script(*command, "--fold", 1, "--split", "val")
    fails(done, "Give --fold or --split, not both")
