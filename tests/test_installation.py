"""What `pip install .` brings: tagging without TensorFlow, and nothing more."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import REPOSITORY

from tagger.cli import process

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_requirements_are_the_core_and_what_trains():
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    listed = [line.strip() for line in lines if line.strip() and line[0] != "#"]
    named = [*PROJECT["dependencies"], *EXTRAS["fit"], *EXTRAS["train"]]
    named.remove("tagger[fit]")
    assert sorted(listed) == sorted(named)


def test_every_package_that_is_missing_is_named_with_an_extra_that_there_is():
    assert set(process.EXTRAS) <= set(EXTRAS)
    for extra, packages in process.EXTRAS.items():
        for package in packages:
            error = ModuleNotFoundError(name=f"{package}.part")
            said = process.missing(error)
            assert package in said and f"pip install '.[{extra}]'" in said
    assert process.missing(ModuleNotFoundError(name="mymodels")) is None


def test_every_package_that_is_imported_is_of_the_core_or_of_a_named_extra():
    core = {
        line.partition(">")[0].replace("-", "_") for line in PROJECT["dependencies"]
    }
    named = core.union(*process.EXTRAS.values(), sys.stdlib_module_names, {"tagger"})
    # JAX is chosen by KERAS_BACKEND, and says itself that it is missing; who has
    # MTEB's encoder interface has MTEB, and who has Jinja2 has MarkupSafe.
    named |= {"jax", "mteb", "markupsafe"}
    for path in (REPOSITORY / "tagger").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import():
                    imported = [alias.name for alias in node.names]
                case ast.ImportFrom(level=0):
                    imported = [node.module]
                case _:
                    continue
            for name in imported:
                assert name.partition(".")[0] in named, f"{path}: {name}"


@pytest.mark.slow
def test_a_bare_environment_tags_scans_and_searches_without_tensorflow(tmp_path):
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "tagger", source / "tagger")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["TAGGER_CACHE"] = str(tmp_path / "cache")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"

    def run(*words, cwd=tmp_path):
        return subprocess.run(
            list(map(str, words)),
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
        )

    done = run(python, "-m", "pip", "install", "--quiet", ".", cwd=source)
    if "No matching distribution" in done.stderr or "connection" in done.stderr:
        pytest.skip("pip reaches no package index")
    assert done.returncode == 0, done.stderr
    listed = run(python, "-m", "pip", "list", "--format", "freeze").stdout
    for heavy in ("tensorflow", "keras", "scikit-learn", "pandas", "matplotlib"):
        assert f"\n{heavy}=" not in f"\n{listed}"
    tagger = tmp_path / "venv/bin/tagger"
    music = REPOSITORY / "docs/gallery/music"
    song = music / "rock/muldjord_guitar.opus"
    library = ("--library", tmp_path / "library.sqlite")
    for words, says in (
        (("tag", song, "--top", 4), "rock    0.355"),
        (("embed", song, "--output", "song.npy"), "1 embedding"),
        (("scan", music, *library), "40 analysed"),
        (("find", "rock > .2", *library), "songs match"),
        (("similar", song, *library), "muldjord_song"),
        (("write", music, *library), "nothing was written"),
        (("models", "list"), "sample_cnn"),
        (("models", "show", "musicnn_mtt"), "ISC"),
    ):
        done = run(tagger, *words)
        assert done.returncode == 0, (words, done.stderr)
        assert says in done.stdout + done.stderr
    done = run(tagger, "tag", song, "--model", "musicnn_mtt", "--top", 3)
    if "pip could not download" not in done.stderr:
        assert "rock    0.903" in done.stdout, done.stderr
    code = "from tagger import Tagger; print(Tagger.from_pretrained().tag(%r))"
    done = run(python, "-c", code % str(song))
    assert "'rock'" in done.stdout, done.stderr
    both = ("models", "average", "musicnn_mtt", "vgg_mtt", "--output", "both.onnx")
    given = (music, "--output", "given.onnx")
    for words, says in (
        (both, "50 tags"),
        (("thresholds", "both.onnx", *given), "10 %"),
    ):
        done = run(tagger, *words)
        if "pip could not download" not in done.stderr:
            assert done.returncode == 0 and says in done.stdout, done.stderr
    fit = ("fit", music, "--output")
    for words, extra in (
        ((*fit, "mine.onnx"), "fit"),
        ((*fit, "mine.keras"), "train"),
        (("train",), "train"),
        (("serve",), "web"),
    ):
        done = run(tagger, *words)
        assert done.returncode == 2 and f"pip install '.[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr
    done = run(python, "-m", "pip", "install", "--quiet", ".[fit]", cwd=source)
    assert done.returncode == 0, done.stderr
    done = run(tagger, *fit, "mine.onnx")
    assert done.returncode == 0, done.stderr
    assert "better than log-mel statistics" in done.stdout
    done = run(tagger, "tag", song, "--model", "mine.onnx", "--top", 1)
    assert "  rock  " in done.stdout, done.stderr
    done = run(python, "-c", "import keras")
    assert "No module named 'keras'" in done.stderr
