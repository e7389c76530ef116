"""What `tag` writes to disk, and how it resumes."""

import csv
import json
import os

import pytest

from tagger.inference import writers

TAGS = ("rock", "no voice, please")
DONE = {"path": "a/1.mp3", "model": "m", "seconds": 2.5, "tags": {"rock": 0.25}}
BAD = {"path": "b/2.mp3", "model": "m", "error": "It is damaged."}
LATER = {
    "path": "b/2.mp3",
    "model": "m",
    "seconds": 1.0,
    "tags": dict.fromkeys(TAGS, 1),
}
PATHS = ["a/1.mp3", "b/2.mp3"]


SETTINGS = {"hop": None, "aggregate": "mean", "threshold": None}


def source(model="m", **settings):
    return writers.ResultSource(model, TAGS, SETTINGS | settings)


def write(place, *results, force=False, **of):
    opened = writers.open_results(place, source(**of), force)
    opened.check_targets([result["path"] for result in results])
    for result in results:
        opened.write(result)
    opened.close()
    return opened


ODD = b"odd \xff.mp3".decode("utf-8", "surrogateescape")


def real(result):
    return result | {"path": os.path.realpath(result["path"])}


def done(results):
    names = (*PATHS, ODD, "rock/01.mp3", "jazz/01.mp3")
    return {path for path in names if results.has(path)}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


KINDS = ["x.jsonl", "x.csv", "folder"]


@pytest.mark.parametrize("name", KINDS)
def test_what_is_done_is_known_and_errors_are_tried_again(name, tmp_path):
    first = write(tmp_path / name, DONE, BAD)
    assert done(first) == set()
    second = write(tmp_path / name, LATER)
    assert done(second) == {"a/1.mp3"}
    assert done(write(tmp_path / name)) == {"a/1.mp3", "b/2.mp3"}


@pytest.mark.parametrize("name", KINDS)
def test_results_of_another_model_or_other_settings_are_not_continued(name, tmp_path):
    write(tmp_path / name, DONE)
    with pytest.raises(ValueError, match="holds results of m, not other"):
        write(tmp_path / name, model="other")
    for setting, value in (("hop", 0.5), ("aggregate", "max"), ("threshold", "held")):
        with pytest.raises(ValueError, match=f"with {setting} .*, not {value}"):
            write(tmp_path / name, **{setting: value})
    assert done(write(tmp_path / name, model="other", force=True)) == set()


def test_lines_of_json_and_rows_of_a_table(tmp_path):
    write(tmp_path / "x.jsonl", DONE, BAD)
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        real(DONE) | {"settings": SETTINGS},
        real(BAD) | {"settings": SETTINGS},
    ]
    write(tmp_path / "x.csv", DONE, BAD)
    with open(tmp_path / "x.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["path", "model", "settings", "seconds", *TAGS, "error"],
            [real(DONE)["path"], "m", json.dumps(SETTINGS), "2.5", "0.25", "", ""],
            [
                real(BAD)["path"],
                "m",
                json.dumps(SETTINGS),
                "",
                "",
                "",
                "It is damaged.",
            ],
        ]
    write(tmp_path / "x.csv", LATER)  # the later result counts
    with open(tmp_path / "x.csv", newline="") as file:
        _, first, second = csv.reader(file)
    assert first[4] == "0.25" and second[4:] == ["1", "1", ""]


def test_jams_files_hold_open_tags_of_the_whole_file(tmp_path):
    jams = pytest.importorskip("jams")
    write(tmp_path / "folder", DONE, BAD)
    (written,) = (tmp_path / "folder").rglob("*.jams")
    assert written == tmp_path / "folder/a/1.mp3.jams"
    jam = jams.load(str(written))
    (annotation,) = jam.search(namespace="tag_open")
    (row,) = annotation.data
    assert (row.time, row.duration, row.value, row.confidence) == (0, 2.5, "rock", 0.25)
    assert jam.file_metadata.duration == 2.5
    assert annotation.annotation_metadata.annotator.model == "m"


def test_a_jams_file_is_the_same_songs_whatever_else_is_tagged(tmp_path):
    pytest.importorskip("jams")
    rock, jazz = "rock/01.mp3", "jazz/01.mp3"
    write(tmp_path / "out", {**DONE, "path": rock})
    assert done(write(tmp_path / "out")) == {rock}
    write(tmp_path / "out", {**DONE, "path": jazz})
    assert len(list((tmp_path / "out").rglob("01.mp3.jams"))) == 2


