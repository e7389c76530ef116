"""The gallery of the documentation, whose scripts `make docs` runs."""

import csv

from conftest import REPOSITORY

GALLERY = REPOSITORY / "docs" / "gallery"


def test_its_music_is_openly_licensed():
    with open(GALLERY / "music" / "music.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {path.relative_to(GALLERY / "music").as_posix()
             for path in GALLERY.glob("music/*/*")}  # fmt: skip
    assert {row["path"] for row in rows} == names
    for row in rows:
        assert row["licence"].startswith(("CC", "Expat")) and row["author"], row
