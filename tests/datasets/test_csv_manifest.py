"""Music of one's own: tables of tags, and folders as tags."""

import numpy as np
import pytest
from examples import BANDS, write_tracks

from tagger import audio
from tagger.datasets import csv_manifest

# Most examples are too small for every tag to be in every split.
pytestmark = pytest.mark.filterwarnings("ignore:No clip of .* has the tags")


def test_artists_are_dealt_8_1_1_and_none_is_in_two_splits(tmp_path):
    path = write_tracks(tmp_path, f"path,tags,artist\n{BANDS}")
    annotations = csv_manifest.load_annotations(path)
    assert annotations.counts() == {"train": 64, "val": 8, "test": 8}
    for band in range(20):
        assert len(set(annotations.splits[4 * band : 4 * band + 4])) == 1
    assert annotations.tags == ("pop", "rock")
    assert annotations.labels[:2].tolist() == [[0, 1], [1, 1]]
    assert (
        annotations.split_rule
        == "tracks.csv: artists 8:1:1, stratified by tags, seed 0; 2 tags"
    )
    other = csv_manifest.load_annotations(path, seed=1)
    assert (other.splits != annotations.splits).any()


@pytest.mark.parametrize("num_artists", [3, 4, 5])
def test_each_split_gets_an_artist_however_few_there_are(tmp_path, num_artists):
    rows = "".join(
        f"{n}.mp3,rock,{'x' * min(n, num_artists - 1)}y\n" for n in range(30)
    )
    path = write_tracks(tmp_path, f"path,tags,artist\n{rows}")
    assert set(csv_manifest.load_annotations(path).counts()) == {"train", "val", "test"}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separator_line_ends_and_byte_order_mark_do_not_matter(
    tmp_path, newline, encoding, separator
):
    rows = ["path,rock,pop", "a b.mp3,1,0", "ü.mp3,0,1", "c.mp3,1,1"]
    text = newline.join([*rows, ""]).replace(",", separator)
    annotations = csv_manifest.load_annotations(write_tracks(tmp_path, text, encoding))
    assert annotations.tags == ("pop", "rock")
    assert annotations.paths.tolist() == ["a b.mp3", "ü.mp3", "c.mp3"]
    assert annotations.labels.tolist() == [[0, 1], [1, 0], [1, 1]]


def test_a_line_break_in_a_name_is_part_of_it(tmp_path):
    text = 'path,tags\n"a\nb.mp3",rock\nc.mp3,rock\nd.mp3,rock\n'
    annotations = csv_manifest.load_annotations(write_tracks(tmp_path, text))
    assert annotations.paths[0] == "a\nb.mp3"


def test_rows_without_tags_are_student_unless_by_an_evaluated_artist(tmp_path):
    rows = "".join(f"u{n}.mp3,,band {n}\n" for n in range(20)) + "new.mp3,,nobody\n"
    path = write_tracks(tmp_path, f"path,tags,artist\n{BANDS}{rows}")
    with pytest.warns(
        UserWarning, match="4 unlabelled files .* artists of val or test"
    ):
        annotations = csv_manifest.load_annotations(path)
    assert annotations.counts() == {"train": 64, "val": 8, "test": 8, "student": 17}
    held = dict(zip(annotations.clip_ids, annotations.splits, strict=True))
    assert held["new.mp3"] == "student"
    for n in range(20):
        leaks = held[f"{4 * n}.mp3"] != "train"
        assert (f"u{n}.mp3" not in held) == leaks


def test_unknown_tags_are_left_out_and_said(tmp_path):
    path = write_tracks(
        tmp_path, "path,tags\na.mp3,rock\nb.mp3,polka;rock\nc.mp3,rock\n"
    )
    (tmp_path / "tags.txt").write_text("rock\njazz\n")
    with pytest.warns(UserWarning, match="1 tags of .* are left out: polka"):
        annotations = csv_manifest.load_annotations(path, str(tmp_path / "tags.txt"))
    assert annotations.tags == ("rock", "jazz")
    assert annotations.labels.tolist() == [[1, 0]] * 3
    assert csv_manifest.load_annotations(path, num_tags=1).tags == ("rock",)


def test_music_without_any_tag_is_a_student_beside_named_tags(tmp_path):
    path = write_tracks(tmp_path, "path,tags\na.mp3,\nb.mp3,\n")
    (tmp_path / "tags.txt").write_text("rock\njazz\n")
    annotations = csv_manifest.load_annotations(path, str(tmp_path / "tags.txt"))
    assert annotations.counts() == {"student": 2}
    assert annotations.tags == ("rock", "jazz")


