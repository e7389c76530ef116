"""The commands, links and error messages in README and docs."""

import re
import shlex

import pytest
from conftest import REPOSITORY

from tagger import cli

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
PAGES = [path for path in PAGES if not {"_build", "cards"} & set(path.parts)]
SCRIPTS = {
    "build_mtt.py": ("build", "mtt"),
    "build_msd.py": ("build", "msd"),
    "train.py": ("train",),
    "eval.py": ("eval",),
    "extract_excitations.py": ("excitations",),
}
# Commands of others, and placeholders for what a reader fills in.
FOREIGN = (
    "pip",
    "git",
    "make",
    "dask",
    "beet",
    "curl",
    "pytest",
    "hear-validator",
    "hf",
    "…",
)
FILES = (
    *("song.mp3", "log/model.keras", "mine.keras", "other.keras", "start.keras"),
    *("teacher.keras", "student/model.keras", "best_model.pth", "musicnn.keras"),
)
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands_of(page):
    """Returns the shell commands in a page's blocks without a language."""
    found = []
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language:
            continue
        has_output = block.startswith("$ ")
        for line in block.replace("\\\n", " ").splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if has_output and not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
            found += [part.strip() for part in re.split(r" && | & (?=\w)", line)]
    return found


def arguments_of(command):
    """Returns the arguments of a command of ours, or None for those of others."""
    words = shlex.split(command, comments=True)
    words = [word for word in words if word != "&"]
    while "=" in words[0]:
        words = words[1:]  # an environment variable
    if words[0] in FOREIGN or words[0] == "cd" or words[1:2] == [">"]:
        return None
    if words[0] == "tagger":
        return words[1:]
    assert words[0] == "python", command
    if words[1] == "-m":
        assert words[2] == "tagger", command
        return words[3:]
    if words[1].startswith("benchmarks/"):
        assert (REPOSITORY / words[1]).is_file(), command
        return None
    return [*SCRIPTS[words[1]], *words[2:]]


COMMANDS = [
    pytest.param(command, id=f"{page.stem}: {command[:60]}")
    for page in PAGES
    for command in commands_of(page)
    if arguments_of(command) is not None
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with the files that the pages speak of, all of them empty."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_the_program_takes(command, place, monkeypatch):
    taken = []
    monkeypatch.setattr(cli, "_call", lambda *given: taken.append(given))
    arguments = arguments_of(command)
    for sign in (">", "2>"):
        if sign in arguments:
            arguments = arguments[: arguments.index(sign)]
    cli.main(arguments)
    assert len(taken) == 1


def test_the_readme_is_one_page():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8")) <= 9000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_to_a_file(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#][^)]*)\)", text):
        if "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_questions_are_about_messages_that_exist():
    sources = (REPOSITORY / "tagger").rglob("*.py")
    code = " ".join(path.read_text(encoding="utf-8") for path in sources)
    code = re.sub(r'"\s*f?"|\s+', " ", code).replace("  ", " ")
    text = (REPOSITORY / "docs" / "faq.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    messages = [heading for heading in headings if not heading.endswith("?")]
    assert len(messages) > 8
    for message in messages:
        for part in re.split(r"\s*(?:…|\d+)\s*", message):
            assert re.sub(r"\s+", " ", part) in code, f"{message!r}: {part!r}"
