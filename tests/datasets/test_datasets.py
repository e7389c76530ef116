"""The annotations of every dataset, and the facts about MagnaTagATune."""

import csv
import inspect
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tagger import audio, cli
from tagger.data import building, records, verification
from tagger.datasets import (
    DATASETS,
    csv_manifest,
    magnatagatune,
    million_song,
    mtg_jamendo,
    pickles,
)
from tagger.datasets.annotations import Annotations, top_tags


def write_csv(folder, tags, rows, newline="\n", encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    lines = [["clip_id", *tags, "mp3_path"], *rows]
    text = newline.join("\t".join(f'"{cell}"' for cell in line) for line in lines)
    (folder / "annotations_final.csv").write_bytes((text + newline).encode(encoding))
    return folder


@pytest.fixture
def small(tmp_path):
    rows = [
        (2, 1, 0, 0, 1, "0/a.mp3"),
        (6, 1, 1, 0, 0, "c/b.mp3"),
        (10, 1, 1, 1, 0, "f/c.mp3"),
        (14, 0, 0, 0, 0, "d/d.mp3"),
    ]
    return write_csv(tmp_path, ["rock", "classic", "classical", "slow"], rows)


def test_directories_give_the_splits_and_untagged_clips_go(small):
    annotations = magnatagatune.load_annotations(small)
    assert annotations.counts() == {"train": 1, "val": 1, "test": 1}
    assert list(annotations.clip_ids) == ["2", "6", "10"]
    kept = magnatagatune.load_annotations(small, keep_untagged=True)
    assert kept.counts() == {"train": 1, "val": 1, "test": 2}


def test_tags_stand_in_ascending_frequency_and_ties_keep_the_columns_order(small):
    annotations = magnatagatune.load_annotations(small)
    assert annotations.tags == ("classical", "slow", "classic", "rock")
    assert annotations.labels.tolist() == [[0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 1, 1]]
    descending = magnatagatune.load_annotations(small, tag_order="descending")
    assert descending.tags == ("rock", "classic", "classical", "slow")


def test_top_tags_are_the_same_tags_in_either_order():
    labels = np.random.RandomState(0).randint(0, 2, (20, 30))
    ascending, descending = (
        top_tags(labels, 10, o) for o in ("ascending", "descending")
    )
    assert set(ascending) == set(descending)


def test_synonyms_merge_by_maximum_into_the_first_column(small):
    annotations = magnatagatune.load_annotations(small, merge_synonyms=True)
    assert annotations.tags == ("slow", "classic", "rock")
    assert annotations.labels[:, 1].tolist() == [0, 1, 1]


def test_there_are_29_groups_of_synonyms_without_overlap():
    names = [name for group in magnatagatune.SYNONYMS for name in group]
    assert len(magnatagatune.SYNONYMS) == 29
    assert len(names) == len(set(names))


def test_random_split_is_13_1_3_and_hangs_on_the_seed_alone(tmp_path):
    rows = [(clip, 1, f"0/{clip}.mp3") for clip in range(170)]
    folder = write_csv(tmp_path, ["rock"], rows)
    annotations = magnatagatune.load_annotations(folder, split="random")
    assert annotations.counts() == {"train": 130, "val": 10, "test": 30}
    again = magnatagatune.load_annotations(folder, split="random")
    assert (annotations.splits == again.splits).all()
    other = magnatagatune.load_annotations(folder, split="random", seed=1)
    assert (annotations.splits != other.splits).any()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_byte_order_mark_and_line_ends_do_not_matter(tmp_path, newline, encoding):
    folder = write_csv(tmp_path, ["rock"], [(2, 1, "0/ä.mp3")], newline, encoding)
    annotations = magnatagatune.load_annotations(folder)
    assert annotations.clip_ids.tolist() == ["2"]
    assert annotations.paths.tolist() == ["0/ä.mp3"]


@pytest.mark.parametrize(
    ("tags", "rows", "message"),
    [
        (["rock"], [(2, 7, "0/a.mp3")], "column 'rock' holds '7', but labels are"),
        (["rock"], [(2, 1, "x/a.mp3")], "'x/a.mp3' is in none of the directories"),
        (["rock"], [(2, 1, "0/a.mp3"), (2, 1, "0/b.mp3")], "'2' occurs twice"),
        (["rock"], [(2, 0, "0/a.mp3")], "No clip of .* has any"),
        (["rock"], [], "no rows"),
        ([], [(2, "0/a.mp3")], "found 'clip_id', 'mp3_path'"),
    ],
)
def test_bad_annotations_end_in_one_sentence(tmp_path, tags, rows, message):
    folder = write_csv(tmp_path, tags, rows)
    with pytest.raises(ValueError, match=message):
        magnatagatune.load_annotations(folder)


def test_missing_folder_and_file_say_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        magnatagatune.load_annotations(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no annotations_final.csv in"):
        magnatagatune.load_annotations(tmp_path)


def test_comma_separated_file_is_refused_by_its_columns(tmp_path):
    with open(tmp_path / "annotations_final.csv", "w", newline="") as file:
        csv.writer(file).writerows([["clip_id", "rock", "mp3_path"], [2, 1, "0/a.mp3"]])
    with pytest.raises(ValueError, match="must be tab-separated with the columns"):
        magnatagatune.load_annotations(tmp_path)


def real_paths(shared):
    rows = (shared / "reference/splits/mtt/index_mtt.tsv").read_text().splitlines()
    return dict(row.split("\t") for row in rows)


def with_every_path(shared, folder):
    rows = [(clip, 1, path) for clip, path in real_paths(shared).items()]
    return write_csv(folder, ["rock"], rows)


@pytest.mark.parametrize("variant", ["pons", "multi_scale", "lee"])
def test_variants_of_the_real_paths_have_the_published_sizes(shared, tmp_path, variant):
    """Checks sizes that do not depend on the labels, which are missing for train."""
    folder = with_every_path(shared, tmp_path)
    for path in (shared / "reference/splits/mtt").glob("*_list_pub.cP"):
        (folder / path.name).write_bytes(path.read_bytes())
    annotations = magnatagatune.load_annotations(folder, variant)
    assert annotations.counts() == magnatagatune.VARIANTS[variant].counts
    assert annotations.split_rule.startswith(f"{variant}: ")


@pytest.mark.parametrize("variant", ["resemul", "won"])
def test_real_labels_of_validation_and_test_have_the_published_sizes(
    shared, tmp_path, variant
):
    """Pons et al. publish labels of validation and test, with untagged clips."""
    paths = real_paths(shared)
    folder = shared / "reference/splits/mtt"
    rows = []
    for name in ("val_gt_mtt.tsv", "test_gt_mtt.tsv"):
        for line in (folder / name).read_text().splitlines():
            clip, vector = line.split("\t")
            labels = [int(float(value)) for value in vector.strip("[]").split(",")]
            rows.append((clip, *labels, paths[clip]))
    tags = [f"tag{number}" for number in range(50)]
    annotations = magnatagatune.load_annotations(
        write_csv(tmp_path, tags, rows), variant
    )
    published = dict(magnatagatune.VARIANTS[variant].counts)
    del published["train"]
    assert annotations.counts() == published


def test_won_and_resemul_differ_by_the_three_broken_clips(shared, tmp_path):
    folder = with_every_path(shared, tmp_path)
    resemul = magnatagatune.load_annotations(folder)
    won = magnatagatune.load_annotations(folder, "won")
    missing = set(resemul.clip_ids) - set(won.clip_ids)
    assert missing == set(magnatagatune.BROKEN_CLIPS)
    counts = [magnatagatune.VARIANTS[name].counts for name in ("resemul", "won")]
    assert counts[0]["train"] - counts[1]["train"] == len(missing)


def test_an_option_takes_the_variants_name_from_the_split(small):
    assert magnatagatune.load_annotations(small).split_rule.startswith("resemul: ")
    changed = magnatagatune.load_annotations(small, keep_untagged=True)
    assert changed.split_rule == "directories 0-b, c, d-f; all clips; top 4 tags"
    with pytest.raises(ValueError, match="Unknown variant 'lei'. Choose one of: resem"):
        magnatagatune.load_annotations(small, "lei")
    with pytest.raises(FileNotFoundError, match="train_list_pub.cP .*MTAT_split"):
        magnatagatune.load_annotations(small, "lee")


def test_a_changed_copy_of_the_real_file_is_noted(tmp_path):
    tags = [f"tag{number}" for number in range(magnatagatune.NUM_ALL_TAGS)]
    labels = [1] * len(tags)
    rows = [(clip, *labels, f"0/{clip}.mp3") for clip in range(magnatagatune.NUM_CLIPS)]
    folder = write_csv(tmp_path, tags, rows)
    for variant in ("resemul", "pons"):
        with pytest.warns(UserWarning, match="are published"):
            magnatagatune.load_annotations(folder, variant)


def test_annotations_refuse_lengths_that_differ():
    one, where = np.array(["a"]), Path()

    def annotations(num_labels):
        labels = np.zeros((num_labels, 1), np.uint8)
        return Annotations("x", "rule", ("rock",), one, where, one, labels, one)

    with pytest.raises(ValueError, match="need labels of shape"):
        annotations(2)
    with pytest.raises(ValueError, match="Unknown split 'a'. Choose from: train, val"):
        annotations(1)
    with pytest.raises(ValueError, match="Tag 'rock' occurs twice"):
        labels = np.zeros((1, 2), np.uint8)
        Annotations("x", "rule", ("rock", "rock"), one, where, one, labels, one)


# --- Million Song Dataset -------------------------------------------------------------

TRACKS = [f"TRA{'AB'[n % 2]}{'KLMNO'[n % 5]}XX128F42{n:05X}" for n in range(20)]


def write_classic(folder, num_train=14):
    """Writes the four files of the classic split, as Python 2 wrote them."""
    folder.mkdir(exist_ok=True)
    (folder / "50tagList.txt").write_text("rock\npop\nHip-Hop\n")
    vectors = {
        track: np.array([[n % 2], [1], [0]], bool) for n, track in enumerate(TRACKS)
    }
    for name, content in {
        "filtered_list_train.cP": TRACKS[:num_train],
        "filtered_list_test.cP": TRACKS[num_train:],
        "msd_id_to_tag_vector.cP": vectors,
    }.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


def write_cals(folder, as_table=False):
    folder.mkdir(exist_ok=True)
    parts = dict(zip(million_song.CALS_SPLITS, (8, 10, 14, 20), strict=True))
    rows, start = ["\tclip_ids\tsplits\tlength"], 0
    for name, end in parts.items():
        ids = np.array(TRACKS[start:end])
        in_order = ids[::-1] if as_table else ids  # the table has another order
        if not as_table or name != "student":
            np.save(folder / f"{name}_ids.npy", in_order)
        rows += [f"{n}\t{track}\t{name.upper()}\t661500" for n, track in enumerate(ids)]
        if name != "student":
            labels = np.eye(50, dtype=bool)[start:end]
            labels = labels[::-1] if as_table else labels
            np.save(folder / f"{name}_binaries.npy", labels)
        start = end
    rows.append("20\tTRZZZZZ128F42AAAA0\tNONE\t1")
    if as_table:
        (folder / "msd_splits.tsv").write_text("\n".join(rows) + "\n")
    return folder


ignore_counts = pytest.mark.filterwarnings("ignore:.*are published")


@ignore_counts
def test_classic_lists_give_splits_labels_and_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(million_song, "NUM_CLASSIC_TRAIN", 10)
    annotations = million_song.load_annotations(write_classic(tmp_path))
    assert annotations.counts() == {"train": 10, "val": 4, "test": 6}
    assert annotations.tags == ("rock", "pop", "Hip-Hop")
    assert annotations.labels[:2].tolist() == [[0, 1, 0], [1, 1, 0]]
    assert annotations.paths[0] == f"A/A/K/{TRACKS[0]}"
    assert annotations.published == {"train": 201680, "val": 11774, "test": 28435}


@ignore_counts
def test_both_forms_of_cals_give_the_same_annotations(tmp_path):
    arrays = million_song.load_annotations(write_cals(tmp_path / "arrays"), "cals")
    table = million_song.load_annotations(write_cals(tmp_path / "tsv", True), "cals")
    assert arrays.sha256() == table.sha256()
    assert arrays.counts() == {"train": 8, "val": 2, "test": 4, "student": 6}
    assert arrays.labels[:14].argmax(axis=1).tolist() == list(range(14))
    assert arrays.tags == million_song.CALS_TAGS and len(set(arrays.tags)) == 50
    labelled = million_song.load_annotations(tmp_path / "tsv", "cals", True)
    assert labelled.counts() == {"train": 8, "val": 2, "test": 4}


def test_the_real_lists_of_msd_have_the_published_lengths(shared):
    folder = shared / "reference/splits"
    test = pickles.load(folder / "msd/filtered_list_test.cP", list)
    assert len(set(test)) == million_song.PUBLISHED_COUNTS["classic"]["test"]
    assert all(million_song.TRACK_ID.fullmatch(track) for track in test)
    tags = (folder / "msd/50tagList.txt").read_text().split("\n")
    assert len([tag for tag in tags if tag.strip()]) == 50
    for name, split in (("valid", "val"), ("test", "test")):
        ids = np.load(folder / f"cals/{name}_ids.npy")
        assert len(set(ids)) == million_song.PUBLISHED_COUNTS["cals"][split]


def test_published_counts_of_msd_are_printed_beside_ours(tmp_path):
    with pytest.warns(
        UserWarning, match="gives .* clips, but .*163504.* are published"
    ):
        million_song.load_annotations(write_cals(tmp_path), "cals")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch run",)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("msd_id_to_tag_vector.cP", million_song.load_annotations),
        (
            "train_list_pub.cP",
            lambda folder: magnatagatune.load_annotations(folder, "lee"),
        ),
    ],
)
def test_a_malicious_pickle_is_refused_named_and_not_run(
    small, tmp_path, monkeypatch, name, read
):
    monkeypatch.chdir(tmp_path)
    write_classic(small)
    for path in magnatagatune.LIST_NAMES.values():
        (small / path).write_bytes(pickle.dumps([]))
    for evil in (pickle.dumps(Malicious()), b"cos\nsystem\n(S'touch run'\ntR."):
        (small / name).write_bytes(evil)
        with pytest.raises(ValueError, match=rf"{name} .*(posix|os|nt)\.system"):
            read(small)
        assert not Path("run").exists()


