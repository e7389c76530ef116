"""Names of files and tags that are no plain text reach no terminal and stop nothing."""

import csv
import json
import os

import numpy as np
import pandas as pd
import pytest

from tagger import audio, plotting
from tagger.datasets import csv_manifest
from tagger.evaluation import figures as score_figures
from tagger.inference import writers
from tagger.inference.embedding_files import EmbeddingFile
from tagger.interpretation import figures
from tagger.text import as_utf8, printable, table_cell

NAMES = (
    "caf\udce9.wav",
    "a\rb.wav",
    "a\nb.wav",
    "\x1b[31mred\x1b[0m.wav",
    "\x9b31m.wav",
    "=1+1.wav",
    "-x.wav",
    "@sum.wav",
    "a\u202egpj.wav",
    'q"u,o;te.wav',
    "$x_$.wav",
    "tab\tb.wav",
)
TAGS = ("rock", "=cmd|' /C calc'!A0", "\x1b]0;title\x07", "caf\udce9", "$\\frac$")


@pytest.fixture
def music(tmp_path):
    for folder in ("rock", "jazz", "caf\udce9"):
        (tmp_path / "music" / folder).mkdir(parents=True)
        for name in NAMES:
            path = tmp_path / "music" / folder / name
            audio.write_audio(tmp_path / "x.wav", np.ones(4000) / 2, 8000)
            (tmp_path / "x.wav").rename(path)
    return tmp_path / "music"


def test_what_is_escaped_and_what_is_not():
    assert printable("Björk – 音楽 'x' $1") == "Björk – 音楽 'x' $1"
    assert (
        printable("初音　ミク\u202f\xa0👨‍👩‍👧 می‌خواهم")
        == "初音　ミク\u202f\xa0👨‍👩‍👧 می‌خواهم"
    )
    assert printable("a\\b") == "a\\b" and printable("a\\b\x1b") == r"a\\b\x1b"
    assert table_cell("'=x") != table_cell("=x")
    assert printable("a\x1b[31m\r\n\udce9\u202e") == r"a\x1b[31m\r\n\udce9\u202e"
    assert printable("a\nb", keep="\n") == "a\nb"
    # A name that looks like another one escaped is told apart.
    for name in ("a\x1b", "a\n", "a\\", "a\u202e", "a\U000e0001"):
        looks_alike = name.encode("unicode_escape").decode()
        assert printable(name) != printable(looks_alike)
    assert table_cell("=1+1") == "'=1+1" and table_cell("1+1") == "1+1"
    assert as_utf8("caf\udce9") == r"caf\xe9"


def test_a_folder_of_such_names_is_annotated_with_pyarrow_too(music):
    annotations = csv_manifest.load_annotations(music)
    assert len(annotations) == 3 * len(NAMES)
    assert annotations.tags == (r"caf\xe9", "jazz", "rock")
    assert all((music / path).is_file() for path in annotations.paths)
    assert all(name.encode() for name in annotations.clip_ids)


@pytest.mark.parametrize("ending", [".parquet", ".npy"])
def test_embeddings_hold_such_names_and_know_them_again(ending, tmp_path):
    rows = [np.full(3, row, np.float32) for row in range(len(NAMES))]
    held = EmbeddingFile({}, list(NAMES), rows)
    held.save(tmp_path / f"a{ending}")
    again = EmbeddingFile.load(tmp_path / f"a{ending}")
    assert again.paths == [as_utf8(name) for name in NAMES]


@pytest.mark.parametrize("kind", ["x.csv", "x.jsonl"])
def test_results_of_such_names_are_one_row_each_and_resume(kind, tmp_path):
    settings = {"hop": None, "aggregate": "mean", "threshold": None}
    source = writers.ResultSource("m", TAGS, settings)
    for name in NAMES:  # one run each, as if all were killed
        results = writers.open_results(tmp_path / kind, source)
        assert not results.has(name)
        scores = dict.fromkeys(TAGS, 0.5)
        results.write({"path": name, "model": "m", "seconds": 1.0, "tags": scores})
        results.close()
    results = writers.open_results(tmp_path / kind, source)
    assert all(results.has(name) for name in NAMES)
    content = (tmp_path / kind).read_bytes()
    assert b"\x1b" not in content and b"\r" not in content
    assert len(content.split(b"\n")) == len(NAMES) + (2 if kind == "x.csv" else 1)
    if kind == "x.csv":
        with open(tmp_path / kind, newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    else:
        lines = content.decode("utf-8", "surrogateescape").splitlines()
        real = [os.path.realpath(name) for name in NAMES]
        assert [json.loads(line)["path"] for line in lines] == real


def test_pictures_take_any_title(tmp_path):
    scores = np.random.RandomState(0).random_sample((4, len(TAGS)))
    for title in NAMES:
        figure = figures.plot_taggram(scores, list(TAGS), np.arange(4.0), 1.0, title)
        plotting.save(figure, tmp_path / "a.png")
    plotting.save(
        score_figures.plot_scores(
            pd.DataFrame(
                {"roc_auc": 0.5, "pr_auc": 0.5, "positives": 1, "negatives": 1},
                index=pd.Index(TAGS, dtype=object),
            ),
            "caf\udce9",
        ),
        tmp_path / "b.png",
    )


def test_no_code_reaches_the_terminal(tmp_path, run_script):
    for name in NAMES[:5]:
        path = tmp_path / f"gone{name}"
        done = run_script("-m", "tagger", "explain", path, "--output", tmp_path / "x")
        assert done.returncode == 2 and "gone" in done.stderr
        assert not [one for one in done.stderr if one in "\x1b\x9b\r\u202e"]


def test_the_table_of_tags_is_escaped():
    from tagger.cli import songs

    row = {"path": NAMES[3], "tags": dict.fromkeys(TAGS, 0.5)}
    assert not [one for one in songs._table(row, 9, {}) if one in "\x1b\x07\udce9"]
    row = {"path": NAMES[3], "error": "Cannot decode '\x1b[2J'"}
    assert "\x1b" not in songs._table(row, 9, {})
