"""The scripts of the documentation's gallery make their pictures."""

import csv
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

GALLERY = REPOSITORY / "docs" / "gallery"
SCRIPTS = sorted(path.stem for path in GALLERY.glob("plot_*.py"))
RUN = """
import runpy, sys
runpy.run_path(sys.argv[1])["figure"].savefig(sys.argv[2], dpi=50)
"""


def test_there_are_ten_and_their_music_is_openly_licensed():
    assert len(SCRIPTS) == 10
    with open(GALLERY / "music" / "music.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {path.relative_to(GALLERY / "music").as_posix()
             for path in GALLERY.glob("music/*/*")}  # fmt: skip
    assert {row["path"] for row in rows} == names
    for row in rows:
        assert row["licence"].startswith(("CC", "Expat")) and row["author"], row


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_makes_its_picture(name, tmp_path):
    picture = tmp_path / "picture.png"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, f"{name}.py", picture],
        cwd=GALLERY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert picture.stat().st_size > 2000
