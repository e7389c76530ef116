"""Facts about MagnaTagATune: its splits, tags, synonyms and published counts."""

import csv
from pathlib import Path

import numpy as np
import pytest
from examples import write_csv

from tagger.datasets import magnatagatune
from tagger.datasets.annotations import Annotations, top_tags


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
    kept = magnatagatune.load_annotations(small, "pons")
    assert kept.counts() == {"train": 1, "val": 1, "test": 2}


def test_tags_stand_in_ascending_frequency_and_ties_keep_the_columns_order(small):
    annotations = magnatagatune.load_annotations(small)
    assert annotations.tags == ("classical", "slow", "classic", "rock")
    assert annotations.labels.tolist() == [[0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 1, 1]]
    descending = magnatagatune.load_annotations(small, "won")
    assert descending.tags == ("rock", "classic", "classical", "slow")


def test_top_tags_are_the_same_tags_in_either_order():
    labels = np.random.RandomState(0).randint(0, 2, (20, 30))
    ascending, descending = (
        top_tags(labels, 10, o) for o in ("ascending", "descending")
    )
    assert set(ascending) == set(descending)


def test_synonyms_merge_by_maximum_into_the_first_column(small):
    annotations = magnatagatune.load_annotations(small, "multi_scale")
    assert annotations.tags == ("rock", "classic", "slow")
    assert annotations.labels[:, 1].tolist() == [0, 1, 1, 0]


def test_there_are_29_groups_of_synonyms_without_overlap():
    names = [name for group in magnatagatune.SYNONYMS for name in group]
    assert len(magnatagatune.SYNONYMS) == 29
    assert len(names) == len(set(names))


def test_random_split_is_13_1_3_and_hangs_on_the_seed_alone(tmp_path):
    rows = [(clip, 1, f"0/{clip}.mp3") for clip in range(170)]
    folder = write_csv(tmp_path, ["rock"], rows)
    annotations = magnatagatune.load_annotations(folder, "multi_scale")
    assert annotations.counts() == {"train": 130, "val": 10, "test": 30}
    again = magnatagatune.load_annotations(folder, "multi_scale")
    assert (annotations.splits == again.splits).all()
    other = magnatagatune.load_annotations(folder, "multi_scale", seed=1)
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
        (["rock"], [(2, 7, "0/a.mp3")], "column 'rock' holds '7', but the labels"),
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


def test_another_number_of_tags_takes_the_variants_name_from_the_split(small):
    assert magnatagatune.load_annotations(small).split_rule.startswith("resemul: ")
    changed = magnatagatune.load_annotations(small, "pons", num_tags=3)
    assert changed.split_rule == "directories 0-b, c, d-f; all clips; top 3 tags"
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