@pytest.mark.parametrize("content", [b"", b"(lp1", b"no pickle", b"\x80\x05\x95"])
def test_a_broken_pickle_is_named(tmp_path, content):
    (tmp_path / "list.cP").write_bytes(content)
    with pytest.raises(ValueError, match="list.cP"):
        pickles.load(tmp_path / "list.cP", list)


@ignore_counts
def test_lists_of_msd_that_disagree_are_refused(tmp_path):
    np.save(write_cals(tmp_path / "a") / "valid_binaries.npy", np.zeros((3, 50), bool))
    with pytest.raises(ValueError, match=r"valid_binaries.npy has the shape \(3, 50\)"):
        million_song.load_annotations(tmp_path / "a", "cals")
    np.save(write_cals(tmp_path / "b") / "test_binaries.npy", np.full((4, 50), 2))
    with pytest.raises(ValueError, match="labels other than 0 and 1"):
        million_song.load_annotations(tmp_path / "b", "cals")
    np.save(write_cals(tmp_path / "c") / "train_ids.npy", np.array(["x"] * 8))
    with pytest.raises(ValueError, match="'x', which is not an MSD"):
        million_song.load_annotations(tmp_path / "c", "cals")
    (write_cals(tmp_path / "d") / "train_ids.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="train_ids.npy is not a NumPy"):
        million_song.load_annotations(tmp_path / "d", "cals")
    vectors = write_classic(tmp_path / "e") / "msd_id_to_tag_vector.cP"
    vectors.write_bytes(pickle.dumps({}, protocol=2))
    with pytest.raises(ValueError, match="holds no tags for 'TRA"):
        million_song.load_annotations(tmp_path / "e")
    for text in ("id\tx\n1\t2\n", "clip_ids\tsplits\n"):
        (write_cals(tmp_path / "f", True) / "msd_splits.tsv").write_text(text)
        with pytest.raises(ValueError, match="a column of track ids and one of splits"):
            million_song.load_annotations(tmp_path / "f", "cals")
    with open(write_cals(tmp_path / "g", True) / "msd_splits.tsv", "a") as file:
        file.write("21\tTRBBBBB128F42000AB\tTRAIN\t1\n")
    with pytest.raises(ValueError, match="1 labelled tracks .* the first is 'TRBBBBB"):
        million_song.load_annotations(tmp_path / "g", "cals")
    lists = write_classic(tmp_path / "h") / "filtered_list_test.cP"
    lists.write_bytes(pickle.dumps(7))
    with pytest.raises(ValueError, match="must hold the type list, not int"):
        million_song.load_annotations(tmp_path / "h")
    vectors = write_classic(tmp_path / "i") / "msd_id_to_tag_vector.cP"
    one = {track: np.array([1]) for track in TRACKS}
    vectors.write_bytes(pickle.dumps(one, protocol=2))
    with pytest.raises(ValueError, match="does not have 3 labels of 0 or 1"):
        million_song.load_annotations(tmp_path / "i")
    with pytest.raises(FileNotFoundError, match="neither msd_splits.tsv nor train_ids"):
        million_song.load_annotations(tmp_path, "cals")


# --- MTG-Jamendo ----------------------------------------------------------------------


def write_jamendo(folder):
    folder.mkdir(exist_ok=True)
    number = 0
    for split, num_tracks in (("train", 8), ("validation", 3), ("test", 4)):
        lines = ["\t".join(mtg_jamendo.COLUMNS)]
        for _ in range(num_tracks):
            tags = ["genre---rock", "instrument---guitar"][: 1 + number % 2]
            tags += ["mood/theme---épic"] * (number % 3 == 0)
            facts = [f"track_{number:07d}", f"artist_{number}", "album_1"]
            facts += [f"{number:02d}/{number}.mp3", "215.1"]
            lines.append("\t".join(facts + tags))
            number += 1
        path = folder / f"autotagging_top50tags-{split}.tsv"
        path.write_bytes("\r\n".join([*lines, ""]).encode())
    return folder


def test_the_real_split_of_jamendo_has_the_published_counts(shared):
    folder = shared / "reference/splits/jamendo"
    annotations = mtg_jamendo.load_annotations(folder)  # warns if counts differ
    assert annotations.counts() == {"train": 32136, "val": 10888, "test": 11356}
    assert len(annotations.tags) == 50
    assert list(annotations.tags) == sorted(annotations.tags)
    row = list(annotations.clip_ids).index("track_0000241")
    tags = [
        annotations.tags[column] for column in np.flatnonzero(annotations.labels[row])
    ]
    assert (annotations.paths[row], tags) == ("41/241.mp3", ["genre---rock"])
    artists = [set(), set(), set()]
    for found, split in zip(artists, ("train", "validation", "test"), strict=True):
        lines = (folder / f"autotagging_top50tags-{split}.tsv").read_text().splitlines()
        found.update(line.split("\t")[1] for line in lines[1:])
    assert not (
        artists[0] & artists[1] or artists[0] & artists[2] or artists[1] & artists[2]
    )


@ignore_counts
def test_jamendo_reads_files_of_the_repository_too(tmp_path):
    folder = tmp_path / "clone"
    write_jamendo(tmp_path / "flat")
    (folder / "data/splits").mkdir(parents=True)
    (tmp_path / "flat").rename(folder / "data/splits/split-0")
    annotations = mtg_jamendo.load_annotations(folder, low=True)
    assert annotations.paths[0] == "00/0.low.mp3"
    assert annotations.tags[-1] == "mood/theme---épic"
    with pytest.raises(FileNotFoundError, match="no autotagging_genre-train.tsv"):
        mtg_jamendo.load_annotations(folder, "genre")
    path = folder / "data/splits/split-0/autotagging_top50tags-test.tsv"
    path.write_text(path.read_text() + "track_1\tartist_1\n")
    with pytest.raises(ValueError, match="line 6 has 2 columns, but a track"):
        mtg_jamendo.load_annotations(folder)
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="must begin with the columns TRACK_ID"):
        mtg_jamendo.load_annotations(folder)