def test_given_splits_are_kept_and_shared_artists_said(tmp_path):
    text = "path,tags,split,artist\na,x,Training,A\nb,x,valid,B\nc,x,test,A\n"
    text += "d,,student,C\n"
    with pytest.warns(UserWarning, match="1 artists .* are in several splits.*: A"):
        annotations = csv_manifest.load_annotations(write_tracks(tmp_path, text))
    assert annotations.splits.tolist() == ["train", "val", "test", "student"]


def test_folders_are_tags_and_a_circle_of_links_ends(tmp_path):
    for name in ("rock/a.mp3", "rock/deep/b.FLAC", "jazz/ä b.ogg", "jazz/cover.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "rock/deep/circle").symlink_to(tmp_path / "rock")
    (tmp_path / "jazz/up").symlink_to("..")  # would tag everything as jazz
    (tmp_path / "metal").symlink_to("rock")
    (tmp_path / "tfrecord").mkdir()
    annotations = csv_manifest.load_annotations(tmp_path)
    assert annotations.tags == ("jazz", "rock")
    assert annotations.paths.tolist() == [
        "jazz/ä b.ogg",
        "rock/a.mp3",
        "rock/deep/b.FLAC",
    ]
    assert annotations.labels.tolist() == [[1, 0], [0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,tags\na.mp3,rock\n", "must have a column called path"),
        ("path,tags\n", "has no rows: name at least one audio file"),
        ("path,tags\n,rock\n", "row 1 has no path"),
        ("path,tags\na\0.mp3,rock\n", "holds a path with a zero byte"),
        ("path\na.mp3\n", "neither a column called tags nor a column per tag"),
        ("path,rock,title\na.mp3,1,Song\n", "column 'title' holds 'Song', but"),
        ("path,tags\na.mp3,\n", "No file of .* has a tag.* with `tags="),
        ("path,tags\na.mp3,rock\nb.mp3,rock\n", "2 tagged files; three splits need"),
        (
            "path,tags,artist\n" + "".join(f"{n}.mp3,rock,A\n" for n in range(5)),
            "has 1 artists; three splits",
        ),
        ("path,tags,artist\na.mp3,rock,\n", "row 1 names no artist"),
        ("path,tags,split\na.mp3,rock,holdout\n", "has the unknown split 'holdout'"),
        (
            "path,tags,split\n" + "a.mp3,rock,train\n" * 2,
            "names the file 'a.mp3' twice",
        ),
        ('path,tags\n"a.mp3,rock\n', "is not comma-separated text"),
        ("path,tags\na.mp3,rock,pop\n", "is not comma-separated text"),
        ("path,tags,split\na.mp3,rock\n", "row 1 has 2 cells, but the first"),
        ("path,rock,rock\na.mp3,1,0\n", "has two columns called 'rock'"),
        ("path,rock, Path\na.mp3,1,0\n", "has two columns called 'path'"),
        ("path,tags,split\na,x,train\n./a,x,test\n", "the file 'a' twice"),
    ],
)
def test_a_bad_csv_ends_in_one_sentence(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        csv_manifest.load_annotations(write_tracks(tmp_path, text))


def test_other_encodings_and_empty_folders_are_said(tmp_path):
    path = write_tracks(tmp_path, "path,tags\nü.mp3,rock\n", "latin1")
    with pytest.raises(ValueError, match="is not UTF-8 text. Save it as UTF-8"):
        csv_manifest.load_annotations(path)
    with pytest.raises(ValueError, match="no audio in the subfolders of"):
        csv_manifest.load_annotations(tmp_path)
    with pytest.raises(FileNotFoundError, match="no .*nowhere.csv"):
        csv_manifest.load_annotations(tmp_path / "nowhere.csv")


def test_tags_joined_by_another_separator_are_pointed_out(tmp_path):
    path = tmp_path / "tracks.csv"
    path.write_text('path,tags\na.mp3,"rock, pop"\nb.mp3,"jazz"\nc.mp3,"rock, slow"\n')
    with pytest.warns(
        UserWarning, match="2 of 3 tags .* contain ',', such as 'rock, p"
    ):
        csv_manifest.load_annotations(path)
    split = csv_manifest.load_annotations(path, tag_separator=",")
    assert split.tags == ("jazz", "pop", "rock", "slow")


def test_every_tag_with_three_artists_is_in_every_split(tmp_path):
    rows = [f"{n}.mp3,{'pop;' * (n % 5 > 0)}rock,band {n // 3}" for n in range(120)]
    rows += [f"r{n}.mp3,rare,solo {n}" for n in range(3)]
    path = write_tracks(tmp_path, "\n".join(["path,tags,artist", *rows, ""]))
    for seed in range(5):
        annotations = csv_manifest.load_annotations(path, seed=seed)
        for split in ("train", "val", "test"):
            assert annotations.labels[annotations.splits == split].any(axis=0).all()
        assert 90 < annotations.counts()["train"] < 106


def test_a_build_prints_the_clips_of_each_tag_and_split(tmp_path, run_script):
    for n in range(9):
        wave = np.sin(np.arange(70000) / (9 + n)).astype(np.float32) / 2
        audio.write_audio(tmp_path / f"{n}.wav", wave, 22050)
    rows = [f"{n}.wav,{'rock;' * (n % 2)}long name" for n in range(9)]
    path = write_tracks(tmp_path, "\n".join(["path,tags", *rows, ""]))
    done = run_script("-m", "tagger", "build", "csv", path, "--num-workers", 1)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["clips", "train", "val", "test"]
    assert lines[1][:2] == ["long", "name"] and sum(map(int, lines[1][2:])) == 9
    assert lines[2][0] == "rock" and all(int(count) for count in lines[2][1:])


def test_tags_that_a_split_lacks_are_named(tmp_path):
    rows = [f"{n}.mp3,rock,band {n}" for n in range(30)] + ["x.mp3,polka,Anna"]
    path = write_tracks(tmp_path, "\n".join(["path,tags,artist", *rows, ""]))
    with pytest.warns(UserWarning, match="No clip of test .* has the tags polka, so"):
        annotations = csv_manifest.load_annotations(path)
    assert annotations.splits[-1] == "train"


def test_folds_are_dealt_by_artist_or_read(tmp_path):
    path = write_tracks(tmp_path, f"path,tags,artist\n{BANDS}")
    annotations = csv_manifest.load_annotations(path, folds=4)
    for band in range(20):
        assert len(set(annotations.folds[4 * band : 4 * band + 4])) == 1
    assert np.bincount(annotations.folds).tolist() == [20, 20, 20, 20]
    assert csv_manifest.load_annotations(path).folds is None
    text = "path,tags,fold\na.mp3,rock,0\nb.mp3,pop, 12 \nc.mp3,rock,\n"
    read = csv_manifest.load_annotations(write_tracks(tmp_path, text))
    assert read.folds.tolist() == [0, 12, -1]


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ("-1", {}, "row 2 has the fold '-1'. Give whole numbers from 0"),
        ("a", {}, "row 2 has the fold 'a'"),
        ("1", {"folds": 9}, "3 artists or files with tags, too few for 9 folds"),
    ],
)
def test_wrong_folds_are_a_sentence(tmp_path, cell, options, message):
    text = f"path,tags,fold\na.mp3,rock,0\nb.mp3,pop,{cell}\nc.mp3,rock,\n"
    with pytest.raises(ValueError, match=message):
        csv_manifest.load_annotations(write_tracks(tmp_path, text), **options)


def test_without_splits_every_tagged_clip_is_train(tmp_path):
    text = "path,tags\na.mp3,rock\nb.mp3,\n"
    read = csv_manifest.load_unsplit(write_tracks(tmp_path, text))
    assert read.splits.tolist() == ["train", "student"]
    text = "path,tags,split\na.mp3,rock,test\nb.mp3,pop,train\n"
    read = csv_manifest.load_unsplit(write_tracks(tmp_path, text))
    assert read.splits.tolist() == ["test", "train"]


def test_two_spellings_of_a_letter_are_one_tag(tmp_path):
    path = tmp_path / "tracks.csv"
    rows = ["path,tags", "a.mp3,caf\u00e9", "b.mp3,cafe\u0301", "c.mp3,rock"]
    path.write_text("\n".join(rows), encoding="utf-8")
    found = csv_manifest.load_unsplit(path)
    assert found.tags == ("caf\u00e9", "rock")
    assert found.labels[:, 0].tolist() == [1, 1, 0]
