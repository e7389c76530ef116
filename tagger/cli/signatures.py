"""Commands are functions: a signature and its docstring are the whole command line.

A parameter before the * is a positional argument, one behind it an option, `OptionsOf`
a group of options told elsewhere. The source is read, not imported (see `options`). The
function gets what was given: its own defaults are the defaults. There are no nested
options, settings files, environment variables or short flags.
"""

import argparse
import contextlib
import dataclasses
import functools
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from tagger import options
from tagger.cli import kinds
from tagger.cli.kinds import LITERAL, Wrong, value_of
from tagger.cli.renamed import OPTIONS
from tagger.options import MISSING, Option, Parameter, Signature, load
from tagger.text import TaggerError, similar_names


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
        except Wrong as error:
            raise TaggerError(f"{error} See {self.program} --help.") from None

    def parser(self, given: dict | None = None, is_first: bool = False) -> "_Parser":
        """Returns the parser.

        Args:
            given: What decides about further options.
            is_first: Whether it looks for these alone, and nothing is required.
        """
        width = max(min(shutil.get_terminal_size().columns, 100) - 2, 20)
        paragraphs = self.signature.text.split("\n\n")
        parser = _Parser(
            prog=self.program,
            description="\n\n".join(textwrap.fill(one, width) for one in paragraphs),
            formatter_class=functools.partial(
                _Formatter, max_help_position=26, width=width
            ),
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        parser.groups = [*self._groups(given or {}, is_first)]
        for group in parser.groups:
            place, title = parser, group.signature.title or group.source.title
            if group.owner and any(True for _ in group):
                title = title or group.signature.text.partition("\n")[0]
                place = parser.add_argument_group(title.rstrip("."))
            for destination, name, parameter in group:
                try:
                    _add(place, destination, name, parameter, not is_first)
                except argparse.ArgumentError:
                    chosen = [one for one in parser.groups if one.source.chosen]
                    of = {n: g for g in reversed(chosen) for _, n, _ in g}[name]
                    raise TaggerError(
                        f"{of.signature.name} has an option {name}, which"
                        f" {self.program} has, too. Rename it there."
                    ) from None
        return parser

    def _groups(self, given: dict, is_first: bool) -> Iterator[_Group]:
        yield _Group("", self.signature, options.OptionsOf(""))
        for owner, source in self._sources().items():
            if source.chosen:
                found = [] if is_first else load(source.source)(given)
            else:
                found = [options.read(source.source)]
            for signature in found:
                yield _Group(owner, signature.with_defaults(source.defaults), source)

    def _parse(self, argv: Sequence[str]) -> dict:
        end = [*argv, "--"].index("--")  # what follows are no options
        wants_help = not {"-h", "--help"}.isdisjoint(argv[:end])
        words = [word for word in argv[:end] if word not in ("-h", "--help")]
        words += [LITERAL + word for word in argv[end + 1 :]]
        sources, given = self._sources(), {}
        if any(source.chosen for source in sources.values()):
            with contextlib.suppress(*[Wrong] * wants_help):
                first = self.parser(is_first=True)
                given = first.values(first.parse_known_args(words)[0], "")
        parser = self.parser(given)
        if wants_help:
            parser.parse_args(["--help"])
        for word in words:
            flag = word.partition("=")[0]
            is_flag = word[:1] == "-" and word[1:2] not in ("", *".0123456789")
            if is_flag and flag not in parser._option_string_actions:
                raise Wrong(self._about(flag, parser))
        found, unknown = parser.parse_known_intermixed_args(words)
        if unknown:
            raise Wrong(f"Unexpected argument {unknown[0].removeprefix(LITERAL)!r}.")
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

    def _about(self, flag: str, parser: "_Parser") -> str:
        """Returns what is wrong with an option that there is not."""
        name, known = flag.strip("-"), parser._option_string_actions
        hint = OPTIONS.get((self.signature.name.partition(":")[2], flag))
        hint = hint or OPTIONS.get(("", flag), "")
        if not flag.startswith("--"):
            hint = f"Files whose names start with a dash go after --: -- {flag}."
        for source in self._sources().values():
            other = source.flags.get(name.replace("-", "_"), "")
            for one in (other, f"--no-{name}", f"--{name.replace('_', '-')}"):
                hint = hint or (f"Did you mean {one}?" if one in known else "")
            hint = hint or (load(source.owner)(flag) if source.owner else "")
        names = [one[2:] for one in known if one.startswith("--")]
        if not hint and (alike := similar_names(name, names)):
            hint = f"Did you mean --{' or --'.join(alike)}?"
        return f"There is no option {flag} of {self.program}. {hint}".rstrip()


class _Parser(argparse.ArgumentParser):
    """Reports errors as `Wrong`, in sentences."""

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
        """Yields flag or name, mark and text of what is given, and of outputs."""
        for group in self.groups:
            for destination, name, parameter in group:
                usual = parameter.default if parameter.mark.writes else None
                value = getattr(found, destination, usual)
                for text in value if isinstance(value, list) else [value]:
                    if isinstance(text, str):
                        yield name.split()[0], parameter.mark, text

    def error(self, message: str):
        name, _, what = message.removeprefix("argument ").partition(": ")
        if "required" in name:
            raise Wrong(f"Give {what.replace(', ', ' and ')}.")
        if what.startswith("ignored explicit"):
            raise Wrong(f"{name} takes no value.")
        action = self._option_string_actions.get(name)
        raise Wrong(f"{name} needs a value: {action.metavar}." if action else message)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Does not break options at their dashes."""

    def _split_lines(self, text, width):
        return textwrap.wrap(text, width, break_on_hyphens=False)


def _add(
    place, destination: str, name: str, parameter: Parameter, is_strict: bool
) -> None:
    """Adds a parameter to a parser or to a group of it."""
    names, is_needed = name.split(), parameter.default is MISSING and is_strict
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
        about["type"] = functools.partial(value_of, name.split()[0], parameter)
    place.add_argument(*names, **about)
