"""Argument types, and checks that do not need a model."""

import argparse
import ast
import importlib.util
import inspect
import math
import os
from collections.abc import Callable, Sequence

from tagger.models.metadata import suggest_names
from tagger.storage import LOCK_NAME
from tagger.text import TaggerError
from tagger.weights import hub
from tagger.weights.pretrained import PRETRAINED


def arguments_of(function: Callable, args: argparse.Namespace) -> dict:
    """Returns the parsed arguments that a function takes, by name."""
    given = vars(args)
    return {n: given[n] for n in inspect.signature(function).parameters if n in given}


class OptionGroup:
    """Options that keep the default of a function unless they are given.

    Args:
        group: Argument group that receives the options; its parser must suppress
            missing arguments.
    """

    def __init__(self, group: argparse._ArgumentGroup):
        self._group = group
        self._actions = {}  # by argument
        self.flags = {}  # argument -> flag

    def add(
        self, flag: str, group: argparse._ArgumentGroup | None = None, **kwargs
    ) -> None:
        """Adds an argument as `add_argument` does, perhaps to another group."""
        action = (group or self._group).add_argument(flag, **kwargs)
        self._actions[action.dest], self.flags[action.dest] = action, flag

    def state_defaults(self, defaults: dict) -> None:
        """Adds the defaults to the help, which omits the options that have none."""
        for name, action in self._actions.items():
            if name not in defaults:
                action.help = argparse.SUPPRESS
            elif not isinstance(defaults[name], bool):
                action.help += f" (default: {defaults[name]})"

    def values(
        self,
        known: Sequence[str],
        args: argparse.Namespace,
        owner: str,
        further: dict | None = None,
    ) -> dict:
        """Returns the options that were given.

        Args:
            known: Names of the options that the owner accepts.
            args: Parsed arguments.
            owner: Name of the owner, for the error message.
            further: Options given in another way, such as --set.

        Raises:
            ValueError: an option was given that the owner does not accept.
        """
        given = {n: getattr(args, n) for n in self.flags if hasattr(args, n)}
        for name in (further or {}) | given:
            if name not in known:
                flag = self.flags.get(name, f"--set {name}")
                flags = [
                    self.flags.get(n, f"--set {n}")
                    for n in known
                    if n in self.flags or further is not None
                ]
                raise TaggerError(
                    f"{flag} is not an option of {owner}. Available:"
                    f" {', '.join(flags) or 'none'}."
                )
        return given | (further or {})


