"""Text for people: names that may hold anything, in terminals, pictures and tables."""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable


class TaggerError(ValueError):
    """What is wrong with the input, in a sentence for users.

    Commands print it; any other ValueError is a bug, and shows its traceback. An option
    is written as Python calls it, `batch_size=` or `precision=bfloat16`; commands print
    --batch-size and --precision bfloat16.
    """


def as_utf8(path: str | os.PathLike) -> str:
    r"""Returns a path as text; bytes that are not UTF-8 are written as `\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


# What `printable` may write for a character.
_ESCAPED = re.compile(r"\\(\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U0)")


def printable(text: str, keep: str = "") -> str:
    """Escapes what must not reach a terminal, a picture or a table.

    Names of files and tags may hold control characters, codes that recolour or rewrite
    a terminal, and bytes that are not UTF-8. If any is escaped, so is the backslash, as
    it is where a harmless name looks escaped: two names never look the same.

    Args:
        text: Text from outside.
        keep: Further characters to keep, such as line breaks.
    """
    if not _ESCAPED.search(text) and not any(_is_harmful(one, keep) for one in text):
        return text
    return "".join(
        one.encode("unicode_escape").decode()
        if one == "\\" or _is_harmful(one, keep)
        else one
        for one in text
    )


_BIDIRECTIONAL = (
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def _is_harmful(one: str, keep: str) -> bool:
    if one in keep:
        return False
    return one in _BIDIRECTIONAL or unicodedata.category(one) in (
        "Cc",
        "Cs",
        "Zl",
        "Zp",
    )


def table_cell(text: str) -> str:
    """Returns text for a cell of a CSV file, which a spreadsheet may open.

    Control characters are escaped, and an apostrophe keeps `=1+1` from being a formula.
    """
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "'")) else text


def similar_names(name: str, names: Iterable[str]) -> list[str]:
    """Returns the names, three at most, that are most similar to an unknown one."""
    alike = difflib.get_close_matches(name, names, 3, 0.5)
    likeness = [difflib.SequenceMatcher(None, one, name).ratio() for one in alike]
    pairs = zip(alike, likeness, strict=True)
    return [one for one, ratio in pairs if ratio > likeness[0] - 0.1]


def suggest_names(name: str, names: Iterable[str]) -> str:
    """Returns a hint for an unknown name: the most similar names, or all of them."""
    names = list(names)
    if alike := similar_names(name, names):
        return f"Did you mean {' or '.join(alike)}?"
    return f"Available: {', '.join(names)}."
