"""Types of arguments that commands share, and checks that need no model.

A check takes the text of an argument and returns its value; what it raises is the end
of a sentence: `--model: there is no …`.
"""

import csv
import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from tagger import weights
from tagger.options import Option, OptionsOf, Parameter, check_range, load
from tagger.text import TaggerError, suggest_names

Count = Annotated[int, Option(ge=1)]
Index = Annotated[int, Option(ge=0)]
Number = Annotated[float, Option(gt=0)]
Share = Annotated[float, Option(ge=0, le=1)]
SomeShare = Annotated[float, Option(gt=0, lt=1)]
Model = Annotated[
    str,
    Option(
        metavar="MODEL",
        check="tagger.cli.kinds:model",
        help="Model file, pretrained model (see tagger models list), or hf://USER/NAME",
    ),
]
Force = Annotated[bool, Option(help="Overwrite existing files")]
Folder = Annotated[str, Option(metavar="DIR")]
Shards = Annotated[
    str, Option(metavar="DIR", help="Folder with the shards, or its parent")
]
Seconds = Annotated[
    float,
    Option(
        gt=0,
        help="Time in seconds from one segment to the next; None: the model's own hop",
    ),
]
Output = Annotated[str, Option(metavar="DIR", writes=True)]
ModelOutput = Annotated[str, Option(writes=True, endings=(".onnx", ".keras"))]
FigureOutput = Annotated[str, Option(writes=True, endings=(".png", ".svg", ".pdf"))]
Streaming = Annotated[
    dict,
    OptionsOf(
        "tagger.inference.streaming:StreamOptions",
        defaults={"num_workers": None},
        builds=True,
    ),
]

PRETRAINED_PATH = Path(__file__).parents[1] / "weights" / "pretrained.csv"
LITERAL = "\0"  # before an argument that follows --; no argument can hold it
MODEL_ENDINGS = (".keras", ".hdf5", ".h5", ".onnx")


class Wrong(Exception):
    """What is wrong with an argument; no ValueError, which argparse would reword."""


def model(text: str) -> str:
    """Checks that a text names a model file, a pretrained model or hf://USER/NAME."""
    if text.startswith("hf://"):
        weights.hub.Repository.of(text)
    elif os.path.isfile(text):
        if not text.endswith(MODEL_ENDINGS):
            raise TaggerError(
                f"unknown type of model file {text!r}: must end in"
                f" {', '.join(MODEL_ENDINGS)}."
            )
    else:
        names = _pretrained()
        if text not in names:
            hint = suggest_names(text, names)
            if "Available" in hint:
                hint = "tagger models list names the models."
            raise TaggerError(f"no model file or pretrained model {text!r}. {hint}")
    return text


def check_distinct(models: Iterable[str]) -> None:
    """Checks that no model is named twice."""
    models = list(models)
    if len(set(models)) < len(models):
        raise TaggerError(f"{', '.join(models)} names a model twice.")


def _pretrained() -> list[str]:
    """Returns the keys of `pretrained.PRETRAINED`, without importing its module."""
    with PRETRAINED_PATH.open(encoding="utf-8", newline="") as file:
        return [row["name"] for row in csv.DictReader(file)]


def check_ending(path: str, endings: Iterable[str]) -> None:
    """Checks that a path has one of the endings."""
    if not path.endswith(tuple(endings)):
        *others, last = endings
        listed = f"{', '.join(others)} or {last}" if others else last
        raise TaggerError(f"{path!r} must end in {listed}.")


def check_output(path: str, endings: Iterable[str]) -> None:
    """Checks that a file can be written, before hours of work."""
    check_ending(path, endings)
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise TaggerError(f"cannot write {path!r}: it is a folder.")
    if not os.path.isdir(folder):
        raise TaggerError(f"cannot write {path!r}: no such folder.")
    if not os.access(folder, os.W_OK):
        raise TaggerError(f"cannot write {path!r}: permission denied.")
    if path.endswith(".parquet") and not importlib.util.find_spec("pyarrow"):
        raise TaggerError("Parquet needs pyarrow: pip install pyarrow.")


def check_files(named: list[tuple[str, Option, str]], replaces: bool) -> None:
    """Refuses to destroy files that a command reads, or that exist.

    Args:
        named: Flag or name, mark and value of every text of a command line.
        replaces: Whether existing outputs may be replaced; inputs never.
    """
    for place, (flag, mark, path) in enumerate(named):
        if not mark.writes or not os.path.exists(path):
            continue
        for other, (other_flag, _, other_path) in enumerate(named):
            if place != other and os.path.isfile(other_path):
                if os.path.samefile(path, other_path):
                    raise TaggerError(
                        f"{flag} would replace {path}, which is also {other_flag}."
                        f" Choose another {flag}."
                    )
        is_empty = os.path.isdir(path) and all(n[0] == "." for n in os.listdir(path))
        if not (mark.continues or replaces or is_empty):
            raise FileExistsError(
                f"{path} exists. Add --force to overwrite it, or choose another {flag}."
            )


def value_of(name: str, parameter: Parameter, text: str) -> object:
    """Converts and checks the text of an argument; "A,B" becomes a list.

    Raises:
        Wrong: the text is wrong; the message is a sentence.
    """
    text = text.removeprefix(LITERAL)
    if not (parameter.is_many and name.startswith("--")):
        return _one(name, parameter, text)
    words = [text]
    if not (parameter.mark.repeats or os.path.isfile(text)):
        (words,) = csv.reader([" ".join(text.splitlines())], skipinitialspace=True)
    if not words:
        raise Wrong(f"{name} needs a value: {parameter.metavar}.")
    return [_one(name, parameter, word.strip()) for word in words]


def _one(name: str, parameter: Parameter, text: str) -> object:
    mark, kind = parameter.mark, parameter.kind
    try:
        if mark.endings:
            check_output(text, mark.endings)
        value = load(mark.check)(text) if mark.check else kind(text)
        if not mark.check:
            check_range(name, value, mark)
    except TaggerError as error:
        said = str(error)
        raise Wrong(said if said.startswith(name) else f"{name}: {said}") from None
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise Wrong(f"{name} must be {what}, not {text!r}.") from None
    if parameter.choices and value not in parameter.choices:
        hint = suggest_names(text, map(str, parameter.choices))
        raise Wrong(f"{name} cannot be {text!r}. {hint}")
    return value
