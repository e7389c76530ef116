"""Clip scores and metrics against hand arithmetic and scikit-learn."""

import json

import numpy as np
import pytest
from conftest import build_corpus

from tagger import evaluation, inputs, models, plotting, records
from tagger.models import ModelInfo


def scored(labels, scores, tags=None):
    labels = np.array(labels, np.uint8)
    tags = tags or tuple(f"tag{i}" for i in range(labels.shape[1]))
    ids = np.arange(len(labels)).astype(str)
    return evaluation.Evaluation(
        "demo", "test", "by hand", tags, ids, labels, np.array(scores), 0.0
    )


def test_hand_counted_metrics():
    # tag0: one pair of four in the wrong order; precision 1 and 2/3 at its positives.
    result = scored(
        [[1, 1], [0, 0], [1, 0], [0, 0]],
        [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.4]],
    )
    table = result.per_tag()
    assert table["roc_auc"].tolist() == [0.75, 0.0]
    assert table["pr_auc"].tolist() == pytest.approx([(1 + 2 / 3) / 2, 0.25])
    assert result.macro() == pytest.approx(
        {"roc_auc": 0.375, "pr_auc": (5 / 6 + 0.25) / 2}
    )
    assert result.macro_line() == "test macro: ROC-AUC 0.3750, PR-AUC 0.5417"


def test_tags_without_positive_or_negative_are_named_and_left_out():
    result = scored(
        [[1, 0, 1], [0, 0, 1]], [[0.9, 0.1, 0.2], [0.1, 0.2, 0.1]], ("a", "none", "all")
    )
    assert result.macro() == {"roc_auc": 1.0, "pr_auc": 1.0}
    assert "no positive or no negative clip: none, all" in result.report()
    content = json.loads(result.as_json())
    assert content["left_out"] == ["none", "all"]
    assert content["tags"]["none"] == {
        "positives": 0, "negatives": 2, "roc_auc": None, "pr_auc": None,
    }  # fmt: skip


def test_no_defined_tag_at_all_is_no_crash():
    result = scored([[1], [1]], [[0.1], [0.2]])
    assert np.isnan(result.macro()["roc_auc"])
    assert json.loads(result.as_json())["roc_auc"] is None


def info_of(shards, **changes):
    manifest = shards.manifest
    fields = dict(name="oracle", sample_rate=22050, window=records.Window(59049),
                  num_tags=len(manifest.tags), tags=manifest.tags)  # fmt: skip
    return ModelInfo(**fields | changes)


def test_clip_scores_are_the_mean_of_the_segments_for_any_predict_function(built):
    shards = inputs.open_shards(built)

    def loudness(segments):
        level = np.abs(segments.astype(float)).mean(axis=1, keepdims=True)
        return np.repeat(level, len(shards.manifest.tags), axis=1)

    result = evaluation.evaluate(loudness, shards, info_of(shards), batch_size=7)
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
    assert result.per_tag()["roc_auc"].iloc[loud] == 1.0


def test_scores_do_not_depend_on_the_batch_size(built, trained):
    shards = inputs.open_shards(built)
    model = models.load_model(trained / "model.keras")
    predict, info = evaluation.predictor(model, shards), models.model_info(model)
    a, b = (evaluation.evaluate(predict, shards, info, batch_size=n) for n in (4, 30))
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)  # float32 sums by batch


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 16000}, "expects 16000 Hz but .* holds 22050 Hz"),
        ({"num_tags": 9, "tags": None}, "scores 9 tags but .* --num-tags 9"),
    ],
)  # fmt: skip
def test_a_model_of_another_rate_or_number_of_tags_is_refused(built, changes, message):
    shards = inputs.open_shards(built)
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(None, shards, info_of(shards, **changes))


def test_other_tags_or_another_order_are_told_apart(built):
    shards = inputs.open_shards(built)
    tags = shards.manifest.tags
    with pytest.raises(
        ValueError, match="number 1 is .*the same tags in another order"
    ):
        evaluation.check_match(info_of(shards, tags=tags[::-1]), shards)
    with pytest.raises(ValueError, match="number 10 is .zither. .*other tags"):
        evaluation.check_match(info_of(shards, tags=(*tags[:-1], "zither")), shards)


def test_a_model_without_tags_takes_the_manifests_and_says_so(built):
    shards = inputs.open_shards(built)
    with pytest.warns(
        UserWarning, match="holds no tag names; names and order are those of"
    ):
        names = evaluation.tag_names(info_of(shards, tags=None), shards)
    assert names == shards.manifest.tags


def test_a_split_whose_clips_were_all_skipped_is_named(corpus):
    for path in (corpus / "mp3").glob("[def]/*"):
        path.unlink()
    build_corpus(corpus, max_missing=1)
    shards = inputs.open_shards(corpus)
    with pytest.raises(ValueError, match="holds no test clips"):
        evaluation.evaluate(None, shards, info_of(shards))


@pytest.mark.parametrize("num_tags", [1, 50])
def test_bar_plot_shows_every_tag_and_says_what_is_undefined(tmp_path, num_tags):
    random = np.random.RandomState(0)
    labels = random.randint(0, 2, (20, num_tags))
    labels[:, 0] = 0
    figure = plotting.plot_scores(
        scored(labels, random.rand(20, num_tags)).per_tag(), "title"
    )
    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == num_tags
    assert [text.get_text() for text in axes.texts] == ["no positive clip"]
    plotting.save(figure, tmp_path / "scores.svg")
    assert (tmp_path / "scores.svg").stat().st_size > 1000
