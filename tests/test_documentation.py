"""The README and the pages of the documentation: what they show works as printed.

A block of commands (```bash) is run line by line in a folder with small data, and a
```text block after it holds what its last command prints. A block whose first line is
`# needs …` is for machines or data that tests lack: its commands only go through the
program's parser. Programs of others (pip, git) are not run.
"""

import contextlib
import dataclasses
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time

import filelock
import pytest
from conftest import REPOSITORY, call, pretrained_or_skip
from hub_server import HubServer
from narrow import narrow_options

from tagger import cli, models
from tagger.cli import kinds, signatures
from tagger.data.batches import Batches
from tagger.datasets import demo
from tagger.training import trainer
from tagger.training.recipes import RECIPES

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
GENERATED = {"_build", "cards", "commands.md"}
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PAGES = [path for path in PAGES if not GENERATED & set(path.parts)]
SCRIPTS = {
    "build_mtt.py": ("build", "mtt"),
    "build_msd.py": ("build", "msd"),
    "train.py": ("train",),
    "eval.py": ("eval",),
    "extract_excitations.py": ("excitations",),
}
FOREIGN = ("beet", "cd", "dask", "git", "hf", "make", "pip", "pytest")
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = "# needs "
WORD = re.compile(r"[\d,]*\.?\d+|[^\W\d]+|[^\w\s]")


