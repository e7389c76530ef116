"""What the source says of options is what Python says of them."""

import dataclasses
import importlib
import inspect
import os
import re
from collections.abc import Callable
from typing import Annotated, Literal

import pytest
from conftest import REPOSITORY

from tagger import cli, models, options

NAMES = sorted(
    {
        name
        for path in (REPOSITORY / "tagger/cli").glob("*.py")
        for name in re.findall(r'"(tagger\.[\w.]+:\w+)"', path.read_text("utf-8"))
    }
)
COMMANDS = [name for group in cli.COMMANDS.values() for name in group]


def imported(name):
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def stated(function):
    """Returns the defaults that Python knows; for a field's factory, None."""
    return {
        name: None if repr(one.default) == "<factory>" else one.default
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is not one.VAR_KEYWORD
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_source_says_what_python_says(name):
    assert options.read(name).defaults() == stated(imported(name))


@pytest.mark.parametrize("name", models.MODELS)
def test_a_factory_read_as_one_from_outside_has_the_same_options(name):
    entry = models.entry(name)
    found = options.read_imported(f"{entry.module}:{name}", entry.factory)
    told = options.read(f"{entry.module}:{name}")
    assert list(found.parameters) == list(told.parameters)
    for one, other in zip(
        found.parameters.values(), told.parameters.values(), strict=True
    ):
        assert dataclasses.replace(one, is_keyword=False) == other


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_has_a_help(name):
    parser = cli.command(name).parser()
    assert [action.dest for action in parser._actions if not action.help] == []


def test_completion_knows_commands_and_their_options(capsys):
    pytest.importorskip("shtab")
    cli.main(["--completion", "bash"])
    script = capsys.readouterr().out
    assert "--max-per-artist" in script and "jamendo" in script
    with pytest.raises(ValueError, match="Give --completion one of: bash"):
        cli.main(["--completion", "basic"])


@pytest.mark.parametrize(
    ("annotation", "default", "kind", "is_many", "choices"),
    [
        ("int | None", None, int, False, ()),
        ("tuple[int, ...]", (1,), int, True, ()),
        ('Annotated[Literal["a", "b"], Option(help="x")]', "a", str, False, ("a", "b")),
        ("str | os.PathLike", options.MISSING, str, False, ()),
        ("tuple", ((1, 2), (3, 4)), None, True, ()),
        ("list", [], str, True, ()),
        ("Callable | None", None, None, False, ()),
    ],
)
def test_types_are_understood(annotation, default, kind, is_many, choices):
    names = {"Annotated": Annotated, "Literal": Literal, "os": os}
    names |= {"Callable": Callable, "Option": options.Option}
    found = options.parameter_of("x", eval(annotation, names), default, "")
    assert (found.kind, found.is_many, found.choices) == (kind, is_many, choices)