@pytest.mark.parametrize("name", KINDS)
def test_results_resume_from_another_folder(name, tmp_path, monkeypatch):
    write(tmp_path / name, DONE)
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    opened = writers.open_results(tmp_path / name, source())
    assert opened.has("../a/1.mp3") and not opened.has("a/1.mp3")


@pytest.mark.parametrize("name", ["x.csv", "folder"])
def test_a_killed_run_has_kept_its_results(name, tmp_path):
    opened = writers.open_results(tmp_path / name, source())
    opened.write(DONE)
    opened._file.close()  # of the lines alone: the table is not made
    assert done(write(tmp_path / name)) == {DONE["path"]}
    if name == "x.csv":
        assert "0.25" in (tmp_path / name).read_text()


@pytest.mark.parametrize("num_bytes", [1, 9, 15])
def test_half_a_line_is_cut_off(num_bytes, tmp_path):
    name = "x.jsonl"
    write(tmp_path / name, DONE)
    whole = (tmp_path / name).read_bytes()
    write(tmp_path / name, BAD)
    both = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(both[: len(whole) + num_bytes])
    assert done(write(tmp_path / name)) == {"a/1.mp3"}
    assert len((tmp_path / name).read_bytes()) == len(whole) + num_bytes  # untouched
    write(tmp_path / name, BAD)
    assert (tmp_path / name).read_bytes() == both


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
@pytest.mark.parametrize(
    "content", ["my notes", "my notes\n", "[1]\n", "path,jazz\n", "{}"]
)
def test_files_of_others_are_not_touched(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="Choose another `output=`"):
        write(tmp_path / name, DONE)
    assert (tmp_path / name).read_text() == content


def test_names_that_are_not_utf8_survive(tmp_path):
    for name in ("x.jsonl", "x.csv"):
        write(tmp_path / name, {**DONE, "path": ODD})
        assert done(write(tmp_path / name)) == {ODD}


@pytest.mark.parametrize("name", KINDS)
def test_forced_results_replace_the_earlier_ones_at_the_first_write(name, tmp_path):
    def contents():
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return {path: path.read_text() for path in files}

    write(tmp_path / name, DONE, model="other")
    before = contents()
    assert done(write(tmp_path / name, force=True)) == set()
    assert contents() == before
    write(tmp_path / name, {**DONE, "seconds": 3.5}, force=True)
    assert contents() != before and contents().keys() == before.keys()
    assert done(write(tmp_path / name)) == {DONE["path"]}


def test_forced_results_do_not_replace_jams_files_of_others(tmp_path):
    reference = tmp_path / "folder/a/1.mp3.jams"
    reference.parent.mkdir(parents=True)
    reference.write_text('{"annotations": []}')
    with pytest.raises(ValueError, match="was not written by `tag`"):
        write(tmp_path / "folder", DONE, force=True)
    assert reference.read_text() == '{"annotations": []}'


@pytest.mark.parametrize(
    "line",
    [
        DONE | {"settings": 5},
        DONE | {"tags": 1},
        DONE | {"path": ["a"]},
        DONE | {"tags": {"jazz": 0.5}},
    ],
)
def test_lines_that_cannot_be_continued_are_refused_at_once(line, tmp_path):
    for name, store in (("x.jsonl", "x.jsonl"), ("x.csv", "x.csv.jsonl")):
        (tmp_path / store).write_text(json.dumps(line) + "\n")
        with pytest.raises(ValueError, match="Choose another `output=`"):
            writers.open_results(tmp_path / name, source())


def test_a_table_follows_the_lines_of_a_killed_run(tmp_path):
    write(tmp_path / "x.csv", DONE)
    opened = writers.open_results(tmp_path / "x.csv", source())
    opened.write(LATER)
    opened._file.close()
    write(tmp_path / "x.csv")
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 3
    writers.open_results(tmp_path / "x.csv", source(model="other"), True).close()
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 3


def test_jams_files_of_another_model_are_not_replaced_by_accident(tmp_path):
    pytest.importorskip("jams")
    write(tmp_path / "out", DONE)
    (tmp_path / "out" / writers.STORE).unlink()
    with pytest.raises(ValueError, match="is of m. Choose another"):
        write(tmp_path / "out", DONE, model="other")
    write(tmp_path / "out", DONE, model="other", force=True)
