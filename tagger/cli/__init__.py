"""The command line: arguments and printing, never the work itself.

`main(argv)` runs `tagger COMMAND …`, and `main_of(name)(argv)` one command as a script.
A command is a function; `signatures` makes its options of its signature. It is imported
after its arguments were checked.
"""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence

import tagger
from tagger import options
from tagger.cli import renamed
from tagger.cli.process import run
from tagger.cli.signatures import Command
from tagger.text import TaggerError, suggest_names

__all__ = ["COMMANDS", "command", "main", "main_of", "overview", "run"]

# Group -> command -> module and function in this package.
COMMANDS = {
    "Songs": {
        "tag": "songs:tag",
        "embed": "songs:embed",
        "explain": "songs:explain",
        "serve": "serving:serve",
    },
    "Collection": {
        "scan": "library:scan",
        "find": "library:find",
        "similar": "library:similar",
        "write": "library:write",
    },
    "Models": {
        "fit": "fitting:fit",
        "thresholds": "fitting:thresholds",
        "models list": "models:list_models",
        "models show": "models:show",
        "models fetch": "models:fetch",
        "models convert": "models:convert",
        "models average": "models:average",
        "models export": "models:export",
        "models share": "models:share",
    },
    "Training": {
        "build mtt": "datasets:build_mtt",
        "build msd": "datasets:build_msd",
        "build jamendo": "datasets:build_jamendo",
        "build csv": "datasets:build_csv",
        "build demo": "datasets:build_demo",
        "verify": "datasets:verify",
        "train": "training:train",
        "runs": "training:runs",
        "eval": "evaluating:evaluate",
        "excitations": "evaluating:excitations",
    },
}
_TARGETS = {
    name: f"{__name__}.{target}"
    for group in COMMANDS.values()
    for name, target in group.items()
}


def command(name: str, program: str | None = None) -> Command:
    """Returns a command, a name of COMMANDS, for a program of another name."""
    return Command(program or f"tagger {name}", _TARGETS[name])


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `tagger COMMAND …`.

    Args:
        argv: Arguments without the program's name; None: those of the process.

    Raises:
        SystemExit: help was wanted, or a failure has already been reported.
        TaggerError, OSError, ImportError: the command failed; the message is one
            sentence for the user.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    match argv:
        case [] | ["-h" | "--help", *_]:
            print(overview())
        case ["--version", *_]:
            print(f"tagger {tagger.__version__}")
        case ["--completion", *shells]:
            print(_completion(shells))
        case [word, *rest]:
            name = f"{word} {rest[0]}" if rest else word
            if name in _TARGETS and name != word:
                _exit(command(name).call(rest[1:]))
            elif word in _TARGETS:
                _exit(command(word).call(rest))
            elif members := [one for one in _TARGETS if one.startswith(f"{word} ")]:
                if rest and rest[0] not in ("-h", "--help"):
                    raise TaggerError(_unknown(rest[0], members, f"tagger {word}"))
                print(overview(members))
            else:
                raise TaggerError(_unknown(word, _TARGETS))


def main_of(name: str, script: str) -> Callable[[Sequence[str] | None], None]:
    """Returns the main function of a script at the top level, which is one command."""

    def main(argv: Sequence[str] | None = None) -> None:
        argv = sys.argv[1:] if argv is None else argv
        _exit(command(name, f"python {script}").call(argv))

    return main


def _exit(code: int | None) -> None:
    if code:
        sys.exit(code)


def _unknown(name: str, known: Iterable[str], group: str = "tagger") -> str:
    """Returns the sentence for a command that there is not."""
    hint = suggest_names(name, [one.rpartition(" ")[2] for one in known])
    if group == "tagger" and name in renamed.COMMANDS:
        hint = renamed.COMMANDS[name]
    elif "Available" in hint:
        hint = renamed.COMMANDS.get(group, f"{group} --help lists them.")
    return f"There is no command {name!r} of {group}. {hint}"


def overview(names: Iterable[str] = _TARGETS) -> str:
    """Returns the commands by group, with a line about each."""
    width = shutil.get_terminal_size().columns
    lines = ["usage: tagger COMMAND …", "", "Music auto-tagging."]
    for group, members in COMMANDS.items():
        members = [name for name in members if name in names]
        lines += ["", f"{group}:"] if members else []
        for name in members:
            about = f"  {name:<15} {options.summary(_TARGETS[name]).rstrip('.')}"
            lines += textwrap.wrap(about, width, subsequent_indent=" " * 18)
    lines += ["", "tagger COMMAND --help describes one; --version, --completion SHELL"]
    return "\n".join(lines)


def _completion(shells: Sequence[str]) -> str:
    """Returns the script that completes our commands in a shell."""
    import shtab  # of the extra completion

    if len(shells) != 1 or shells[0] not in shtab.SUPPORTED_SHELLS:
        known = ", ".join(shtab.SUPPORTED_SHELLS)
        raise TaggerError(f"Give --completion one of: {known}.")
    parser = argparse.ArgumentParser("tagger")
    words, nested = parser.add_subparsers(), {}
    for name in _TARGETS:
        first, _, second = name.partition(" ")
        if second and first not in nested:
            nested[first] = words.add_parser(first, help=first).add_subparsers()
        place = nested[first] if second else words
        parent = command(name).parser()
        about = " ".join(parent.description.partition("\n\n")[0].split())
        place.add_parser(second or first, parents=[parent], add_help=False, help=about)
    return shtab.complete(parser, shells[0])