def setting(text: str) -> tuple[str, object]:
    """Argument type: NAME=VALUE, where VALUE is a Python literal or else text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name.replace("-", "_"), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.replace("-", "_"), value


def check_types(settings: dict, defaults: dict) -> None:
    """Checks that the values of --set have the types of the defaults.

    Args:
        settings: Values by option; unknown options are not checked.
        defaults: Default of each option; any value may replace None.

    Raises:
        ValueError: a value has another type. A whole number may replace a float, and a
            list a tuple.
    """
    accepted = {float: (float, int), tuple: (tuple, list)}
    for name, value in settings.items():
        kind = type(defaults.get(name))
        is_bool_for_number = kind is not bool and isinstance(value, bool)
        if kind is type(None):
            continue
        if is_bool_for_number or not isinstance(value, accepted.get(kind, kind)):
            raise TaggerError(
                f"--set {name}={value} must be of type {kind.__name__}, as its default"
                f" {defaults[name]!r} is."
            )


def _number(text: str, kind: type) -> float:
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"must be {what}, not {text!r}") from None


def at_least_one(text: str) -> int:
    """Argument type: a whole number above 0."""
    number = _number(text, int)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def at_least_two(text: str) -> int:
    """Argument type: a whole number above 1."""
    number = _number(text, int)
    if number < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, not {number}")
    return number


def not_below_zero(text: str) -> int:
    """Argument type: a whole number of at least 0."""
    number = _number(text, int)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {number}")
    return number


def tag_map(text: str) -> dict[str, str]:
    """Argument type: pairs of tag names, A=B,C=D."""
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(name.strip() and other.strip() for name, _, other in pairs):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of pairs such as 'rock=hard rock,metal=heavy"
            " metal'"
        )
    return {name.strip(): other.strip() for name, _, other in pairs}


def share(text: str) -> float:
    """Argument type: a number from 0 to 1."""
    number = _number(text, float)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {text}")
    return number


def share_between(text: str) -> float:
    """Argument type: a number between 0 and 1, neither of them."""
    number = _number(text, float)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return number


def above_zero(text: str) -> float:
    """Argument type: a finite number above 0."""
    number = _number(text, float)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return number


def not_negative(text: str) -> float:
    """Argument type: a finite number of at least 0."""
    number = _number(text, float)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return number


def port(text: str) -> int:
    """Argument type: a TCP port."""
    number = _number(text, int)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 1 to 65535, not {number}")
    return number


def output_file(text: str) -> str:
    """Argument type: a path that can be written, checked before hours of work."""
    folder = os.path.dirname(os.path.abspath(text))
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: it is a folder")
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: no such folder")
    if text != "-" and not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: permission denied")
    if text.endswith(".parquet") and not importlib.util.find_spec("pyarrow"):
        raise argparse.ArgumentTypeError("Parquet needs pyarrow: pip install pyarrow")
    return text


def figure_file(text: str) -> str:
    """Argument type: an `output_file` that ends in .png, .svg or .pdf."""
    return _ending(text, ".png", ".svg", ".pdf")


def model_output(text: str) -> str:
    """Checks the type of a model to write, .onnx or .keras."""
    if not text.endswith((".onnx", ".keras")):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .onnx or .keras")
    return output_file(text)


def keras_file(text: str) -> str:
    """Argument type: an `output_file` that ends in .keras."""
    return _ending(text, ".keras")


def embedding_file(text: str) -> str:
    """Argument type: an `output_file` that ends in .parquet or .npy."""
    return _ending(text, ".parquet", ".npy")


def playlist_file(text: str) -> str:
    """Argument type: an `output_file` that ends in .m3u8 or .m3u."""
    return _ending(text, ".m3u8", ".m3u")


def _ending(text: str, *endings: str) -> str:
    if not text.endswith(endings):
        *others, last = endings
        listed = f"{', '.join(others)} or {last}" if others else last
        raise argparse.ArgumentTypeError(f"{text!r} must end in {listed}")
    return output_file(text)


def model_name(text: str) -> str:
    """Argument type: an existing model file, or a pretrained model, or hf://user/name."""
    if text in PRETRAINED:
        return text
    if hub.is_hub_name(text):
        try:
            hub.Repository.of(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(error) from error
        return text
    if os.path.isfile(text):
        endings = (".keras", ".hdf5", ".h5", ".onnx")
        if not text.endswith(endings):
            raise argparse.ArgumentTypeError(
                f"unknown type of model file {text!r}: must end in {', '.join(endings)}"
            )
        return text
    hint = suggest_names(text, PRETRAINED)
    if "Available" in hint:
        hint = "Run tagger pretrained to list the models."
    raise argparse.ArgumentTypeError(
        f"there is no model file or pretrained model {text!r}. {hint}"
    )


def model_names(text: str) -> list[str]:
    """Argument type: one model or several with commas, see `model_name`."""
    names = [text] if os.path.isfile(text) else text.split(",")
    names = [model_name(name.strip()) for name in names]
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} names a model twice")
    return names


def not_empty(text: str) -> str:
    """Checks that a text is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def add_tag_list(add: Callable) -> None:
    """Adds --tags and --tag-separator of data in a csv.

    Args:
        add: Method `add_argument` of a parser or group.
    """
    add(
        "--tags",
        metavar="FILE",
        help="use only the tags in this file, in its order (one per line, or a JSON"
        " list); default: all, in alphabetical order",
    )
    add(
        "--tag-separator",
        default=";",
        type=not_empty,
        metavar="TEXT",
        help="separator between the tags in the column tags (default: ;)",
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    """Adds --force, which `check_outputs` reads."""
    parser.add_argument("--force", action="store_true", help="overwrite existing files")


def check_outputs(args: argparse.Namespace, *names: str) -> None:
    """Refuses to overwrite existing outputs unless --force is given.

    Args:
        args: Parsed arguments.
        names: Names of the arguments that hold an output path. The values None and "-"
            (standard output) are not checked.

    Raises:
        FileExistsError: an output exists.
    """
    for name in names:
        path = getattr(args, name)
        if path in (None, "-") or args.force or not os.path.exists(path):
            continue
        if os.path.isdir(path) and not set(os.listdir(path)) - {LOCK_NAME}:
            continue
        flag = f"--{name.replace('_', '-')}"
        raise FileExistsError(
            f"{path} exists. Add --force to overwrite it, or choose another {flag}."
        )
