"""Options: the parameters of functions and fields of dataclasses, told once.

`read("tagger.inference.streaming:StreamOptions")` returns what the source says of each:
name, type, range, choices, default and help. Nothing is imported for it, so that the
command line can show the options of code that needs TensorFlow in milliseconds.
"""

import ast
import builtins
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

from tagger.text import TaggerError

MISSING = inspect.Parameter.empty
TAGS = ("num_tags", "tags")  # of a factory: the data say which


@dataclasses.dataclass(frozen=True)
class Option:
    """What a type does not say of an option; used as `Annotated[int, Option(ge=1)]`.

    The ranges have the names of `msgspec.Meta`.

    Attributes:
        ge: Lowest value.
        gt: Value that it must exceed.
        le: Highest value.
        lt: Value that it must stay below.
        min_length: Length of the shortest sequence.
        help: What the docstring need not say, because several options share it.
        flag: Name on the command line. Default: that of the parameter.
        metavar: What stands for its value in the help.
        check: "module:function" that checks and converts the text of a command line;
            it raises a TaggerError that says what is wrong.
        endings: Endings of a file that the option names.
        writes: Whether it names what is written.
        continues: Whether what exists there is continued and not replaced.
        repeats: Whether it may be given several times.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    help: str = ""
    flag: str | None = None
    metavar: str | None = None
    check: str | None = None
    endings: tuple[str, ...] = ()
    writes: bool = False
    continues: bool = False
    repeats: bool = False


@dataclasses.dataclass(frozen=True)
class OptionsOf:
    """Stands for options of other code: `Annotated[dict, OptionsOf("…:build")]`.

    Attributes:
        source: "module:name" of a function or dataclass, whose parameters with a
            default are meant. If `chosen`: of a function that takes the options that
            were given so far, and returns the `Signature`s that go with them.
        defaults: Values in the place of the defaults there.
        flags: Names on the command line that differ from those of the parameters.
        title: Title of the group in the help.
        builds: Whether `source` is called with the options, or they are passed as dict.
        chosen: See `source`.
        owner: "module:name" of a function that says in a sentence whose option an
            unknown one is; it takes its name, and returns "" if it does not know.
    """

    source: str
    defaults: dict[str, object] = dataclasses.field(default_factory=dict)
    flags: dict[str, str] = dataclasses.field(default_factory=dict)
    title: str | None = None
    builds: bool = False
    chosen: bool = False
    owner: str | None = None


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter or field.

    Attributes:
        name: Its name.
        kind: int, float, str or bool; None for what is no option, such as a callback.
        default: Its default; MISSING if it needs a value.
        help: What its docstring says.
        choices: Values that it may have; empty: any.
        is_many: Whether it holds a sequence of `kind`.
        is_keyword: Whether it can only be given by name.
        mark: Ranges and names.
        source: Where its own fields are read, if it stands for several options.
    """

    name: str
    kind: type | None
    default: object
    help: str
    choices: tuple = ()
    is_many: bool = False
    is_keyword: bool = True
    mark: Option = Option()
    source: OptionsOf | None = None

    @property
    def metavar(self) -> str:
        """What stands for the value in a help."""
        if self.mark.metavar or self.choices:
            return self.mark.metavar or f"{{{','.join(map(str, self.choices))}}}"
        if self.is_many and not self.mark.repeats:
            return "A,B"
        if self.kind is not str:
            return "N" if self.kind is int else "X"
        return "FILE" if self.mark.endings else "TEXT"

    @property
    def about(self) -> str:
        """The help with the default, which replaces what it says of None."""
        text, default = self.help.rstrip(".").replace("`", ""), self.default
        if default is True:  # its flag is --no-…
            return f"Do not {text[:1].lower()}{text[1:]}"
        stated = r" (default: \1)" if default is None else ""
        text = re.sub(r"; None: ((?:[^;.]|\.(?=\S))*)", stated, text)
        if default in (MISSING, None, (), "") or isinstance(default, bool):
            return text
        if isinstance(default, Sequence) and not isinstance(default, str):
            default = ",".join(map(str, default))
        if isinstance(default, float):
            default = f"{default:g}"
        return f"{text} (default: {default})"


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function or dataclass as its source describes it.

    Attributes:
        name: "module:name".
        text: Its docstring up to the first section.
        parameters: Parameters by name.
        title: Title in a help; None: the first line of `text`.
    """

    name: str
    text: str
    parameters: dict[str, Parameter]
    title: str | None = None

    def defaults(self) -> dict[str, object]:
        """Returns the default of each option."""
        return {p.name: p.default for p in self.parameters.values()}

    def with_defaults(self, values: dict[str, object]) -> "Signature":
        """Returns the signature with other defaults; unknown names are ignored."""
        changed = {
            name: dataclasses.replace(one, default=values.get(name, one.default))
            for name, one in self.parameters.items()
        }
        return dataclasses.replace(self, parameters=changed)

    def only(self, names: Sequence[str]) -> "Signature":
        """Returns the signature with some of its parameters, in the given order."""
        kept = {name: self.parameters[name] for name in names}
        return dataclasses.replace(self, parameters=kept)


class _Elsewhere:
    """A class, function or module of which only the name is known."""

    def __init__(self, name: str, is_read: bool = False):
        self.name, self.is_read = name, is_read  # whether its source can be read

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Elsewhere(f"{self.name}.{name}")

    def __call__(self, *_, **__):
        return self

    def __getitem__(self, _):
        return self

    def __or__(self, other):
        return self if other is None else other

    def __ror__(self, other):
        return self if other is None else other


class _Module(dict):
    """The names at the top of a module, evaluated when they are asked for."""

    def __init__(self, name: str):
        super().__init__()
        tree = ast.parse(_path_of(name).read_text(encoding="utf-8"))
        self.name, self.text = name, ast.get_docstring(tree) or ""
        self.statements = {}
        for statement in tree.body:
            match statement:
                case ast.Assign([ast.Name(target)]):
                    self.statements[target] = statement.value
                case ast.FunctionDef(target) | ast.ClassDef(target):
                    self.statements[target] = statement
                case ast.Import(aliases) | ast.ImportFrom(names=aliases):
                    for alias in aliases:
                        target = alias.asname or alias.name.partition(".")[0]
                        self.statements[target] = (statement, alias.name)

    def __missing__(self, name: str):
        if name not in self.statements:
            raise KeyError(name)
        match self.statements[name]:
            case ast.expr() as expression:
                self[name] = self.value(expression)
            case ast.stmt():
                self[name] = _Elsewhere(f"{self.name}:{name}", is_read=True)
            case ast.Import(), module:
                self[name] = _imported(module)
            case ast.ImportFrom(module), attribute:
                self[name] = _imported(module, attribute)
        return self[name]

    def value(self, node: ast.expr) -> object:
        """Evaluates an expression of the module."""
        code = compile(ast.Expression(node), self.name, "eval")
        return eval(code, {"__builtins__": vars(builtins)}, self)


def _path_of(module: str) -> Path:
    root, *names = module.split(".")
    if root != __package__:
        return Path(importlib.util.find_spec(module).origin)
    path = Path(__file__).parent.joinpath(*names)  # imports no package above it
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imported(module: str, attribute: str | None = None) -> object:
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names or module == __name__:
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found
    if (module, attribute) == ("msgspec", "Meta"):
        return Option
    if root == __package__ and attribute:
        with contextlib.suppress(KeyError):  # a module of a package
            return _module(module)[attribute]
    return _Elsewhere(f"{module}:{attribute}")


@functools.cache
def _module(name: str) -> _Module:
    return _Module(name)


def summary(name: str) -> str:
    """Returns the first paragraph of a function's docstring, as one line."""
    module, _, attribute = name.partition(":")
    text = ast.get_docstring(_module(module).statements[attribute]) or ""
    return " ".join(text.partition("\n\n")[0].split())


