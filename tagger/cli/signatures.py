"""Commands are functions: a signature and its docstring are the whole command line.

A parameter before the * is a positional argument, one behind it an option, `OptionsOf`
a group of options told elsewhere. The source is read, not imported (see `options`). The
function gets what was given: its own defaults are the defaults. There are no nested
options, settings files, environment variables or short flags.
"""

import argparse
import contextlib
import csv
import dataclasses
import functools
import importlib
import os
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence

from tagger import options
from tagger.cli import kinds
from tagger.cli.renamed import OPTIONS
from tagger.options import MISSING, Option, Parameter, Signature
from tagger.text import TaggerError, similar_names, suggest_names


class _Wrong(Exception):
    """What is wrong with an argument; no ValueError, which argparse would reword."""


@dataclasses.dataclass(frozen=True)
class _Group:
    """Options of one signature; `owner` is the command's parameter that gets them."""

    owner: str
    signature: Signature
    source: options.OptionsOf

    def __iter__(self) -> Iterator[tuple[str, str, Parameter]]:
        """Yields destination, flag or name of an argument, and parameter."""
        for parameter in self.signature.parameters.values():
            if parameter.kind and not (self.owner and parameter.default is MISSING):
                name = self.source.flags.get(parameter.name) or parameter.mark.flag
                if self.owner or parameter.is_keyword:
                    negates = parameter.kind is bool and parameter.default is True
                    flag = parameter.name.rstrip("_").replace("_", "-")
                    name = name or ("--no-" if negates else "--") + flag
                else:
                    name = parameter.mark.metavar or parameter.name.upper()
                yield f"{self.owner}.{parameter.name}", name, parameter


