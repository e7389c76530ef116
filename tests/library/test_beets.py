"""The plugin in a real beets, as its command line runs it."""

import os
import subprocess
import sys

import pytest
from collection import make_song
from conftest import REPOSITORY

from tagger.models.metadata import DEFAULT_MODEL

pytest.importorskip("beets", reason="beets is not installed")

BEET = """
import sys
from collection import StubEngine
from tagger.inference import selection
def opened(model, *_, **__):
    if model == "broken":
        raise FileNotFoundError("There is no model file or pretrained model 'broken'.")
    print("opened", model)
    return StubEngine()
selection.open_engine = opened
from beets.ui import main
main(sys.argv[1:])
"""
PLUGIN = REPOSITORY / "tagger" / "library" / "beets" / "beetsplug"


@pytest.fixture
def beet(tmp_path):
    """beet("ls", …) runs beets with a library of its own."""

    def run(*arguments, **settings):
        settings = {"threshold": 0.1} | settings
        lines = [f"    {name}: {value}" for name, value in settings.items()]
        (tmp_path / "config.yaml").write_text(
            f"directory: {tmp_path / 'sorted'}\nlibrary: {tmp_path / 'beets.db'}\n"
            f"plugins: tagger\npluginpath: {PLUGIN}\n"
            "import:\n    copy: yes\n    autotag: no\n"
            "tagger:\n" + "\n".join(lines)
        )
        folders = [REPOSITORY, REPOSITORY / "tests" / "library"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
        environment["BEETSDIR"] = str(tmp_path)
        return subprocess.run(
            [sys.executable, "-c", BEET, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )

    return run


def test_what_is_imported_gets_scores_once(beet, music):
    done = beet("import", "-q", music, genre="yes")
    assert not done.returncode and f"opened {DEFAULT_MODEL}" in done.stdout, done.stderr
    listed = beet("ls", "-f", "$artist/$genres", "rock:0.0..").stdout
    assert len(listed.splitlines()) == 5 and "Rock" in listed
    none = beet("ls", "rock:1.5..")
    assert none.stdout == "" and not none.returncode
    assert beet("ls", "-f", "$title", "no_vocals:0.0..", "rock:..1.0").stdout
    assert "opened" not in beet("tagger").stdout
    assert "opened" in beet("tagger", "--force", "artist:Ann").stdout
    # Other excerpts are other scores.
    assert "opened" in beet("tagger", "artist:Ann", excerpts=2).stdout
    assert "opened" not in beet("tagger", "artist:Ann", excerpts=2).stdout


def test_songs_of_before_get_scores_by_the_command(beet, music):
    beet("import", "-q", music, auto="no")
    assert beet("ls", "rock:0.0..").stdout == ""
    assert "opened" in beet("tagger", "artist:Ann", auto="no").stdout
    assert len(beet("ls", "rock:0.0..", auto="no").stdout.splitlines()) == 2


def test_a_broken_song_and_a_missing_model_are_named(beet, music, tmp_path):
    make_song(tmp_path / "more" / "x.flac", 9)
    beet("import", "-q", music, tmp_path / "more", auto="no")
    path = next((tmp_path / "sorted").rglob("*.ogg"))
    path.write_bytes(path.read_bytes()[:6000])
    done = beet("tagger", auto="no")
    assert not done.returncode and "Cannot decode" in done.stderr
    assert len(beet("ls", "rock:0.0..", auto="no").stdout.splitlines()) == 5
    done = beet("tagger", auto="no", model="broken")
    assert done.returncode and "error: tagger: There is no model file" in done.stderr