# --- Your own music -------------------------------------------------------------------


def write_tracks(folder, text, encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    (folder / "tracks.csv").write_bytes(text.encode(encoding))
    return folder / "tracks.csv"


BANDS = "".join(
    f"{n}.mp3,rock;{'pop' * (n % 2)},band {n // 4}{' ' * (n % 2)}\n" for n in range(80)
)  # stray blanks


def test_artists_are_dealt_8_1_1_and_none_is_in_two_splits(tmp_path):
    path = write_tracks(tmp_path, f"path,tags,artist\n{BANDS}")
    annotations = csv_manifest.load_annotations(path)
    assert annotations.counts() == {"train": 64, "val": 8, "test": 8}
    for band in range(20):
        assert len(set(annotations.splits[4 * band : 4 * band + 4])) == 1
    assert annotations.tags == ("pop", "rock")
    assert annotations.labels[:2].tolist() == [[0, 1], [1, 1]]
    assert annotations.split_rule == "tracks.csv: artists 8:1:1, seed 0; 2 tags"
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
        ("path,tags\n", "must have a column called path and at least one"),
        ("path,tags\n,rock\n", "row 1 has no path"),
        ("path\na.mp3\n", "neither a column called tags nor a column per tag"),
        ("path,rock,title\na.mp3,1,Song\n", "column 'title' holds 'Song', but the"),
        ("path,tags\na.mp3,\n", "No file of .* has a tag.* with --tags"),
        ("path,tags\na.mp3,rock\nb.mp3,rock\n", "2 tagged files; three splits need"),
        ("path,tags,artist\n" + "a.mp3,rock,A\n" * 5, "has 1 artists; three splits"),
        ("path,tags,artist\na.mp3,rock,\n", "row 1 names no artist"),
        ("path,tags,split\na.mp3,rock,holdout\n", "has the unknown split 'holdout'"),
        ("path,tags,split\n" + "a.mp3,rock,train\n" * 2, "'a.mp3' occurs twice"),
        ('path,tags\n"a.mp3,rock\n', "is not comma-separated text"),
        ("path,tags\na.mp3,rock,pop\n", "is not comma-separated text"),
        ("path,tags,split\na.mp3,rock\n", "row 1 has 2 cells, but the first"),
        ("path,rock,rock\na.mp3,1,0\n", "has two columns called 'rock'"),
        ("path,rock, Path\na.mp3,1,0\n", "has two columns called 'path'"),
        ("path,tags,split\na,x,train\n./a,x,test\n", "'a' occurs twice"),
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


# --- What every dataset must do--------------------------------------------------------


def write_mtt(folder):
    rows = [(n, 1, n % 2, f"{'0123cdef'[n % 8]}/{n}.mp3") for n in range(16)]
    return write_csv(folder, ["rock", "slow"], rows)


# Key of DATASETS -> function that writes a small dataset and returns its path.
EXAMPLES = {
    "magnatagatune": write_mtt,
    "million_song": write_cals,
    "mtg_jamendo": write_jamendo,
    "csv": lambda folder: write_tracks(folder, f"path,tags,artist\n{BANDS}"),
}
OPTIONS = {"million_song": {"split": "cals"}}


@pytest.fixture(params=DATASETS)
def name(request):
    return request.param


@pytest.fixture
def example(name, tmp_path):
    assert name in EXAMPLES, "write a small example of the dataset into EXAMPLES"
    source = EXAMPLES[name](tmp_path / name)
    return DATASETS[name].load_annotations(source, **OPTIONS.get(name, {}))


@ignore_counts
def test_annotations_are_of_one_kind(name, example):
    assert example.dataset == name
    assert example.labels.dtype == np.uint8 and set(np.unique(example.labels)) <= {0, 1}
    assert len(set(example.tags)) == len(example.tags)
    assert set(example.splits) >= {"train", "val", "test"}
    assert example.labels[example.splits != "student"].any()
    assert not example.labels[example.splits == "student"].any()
    assert not any(Path(path).is_absolute() for path in example.paths)


@ignore_counts
def test_reading_twice_gives_the_same(name, example, tmp_path):
    source = EXAMPLES[name](tmp_path / name)
    again = DATASETS[name].load_annotations(source, **OPTIONS.get(name, {}))
    assert again.sha256() == example.sha256() and again.counts() == example.counts()


@ignore_counts
def test_shards_of_every_dataset_are_whole_and_name_their_split(
    name, example, tmp_path
):
    music = np.sin(np.arange(8000) / 9).astype(np.float32)
    for number, path in enumerate(example.paths):
        path = example.audio_dir / (path if Path(path).suffix else f"{path}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        wav = tmp_path / "music.wav"
        audio.write_audio(wav, music[number:], 8000)
        path.write_bytes(wav.read_bytes())
    options = {"sample_rate": 8000, "segment_samples": 2000, "num_workers": 1}
    manifest = building.build(example, tmp_path / "shards", **options)
    assert not any(
        faults for _, faults in verification.verify(tmp_path / "shards", manifest)
    )
    assert manifest.planned == example.counts()
    said = building.summary(manifest, tmp_path / "shards")
    assert example.split_rule in said and name in said
    if example.published:
        assert f"(published: {example.published['train']:,})" in said
    for path in (tmp_path / "shards").glob("student-*"):
        assert all("labels" not in records.decode(e) for e in records.read_shard(path))


def test_a_dataset_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        DATASETS[name].load_annotations(tmp_path / "nowhere")


def test_the_command_line_knows_every_dataset(name, capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["tagger", "build", DATASETS[name].short_name, "--help"]
    )
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    for option in inspect.signature(
        DATASETS[name].load_annotations
    ).parameters.values():
        if option.default is not option.empty:
            assert f"--{option.name.replace('_', '-')}" in shown


def test_tags_joined_by_another_separator_are_pointed_out(tmp_path):
    path = tmp_path / "tracks.csv"
    path.write_text('path,tags\na.mp3,"rock, pop"\nb.mp3,"jazz"\nc.mp3,"rock, slow"\n')
    with pytest.warns(
        UserWarning, match="2 of 3 tags .* contain ',', such as 'rock, p"
    ):
        csv_manifest.load_annotations(path)
    split = csv_manifest.load_annotations(path, tag_separator=",")
    assert split.tags == ("jazz", "pop", "rock", "slow")