class Command:
    """A command.

    Args:
        program: Name for messages, such as "tagger find".
        target: "module:function".
    """

    def __init__(self, program: str, target: str):
        self.program, self.signature = program, options.read(target)

    def call(self, argv: Sequence[str]) -> int | None:
        """Parses the arguments, then imports and calls the function."""
        values = self.parse(argv)
        return load(self.signature.name)(**values)

    def parse(self, argv: Sequence[str]) -> dict:
        """Returns the values of the function's arguments; --help prints the help.

        Raises:
            SystemExit: after the help.
            TaggerError: an argument is wrong.
        """
        try:
            return self._parse(argv)
        except _Wrong as error:
            raise TaggerError(f"{error} See {self.program} --help.") from None

    def parser(self, given: dict | None = None) -> "_Parser":
        """Returns the parser; `given` holds what decides about further options."""
        width = min(shutil.get_terminal_size().columns, 100) - 2
        paragraphs = self.signature.text.split("\n\n")
        parser = _Parser(
            prog=self.program,
            description="\n\n".join(textwrap.fill(one, width) for one in paragraphs),
            formatter_class=functools.partial(
                argparse.RawDescriptionHelpFormatter, max_help_position=26, width=width
            ),
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        parser.groups = [*self._groups(given or {})]
        for group in parser.groups:
            place, title = parser, group.signature.title or group.source.title
            if group.owner and any(True for _ in group):
                title = title or group.signature.text.partition("\n")[0]
                place = parser.add_argument_group(title.rstrip("."))
            for destination, name, parameter in group:
                try:
                    _add(place, destination, name, parameter)
                except argparse.ArgumentError:
                    chosen = [one for one in parser.groups if one.source.chosen]
                    of = {n: g.signature.name for g in chosen for _, n, _ in g}[name]
                    raise TaggerError(
                        f"{of} has an option {name}, which {self.program} has, too."
                        " Rename it there."
                    ) from None
        return parser

    def _groups(self, given: dict) -> Iterator[_Group]:
        yield _Group("", self.signature, options.OptionsOf(""))
        for owner, source in self._sources().items():
            stated = [] if source.chosen else [options.read(source.source)]
            for signature in load(source.source)(given) if source.chosen else stated:
                yield _Group(owner, signature.with_defaults(source.defaults), source)

    def _parse(self, argv: Sequence[str]) -> dict:
        wants_help = not {"-h", "--help"}.isdisjoint(argv)
        words = [word for word in argv if word not in ("-h", "--help")]
        parser, sources = self.parser(), self._sources()
        if any(source.chosen for source in sources.values()):
            given = {}
            with contextlib.suppress(*[_Wrong] * wants_help):
                given = parser.values(parser.parse_known_args(words)[0], "")
            parser = self.parser(given)
        if wants_help:
            parser.parse_args(["--help"])
        intermixed = parser.parse_known_intermixed_args  # files between options
        parse = parser.parse_known_args if "--" in words else intermixed
        found, unknown = parse(words)
        if unknown:
            raise _Wrong(self._about(unknown, parser))
        values = parser.values(found, "")
        replaces = "force" not in self.signature.parameters or "force" in values
        kinds.check_files([*parser.texts(found)], replaces)
        for owner, source in sources.items():
            values[owner] = source.defaults | parser.values(found, owner)
            if source.builds:
                values[owner] = load(source.source)(**values[owner])
        return values

    def _sources(self) -> dict[str, options.OptionsOf]:
        parameters = self.signature.parameters.values()
        return {one.name: one.source for one in parameters if one.source}

    def _about(self, unknown: Sequence[str], parser: "_Parser") -> str:
        """Returns what is wrong with words that no option takes."""
        flags = [word for word in unknown if word.startswith("-") and word != "-"]
        if not flags:
            return f"{self.program} has no use for {unknown[0]!r}."
        flag = flags[0].partition("=")[0]
        hint = OPTIONS.get((self.signature.name.partition(":")[2], flag))
        hint = hint or OPTIONS.get(("", flag), "")
        for source in self._sources().values():
            hint = hint or (load(source.owner)(flag) if source.owner else "")
        known = [one.removeprefix("--") for one in parser._option_string_actions]
        if not hint and (alike := similar_names(flag.removeprefix("--"), known)):
            hint = f"Did you mean --{' or --'.join(alike)}?"
        return f"There is no option {flag} of {self.program}. {hint}".rstrip()


class _Parser(argparse.ArgumentParser):
    """Reports errors as `_Wrong`, in sentences."""

    groups: list[_Group]

    def values(self, found: argparse.Namespace, owner: str) -> dict[str, object]:
        """Returns what was given of the options of one parameter, by their names."""
        return {
            parameter.name: getattr(found, destination)
            for group in self.groups
            for destination, _, parameter in group
            if group.owner == owner and hasattr(found, destination)
        }

    def texts(self, found: argparse.Namespace) -> Iterator[tuple[str, Option, str]]:
        """Yields flag or name, mark and value of every text that was given."""
        for group in self.groups:
            for destination, name, parameter in group:
                value = getattr(found, destination, None)
                for text in value if isinstance(value, list) else [value]:
                    if isinstance(text, str):
                        yield name.split()[0], parameter.mark, text

    def error(self, message: str):
        name, _, what = message.removeprefix("argument ").partition(": ")
        if "required" in name:
            raise _Wrong(f"Give {what.replace(', ', ' and ')}.")
        if what.startswith("ignored explicit"):
            raise _Wrong(f"{name} takes no value.")
        raise _Wrong(f"{name} needs a value." if what else message)


def load(name: str) -> Callable:
    """Imports "module:name"."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _add(place, destination: str, name: str, parameter: Parameter) -> None:
    """Adds a parameter to a parser or to a group of it."""
    names, is_needed = name.split(), parameter.default is MISSING
    about = {"dest": destination, "help": parameter.about.replace("%", "%%")}
    if parameter.kind is bool:
        about["action"] = "store_false" if parameter.default is True else "store_true"
    elif name.startswith("--"):
        about |= {"required": is_needed, "metavar": parameter.metavar}
        about["action"] = "extend" if parameter.is_many else "store"
    else:
        about["metavar"] = name
        if parameter.is_many:
            about["nargs"] = "+" if is_needed else "*"
        elif not is_needed:
            about["nargs"] = "?"
        names = [about.pop("dest")]
    if parameter.kind is not bool:
        about["type"] = functools.partial(_value, name.split()[0], parameter)
    place.add_argument(*names, **about)


def _value(name: str, parameter: Parameter, text: str) -> object:
    """Converts and checks the text of an argument; "A,B" becomes a list."""
    if not (parameter.is_many and name.startswith("--")):
        return _one(name, parameter, text)
    words = [text]
    if not (parameter.mark.repeats or os.path.isfile(text)):
        (words,) = csv.reader([" ".join(text.splitlines())], skipinitialspace=True)
    return [_one(name, parameter, word.strip()) for word in words]


def _one(name: str, parameter: Parameter, text: str) -> object:
    mark, kind = parameter.mark, parameter.kind
    try:
        if mark.endings:
            kinds.check_output(text, mark.endings)
        value = load(mark.check)(text) if mark.check else kind(text)
        if not mark.check:
            options.check_range(name, value, mark)
    except TaggerError as error:
        said = str(error)
        raise _Wrong(said if said.startswith(name) else f"{name}: {said}") from None
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise _Wrong(f"{name} must be {what}, not {text!r}.") from None
    if parameter.choices and value not in parameter.choices:
        hint = suggest_names(text, map(str, parameter.choices))
        raise _Wrong(f"{name}: there is no {text!r}. {hint}")
    return value
