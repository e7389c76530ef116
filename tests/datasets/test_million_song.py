"""The splits of the Million Song Dataset."""

import pickle

import numpy as np
import pytest
from examples import TRACKS, ignore_counts, write_cals, write_classic

from tagger.datasets import million_song, pickles


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


@ignore_counts
def test_lists_of_msd_that_disagree_are_refused(tmp_path):
    np.save(write_cals(tmp_path / "a") / "valid_binaries.npy", np.zeros((3, 50), bool))
    with pytest.raises(ValueError, match=r"valid_binaries.npy has the shape \(3, 50\)"):
        million_song.load_annotations(tmp_path / "a", "cals")
    np.save(write_cals(tmp_path / "b") / "test_binaries.npy", np.full((4, 50), 2))
    with pytest.raises(
        ValueError, match="test_binaries.npy, row 1: column 'rock' holds 2, but"
    ):
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


@ignore_counts
def test_labels_come_from_the_arrays_even_if_the_table_has_tags(tmp_path):
    folder = write_cals(tmp_path, True)
    expected = million_song.load_annotations(folder, "cals")
    lines = (folder / "msd_splits.tsv").read_text().splitlines()
    tags = "\t".join(million_song.CALS_TAGS)
    lines = [f"{lines[0]}\t{tags}", *(line + 50 * "\t0" for line in lines[1:])]
    (folder / "msd_splits.tsv").write_text("\n".join(lines) + "\n")
    found = million_song.load_annotations(folder, "cals")
    np.testing.assert_array_equal(found.labels, expected.labels)
