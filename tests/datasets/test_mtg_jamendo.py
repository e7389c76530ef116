"""The splits of MTG-Jamendo."""

import numpy as np
import pytest
from examples import ignore_counts, write_jamendo

from tagger.datasets import mtg_jamendo


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
