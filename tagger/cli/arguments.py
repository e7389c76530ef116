"""Types of arguments, and options made from a function's own signature."""

import argparse
import importlib.util
import inspect
import math
import os
import re
import typing
from collections.abc import Callable


def arguments_of(function: Callable, args: argparse.Namespace) -> dict:
    """The parsed arguments that a function takes, by name."""
    given = vars(args)
    return {n: given[n] for n in inspect.signature(function).parameters if n in given}


class OptionGroup:
    """Options of a function that the command line may give; the rest keeps its default.

    Args:
        group: Where they are shown by `--help`; its arguments must be suppressed when
            they are not given.
    """

    def __init__(self, group: argparse._ArgumentGroup):
        self._group = group
        self.flags = {}  # argument -> flag

    def add(self, flag: str, **kwargs) -> None:
        """Adds an argument as `add_argument` does."""
        self.flags[self._group.add_argument(flag, **kwargs).dest] = flag

    def for_function(
        self, function: Callable, args: argparse.Namespace, whose: str
    ) -> dict:
        """Keyword arguments of a function from what was given.

        Raises:
            ValueError: an option was given that the function does not take.
        """
        values = vars(args)
        known = inspect.signature(function).parameters
        given = [name for name in self.flags if name in values]
        for name in given:
            if name not in known:
                flags = [flag for n, flag in self.flags.items() if n in known]
                raise ValueError(
                    f"{self.flags[name]} is no option of {whose}, which has:"
                    f" {', '.join(flags) or 'none'}."
                )
        return {name: values[name] for name in given}


def add_options_of(
    group: argparse._ArgumentGroup,
    function: Callable,
    flags: dict[str, str] | None = None,
    defaults: dict | None = None,
) -> None:
    """Adds an option for every argument of a function that has a default.

    Type, default and help are those of its signature and docstring.

    Args:
        group: Where to add them.
        function: Its docstring has Google's section of arguments.
        flags: Argument -> flag, where that is not its name.
        defaults: Argument -> default, where that is not the function's.
    """
    flags, defaults = flags or {}, defaults or {}
    helps = argument_docs(function)
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is parameter.empty:
            continue
        default = defaults.get(name, parameter.default)
        kind, text = hints[name], helps[name]
        if type(None) in typing.get_args(kind):  # int | None
            (kind,) = set(typing.get_args(kind)) - {type(None)}
        options = {"default": default, "dest": name}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is typing.Literal:
            options["choices"] = typing.get_args(kind)
        else:
            is_count = kind is int and default != 0  # a seed may be 0
            options["type"] = at_least_one if is_count else kind
            options["metavar"] = {int: "N", float: "X", str: "TEXT"}[kind]
        if default not in (None, False):
            text += f" (default: {default})"
        flag = flags.get(name, f"--{name.replace('_', '-')}")
        group.add_argument(flag, help=text.replace("%", "%%"), **options)


def argument_docs(function: Callable) -> dict[str, str]:
    """Argument -> what the docstring says of it, without backquotes and last stop."""
    _, _, section = inspect.getdoc(function).partition("\nArgs:\n")
    section = re.split(r"\n\S", section)[0]
    docs = re.findall(r"^    (\w+): ((?:.|\n      )*)", section, re.MULTILINE)
    return {
        name: re.sub(r"\s+", " ", text).replace("`", "").rstrip(". ")
        for name, text in docs
    }


def at_least_one(text: str) -> int:
    """Argument type: a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def above_zero(text: str) -> float:
    """Argument type: a finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return number


def port(text: str) -> int:
    """Argument type: where a machine listens."""
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 1 to 65535, not {number}")
    return number


def output_file(text: str) -> str:
    """Argument type: a file that can be written, checked before hours of work."""
    folder = os.path.dirname(os.path.abspath(text))
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: it is a folder")
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: no such folder")
    if text.endswith(".parquet") and not importlib.util.find_spec("pyarrow"):
        raise argparse.ArgumentTypeError("Parquet needs pyarrow: pip install pyarrow")
    return text


def figure_file(text: str) -> str:
    """Argument type: an `output_file` that ends as a picture does."""
    if not text.endswith((".png", ".svg", ".pdf")):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .png, .svg or .pdf")
    return output_file(text)


def keras_file(text: str) -> str:
    """Argument type: an `output_file` that ends in .keras."""
    if not text.endswith(".keras"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .keras")
    return output_file(text)