def commands_of(block):
    """Returns the commands in a block, each as a list of words."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield [word for word in words[:end] if word != "&"]
            words = words[end + 1 :]


def arguments_of(command):
    """Returns the arguments of a command of ours, or None for those of others."""
    while "=" in command[0]:
        command = command[1:]  # an environment variable
    if command[0] == "tagger":
        return command[1:]
    if command[0] == "python" and command[1] in SCRIPTS:
        return [*SCRIPTS[command[1]], *command[2:]]
    return None


SHELL_BLOCKS = [
    pytest.param(block, id=f"{page.stem}: {block.splitlines()[0][:50]}")
    for page in PAGES
    for language, block in FENCE.findall(page.read_text(encoding="utf-8"))
    if language == "bash"
]


@pytest.mark.parametrize("block", SHELL_BLOCKS)
def test_every_command_is_one_that_the_program_takes(block, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(
        signatures.Command, "call", lambda self, argv: taken.append(self.parse(argv))
    )
    monkeypatch.setattr(kinds, "check_files", lambda *_: None)  # outputs exist here
    monkeypatch.chdir(tmp_path)
    # What a page has made by then, and decides about further options.
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mymodels.py").write_text("def tiny(num_tags=50, tags=None): pass\n")
    recipe = dataclasses.asdict(RECIPES["resemul"])
    held = {"model": {"name": "sample_cnn"}, "recipe": recipe, "data": {}, "seed": 0}
    (tmp_path / "log").mkdir()
    (tmp_path / "log/run.json").write_text(json.dumps(held))
    for command in commands_of(block):
        arguments = arguments_of(command)
        if arguments is None:
            is_ours = command[0] == "python"
            assert command[0] in (*FOREIGN, "curl") or is_ours, command
            assert not is_ours or (REPOSITORY / command[1]).is_file(), command
            continue
        for word in arguments:  # model files must exist
            if word.endswith((".keras", ".hdf5", ".pth", ".onnx")):
                (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / word).touch()
        taken.clear()
        cli.main(arguments)
        assert len(taken) == 1


def test_no_block_is_left_out():
    for page in PAGES:
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            known = ("bash", "nginx", "python", "text", "yaml")
            assert language in known or language[:1] == "{", (page, block)


def test_the_readme_is_one_page():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8")) <= 6000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#][^)]*)\)", text):
        if "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES + NOTEBOOKS, ids=lambda page: page.stem)
def test_every_file_that_is_named_exists(page):
    named = (
        r"\b(?:benchmarks|docs|notebooks|tagger|tests)/[\w/.-]*\.(?:py|md|csv|ipynb)"
    )
    for path in re.findall(named, page.read_text(encoding="utf-8")):
        assert (REPOSITORY / path).exists(), path


def test_the_questions_are_about_messages_that_exist():
    sources = (REPOSITORY / "tagger").rglob("*.py")
    code = " ".join(path.read_text(encoding="utf-8") for path in sources)
    code = re.sub(r'"\s*f?"|\s+', " ", code).replace("  ", " ")
    text = (REPOSITORY / "docs" / "tagging.md").read_text(encoding="utf-8")
    text = text[text.index("## Questions, by error message") :]
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    messages = [heading for heading in headings if not heading.endswith("?")]
    assert len(messages) > 8
    for message in messages:
        for part in re.split(r"\s*(?:…|\d+)\s*", message):
            assert re.sub(r"\s+", " ", part) in code, f"{message!r}: {part!r}"


# --- Running the pages ----------------------------------------------------------------


class Shell:
    """Runs blocks of commands in a folder, and compares what they print."""

    def __init__(self, place, hub_environment):
        self.place, self._hub_environment = place, hub_environment
        self._printed, self._server = None, contextlib.ExitStack()

    def run(self, example):
        """Runs a block."""
        self._printed = None
        if example.parsed.startswith(NEEDS):
            return
        for command in commands_of(example.parsed):
            self._printed = self._run(command)

    def _run(self, command):
        if command[0] in FOREIGN:
            return None
        if command[:2] == ["tagger", "serve"]:
            return self._serve(command[1:])
        if command[0] == "curl":
            done = subprocess.run(
                command, cwd=self.place, capture_output=True, text=True
            )
        elif any("hf://" in word for word in command):
            done = subprocess.run(
                [sys.executable, "-m", *command],
                cwd=self.place,
                env=self._hub_environment,
                capture_output=True,
                text=True,
            )
        else:
            ours = ["-m", *command] if command[0] == "tagger" else command[1:]
            done = call(ours, self.place)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def _serve(self, arguments):
        """Starts the page and keeps it until the end of the document."""
        self._server.close()
        process = subprocess.Popen([sys.executable, "-m", "tagger", *arguments],
                                   cwd=self.place)  # fmt: skip
        self._server.callback(process.wait)
        self._server.callback(process.terminate)
        for _ in range(600):
            assert process.poll() is None, arguments
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", 7860), 1).close()
                return
            time.sleep(0.2)
        raise AssertionError("the page does not answer")

    def compare(self, example):
        """Compares a block of text with what the commands before it printed."""
        if self._printed is not None:
            assert_alike(self._printed, example.parsed)
        self._printed = None

    def close(self):
        self._server.close()


def assert_alike(printed, shown):
    """Checks that two texts have the same words, and numbers that differ little.

    "…" alone in a line stands for any lines, as do bars of scores for any bars.
    """
    expected, found = words_of(shown), words_of(printed)
    while expected:
        line = expected.pop(0)
        if line == ["…"]:
            while found and found[:1] != expected[:1]:
                found.pop(0)
            continue
        assert found, f"not printed: {line}"
        other = found.pop(0)
        assert len(line) == len(other), (line, other)
        for one, another in zip(line, other, strict=True):
            with contextlib.suppress(ValueError):
                assert float(one) == pytest.approx(float(another), abs=0.02), line
                continue
            assert one == another, (line, other)
    assert not found, f"not shown: {found}"


def words_of(text):
    lines = [re.findall(WORD, line.replace("█", "")) for line in text.splitlines()]
    return [line for line in lines if line]


def write_or_run(example):
    """Runs a block of Python; one that begins with `# NAME.py` is written there."""
    from sybil.evaluators.python import PythonEvaluator

    name = re.match(r"# (\w+\.py)\n", example.parsed)
    if name:
        place = example.namespace["place"]
        (place / name[1]).write_text(example.parsed, encoding="utf-8")
    else:
        PythonEvaluator()(example)


@pytest.fixture
def small(monkeypatch):
    """Makes networks narrow and trainings short: two batches in each of two stages."""
    train, length = trainer.train, Batches.__len__

    def short(task, model, recipe, *others):
        stages = [
            dataclasses.replace(stage, max_epochs=1) for stage in recipe.stages[:2]
        ]
        recipe = dataclasses.replace(recipe, stages=tuple(stages))
        if getattr(model, "name", None) in models.MODELS:
            options = narrow_options(model.name) | model.options
            model = dataclasses.replace(model, options=options)
        return train(task, model, recipe, *others)

    monkeypatch.setattr(trainer, "train", short)
    monkeypatch.setattr(Batches, "__len__", lambda batches: min(2, length(batches)))


@pytest.fixture
def place(corpus, tmp_path, monkeypatch):
    """Returns a folder that looks like a clone, with small data."""
    folder = tmp_path / "clone"
    folder.mkdir()
    shutil.copytree(corpus, folder / "dataset")
    songs = REPOSITORY / "docs" / "gallery" / "music"
    shutil.copytree(songs, folder / "docs" / "gallery" / "music")
    for name in ("music", "my_music"):
        shutil.copytree(
            songs, folder / name, ignore=shutil.ignore_patterns("*.csv", "*.txt")
        )
    first = min(corpus.rglob("*.mp3"))
    shutil.copy(first, folder / "song.mp3")
    rows = "".join(f"{path},\n" for path in sorted(corpus.rglob("*.mp3")))
    (folder / "unlabelled.csv").write_text(f"path,tags\n{rows}")
    (folder / "tags.txt").write_text("".join(f"{tag}\n" for tag in demo.TAGS))
    with open(songs / "music.csv", encoding="utf-8") as file:
        head, *lines = file
    rows = "".join(f"{songs}/{line}" for line in lines)
    (folder / "tracks.csv").write_text(head + rows, encoding="utf-8")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("mymodels", None)  # that of the test of its command
    return folder


RUN = [
    page
    for page in PAGES
    if any(
        language == "python" or language == "bash" and not block.startswith(NEEDS)
        for language, block in FENCE.findall(page.read_text(encoding="utf-8"))
    )
]


@pytest.mark.slow  # downloads a trained model once
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(
    page, place, small, built, trained, common, tmp_path
):
    sybil = pytest.importorskip("sybil")
    from sybil.parsers.markdown import CodeBlockParser

    pretrained_or_skip("musicnn_mtt")
    text = page.read_text(encoding="utf-8")
    if "build_mtt.py" not in text:
        shutil.copytree(built, place / "dataset" / "tfrecord")
    if "train.py" not in text:
        shutil.copytree(trained, place / "log")
    with (
        HubServer.running() as hub,
        contextlib.closing(Shell(place, hub.environment(tmp_path))) as shell,
        filelock.FileLock(common / "port.lock")
        if "serve" in text
        else contextlib.nullcontext(),
    ):
        parsers = [
            CodeBlockParser("bash", shell.run),
            CodeBlockParser("text", shell.compare),
            CodeBlockParser("python", write_or_run),
        ]
        document = sybil.Sybil(parsers).parse(page)
        document.namespace["place"] = place
        for example in document.examples():
            example.evaluate()
