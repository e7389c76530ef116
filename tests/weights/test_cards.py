"""Model cards: their front matter, and what they say."""

import json

import pytest
from narrow import narrow_options

from tagger import cli, models
from tagger.weights import cards
from tagger.weights.pretrained import PRETRAINED

yaml = pytest.importorskip("yaml")


def front_matter(text):
    empty, header, _ = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(header)


@pytest.mark.parametrize("name", PRETRAINED)
def test_every_pretrained_model_has_a_card(name):
    found, text = PRETRAINED[name], cards.card(name)
    header = front_matter(text)
    assert header["library_name"] == "keras"
    assert header["pipeline_tag"] == "audio-classification"
    assert header["license"] == {"ISC": "isc", "MIT": "mit"}.get(found.licence, "other")
    if found.scores:
        ((result, *_),) = (index["results"] for index in header["model-index"])
        values = [metric["value"] for metric in result["metrics"]]
        assert values == [score for score in found.scores if score]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for number, tag in enumerate(found.tags):
        assert any(row.startswith(f"| {number} | {tag} |") for row in rows)
    assert "{" not in text.split("---\n", 2)[2].replace("{'", "")


def test_a_card_states_what_we_measured():
    (index,) = front_matter(cards.card("musicnn_mtt"))["model-index"]
    published, measured = index["results"]
    assert published["source"]["name"] == "published, PyPI"
    assert measured["dataset"]["name"] == "openly licensed game music"
    assert [metric["value"] for metric in measured["metrics"]] == [0.8572, 0.6634]


@pytest.fixture
def model_path(tmp_path):
    tags = ("rock", "a|b\n# c", "calm")
    options = narrow_options("sample_cnn") | {"num_tags": 3, "tags": tags}
    model = models.build_model("sample_cnn", **options)
    models.set_thresholds(model, [0.5, 0.25, 0.125])
    model.layers[-1].provenance = {"data": "x|y", "licence": "MIT |\n\n# x"}
    models.save_model(model, tmp_path / "mine.keras")
    return tmp_path / "mine.keras"


def test_a_card_says_what_the_file_and_its_evaluation_say(model_path, tmp_path):
    evaluation = tmp_path / "scores.json"
    facts = {"dataset": "magnatagatune", "split": "test", "split_rule": "resemul"}
    content = facts | {"roc_auc": 0.9, "pr_auc": None, "tags": {}, "loss": 0.1}
    evaluation.write_text(json.dumps(content))
    text = cards.card(model_path, [evaluation])
    header = front_matter(text)
    assert header["license"] == "other"
    (result,) = header["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test (resemul)"
    assert [metric["value"] for metric in result["metrics"]] == [0.9]
    assert "| data | x\\|y |" in text and "| 2 | calm | 0.1250 |" in text
    # A tag cannot add a line or a column.
    assert "\n# c" not in text and "\n# x" not in text and "| 1 | a\\|b" in text
    assert "22050 Hz, segments of 59049 samples (2.68 s)" in text


def test_what_is_no_model_or_no_evaluation_is_said(model_path, tmp_path, capsys):
    (tmp_path / "wrong.json").write_text('{"dataset": 3}')
    with pytest.raises(
        ValueError, match="Give a file that eval.py --output FILE.json wrote"
    ):
        cards.card(model_path, [tmp_path / "wrong.json"])
    with pytest.raises(ValueError, match="was not made by this project"):
        (tmp_path / "other.keras").write_text("no model")
        cards.card(tmp_path / "other.keras")
    for model, licence in (("musicnn_mtt", "isc"), (str(model_path), "other")):
        cli.main(["models", "share", model, "hf://ann/mine", "--dry-run"])
        assert front_matter(capsys.readouterr().out)["license"] == licence