@functools.cache
def read(name: str) -> Signature:
    """Reads a function or dataclass.

    Args:
        name: "package.module:name", of code in this package; its module is parsed and
            not imported.
    """
    module, _, attribute = name.partition(":")
    held = _module(module)
    match held.statements[attribute]:
        case ast.ImportFrom(elsewhere), original:
            return read(f"{elsewhere}:{original}")
        case ast.FunctionDef() as node:
            rows = _arguments(node.args)
        case ast.ClassDef() as node:
            fields = [s for s in node.body if isinstance(s, ast.AnnAssign)]
            rows = [(s.target.id, s.annotation, s.value, True) for s in fields]
    text, entries = documented(ast.get_docstring(node) or "")
    # What all factories share is told once, at the top of their package.
    shared = documented(_module("tagger.models").text)[1] if _is_factory(rows) else {}
    parameters = {}
    for parameter, annotation, default, is_keyword in rows:
        parameters[parameter] = parameter_of(
            parameter,
            held.value(annotation) if annotation else MISSING,
            _default(held, default),
            entries.get(parameter) or shared.get(parameter, ""),
            is_keyword,
        )
    return Signature(name, text, parameters)


def _is_factory(rows: Sequence[tuple]) -> bool:
    return set(TAGS) <= {row[0] for row in rows}


def _arguments(arguments: ast.arguments) -> list[tuple]:
    given = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(given) - len(arguments.defaults)) + arguments.defaults
    rows = [
        (one.arg, one.annotation, default, False)
        for one, default in zip(given, defaults, strict=True)
    ]
    rows += [
        (one.arg, one.annotation, default, True)
        for one, default in zip(
            arguments.kwonlyargs, arguments.kw_defaults, strict=True
        )
    ]
    return rows


def _default(held: _Module, node: ast.expr | None) -> object:
    if node is None:
        return MISSING
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("field"):
        return None  # dataclasses.field(default_factory=…)
    return held.value(node)


def read_imported(name: str, function: Callable) -> Signature:
    """Reads a function from outside this package, which was imported."""
    text, entries = documented(inspect.getdoc(function) or "")
    hints = {}
    with contextlib.suppress(TypeError, NameError):  # a partial, or names of a checker
        hints = typing.get_type_hints(function, include_extras=True)
    shared = documented(_module("tagger.models").text)[1]
    parameters = {
        one.name: parameter_of(
            one.name,
            hints.get(one.name, MISSING),
            one.default,
            entries.get(one.name) or shared.get(one.name, ""),
        )
        for one in inspect.signature(function).parameters.values()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }
    return Signature(name, text, parameters)


def parameter_of(
    name: str, annotation: object, default: object, help: str, is_keyword: bool = True
) -> Parameter:
    """Returns a parameter of a type that is annotated with ranges and choices."""
    mark, source, choices, is_many = Option(), None, (), False
    if annotation is MISSING:
        annotation = type(default)
    while True:
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated:
            annotation, *marks = arguments
            level = Option()
            for one in marks:
                source = one if isinstance(one, OptionsOf) else source
                level = _merged(one, level) if isinstance(one, Option) else level
            mark = _merged(mark, level)
        elif origin in (typing.Union, types.UnionType):
            annotation = next(
                a for a in arguments if a not in (type(None), os.PathLike)
            )
        elif origin is typing.Literal:
            choices, annotation = arguments, type(arguments[0])
        elif isinstance(origin, type) and issubclass(origin, Sequence):
            is_many, annotation = True, arguments[0]
        elif annotation is tuple or annotation is list:
            first = default[0] if isinstance(default, Sequence) and default else ""
            is_many, annotation = True, type(first)
            break
        else:
            break
    if isinstance(annotation, _Elsewhere) and annotation.is_read:
        source = source or OptionsOf(annotation.name, builds=True)
    kind = str if annotation is Path else annotation
    return Parameter(
        name,
        kind if kind in (int, float, str, bool) else None,
        default,
        help or mark.help,
        choices,
        is_many,
        is_keyword,
        mark,
        source,
    )


def _merged(outer: Option, inner: Option) -> Option:
    """Returns the marks of two layers of Annotated; the outer one counts."""
    usual = Option()
    changes = {
        field.name: getattr(outer, field.name)
        for field in dataclasses.fields(Option)
        if getattr(outer, field.name) != getattr(usual, field.name)
    }
    return dataclasses.replace(inner, **changes)


def load(name: str) -> Callable:
    """Imports "module:name"."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Layers):", re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n(?:     .*|)$)*)", re.MULTILINE)


def documented(docstring: str) -> tuple[str, dict[str, str]]:
    """Returns the text of a Google docstring before its sections, and its entries."""
    text, *rest = _SECTION.split(docstring)
    entries = {}
    for title, section in zip(rest[::2], rest[1::2], strict=True):
        if title in ("Args", "Attributes"):
            found = _ENTRY.findall(section)
            entries = {name: " ".join(entry.split()) for name, entry in found}
    return text.strip(), entries


_BOUNDS = {
    "ge": ("at least", lambda value, bound: value >= bound),
    "gt": ("above", lambda value, bound: value > bound),
    "le": ("at most", lambda value, bound: value <= bound),
    "lt": ("below", lambda value, bound: value < bound),
}


def check_range(name: str, value: float | Sequence, mark: object) -> None:
    """Checks a value against the range of an `Option` or a `msgspec.Meta`.

    Raises:
        ValueError: it is outside; the message says what may be.
    """
    bounds = {key: getattr(mark, key) for key in _BOUNDS}
    bounds = {key: bound for key, bound in bounds.items() if bound is not None}
    if mark.min_length and len(value) < mark.min_length:
        raise TaggerError(f"{name} must not be empty.")
    # `not all` also refuses what is not a number.
    if bounds and not (
        abs(value) < float("inf")
        and all(_BOUNDS[key][1](value, bound) for key, bound in bounds.items())
    ):
        said = [
            f"{_BOUNDS[key][0]} {bound:,}"
            if isinstance(bound, int)
            else f"{_BOUNDS[key][0]} {bound:g}"
            for key, bound in bounds.items()
        ]
        raise TaggerError(f"{name} must be {' and '.join(said)}, not {value}.")
