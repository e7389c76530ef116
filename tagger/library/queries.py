"""Asks a library for songs by their scores: `rock > .5 and not vocals and slow > .3`.

An expression combines tags with and, or, not and parentheses. A tag is compared with
numbers or with other tags; alone, it means that its score reaches its threshold. Names
that are no Python names, such as "hard rock" and "80s", are put in quotes; "hard_rock"
is understood too. The expression is parsed by Python, but nothing of it is executed.
"""

import ast
import contextlib
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from keyword import iskeyword

import numpy as np

from tagger.evaluation import rates
from tagger.library.database import Analysed
from tagger.text import TaggerError, suggest_names

DEFAULT_RATE = 0.1  # share of the songs that a tag alone finds without thresholds
MAX_LENGTH = 10_000  # characters of an expression
_COMPARISONS = {
    ast.Gt: (operator.gt, 1),
    ast.GtE: (operator.ge, 1),
    ast.Lt: (operator.lt, -1),
    ast.LtE: (operator.le, -1),
}


class Query:
    """An expression about the tags of a model.

    Args:
        text: The expression.
        tags: Tag names in the order of the scores.

    Attributes:
        text: The expression, as given.
        wanted: Numbers of the tags of which it asks for high scores.
        mentioned: Numbers of all tags in it, in its order.
        needs_thresholds: Whether a tag stands alone.

    Raises:
        ValueError: it is no such expression, or a tag is unknown.
    """

    def __init__(self, text: str, tags: Sequence[str]):
        self.text, self._tags = text, tags
        self.wanted, self.mentioned, self.needs_thresholds = [], [], False
        if len(text) > MAX_LENGTH:
            raise TaggerError(
                f"The expression has {len(text):,} characters; {MAX_LENGTH:,} are"
                " allowed."
            )
        try:
            with warnings.catch_warnings():  # of ".5and"
                warnings.simplefilter("ignore", SyntaxWarning)
                tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise self._not_understood(_place(text.strip(), error)) from error
        try:
            self._test = self._condition(tree.body, 1)
        except RecursionError as error:
            raise self._not_understood("it is nested too deeply") from error

    def matches(self, scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        """Returns which songs the expression is true for, bool [num_songs].

        Args:
            scores: float32 [num_songs, num_tags].
            thresholds: Threshold of each tag [num_tags].
        """
        return self._test(scores, thresholds)

    def _condition(self, node: ast.expr, sign: int) -> Callable:
        """Returns a function of scores and thresholds; `sign` is -1 within a not."""
        if isinstance(node, ast.BoolOp):
            parts = [self._condition(value, sign) for value in node.values]
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return lambda *given: join.reduce([part(*given) for part in parts])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._condition(node.operand, -sign)
            return lambda *given: ~inner(*given)
        if isinstance(node, ast.Compare):
            return self._comparison(node, sign)
        tag = self._tag(node)
        if tag is None:
            raise self._not_understood(f"{ast.unparse(node)} is not a tag")
        self._mention(tag, sign)
        self.needs_thresholds = True
        return lambda scores, thresholds: scores[:, tag] >= thresholds[tag]

    def _comparison(self, node: ast.Compare, sign: int) -> Callable:
        parts = [node.left, *node.comparators]
        values = [self._value(part) for part in parts]
        if all(self._tag(part) is None for part in parts):
            raise self._not_understood(f"{ast.unparse(node)} compares no tag")
        tests = []
        for place, found in enumerate(node.ops):
            if type(found) not in _COMPARISONS:
                raise self._not_understood(
                    f"{ast.unparse(node)}: compare scores with <, <=, > or >="
                )
            compare, direction = _COMPARISONS[type(found)]
            for part, asked in ((place, direction), (place + 1, -direction)):
                tag = self._tag(parts[part])
                if tag is not None:
                    self._mention(tag, asked * sign)
            tests.append((compare, values[place], values[place + 1]))
        return lambda scores, _: np.logical_and.reduce(
            [
                np.broadcast_to(compare(left(scores), right(scores)), len(scores))
                for compare, left, right in tests
            ]
        )

    def _value(self, node: ast.expr) -> Callable[[np.ndarray], np.ndarray | float]:
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            node, sign = node.operand, -1
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            try:
                number = sign * float(node.value)
            except OverflowError as error:
                raise self._not_understood("a number is too large") from error
            return lambda scores: number
        tag = self._tag(node)
        if tag is None or sign < 0:
            raise self._not_understood(
                f"{ast.unparse(node)} is neither a tag nor a number"
            )
        return lambda scores: scores[:, tag].astype(float)  # numbers may be huge

    def _tag(self, node: ast.expr) -> int | None:
        """Returns the number of the tag that a part of the expression names."""
        if isinstance(node, ast.Name):
            name = node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        else:
            return None
        for spelling in (name, name.replace("_", " "), name.replace("_", "-")):
            if spelling in self._tags:
                return list(self._tags).index(spelling)
        raise TaggerError(
            f"There is no tag {name!r}. {suggest_names(name, self._tags)}"
        )

    def _mention(self, tag: int, sign: int) -> None:
        if tag not in self.mentioned:
            self.mentioned.append(tag)
        if sign > 0 and tag not in self.wanted:
            self.wanted.append(tag)

    def _not_understood(self, reason: str) -> TaggerError:
        return TaggerError(
            f"Cannot understand {self.text!r}: {reason}. Write, for example: 'rock > .5"
            " and not vocals', with quotes around names of several words: '\"hard"
            " rock\" > .5'."
        )


def word_of(tag: str) -> str:
    """Returns a tag as expressions name it: `hard_rock`, but `'80s'` and `'in'`."""
    word = tag.replace(" ", "_")
    is_clear = word == tag or "_" not in tag
    if is_clear and word.isidentifier() and not iskeyword(word):
        return word
    return repr(tag)


def _place(text: str, error: Exception) -> str:
    """Returns where the syntax error is."""
    if isinstance(error, ValueError):
        return "it contains a null character or is not UTF-8 text"
    if not isinstance(error, SyntaxError):
        return "it is nested too deeply"
    for rest in (" _", ")", " _)"):
        with contextlib.suppress(SyntaxError, ValueError, MemoryError, RecursionError):
            ast.parse(text + rest, mode="eval")
            return "it ends too early"
    rest = text[max(error.offset or 1, 1) - 1 :]
    words = re.match(r"\S*", rest).group()
    return f"there is an error at {words!r}" if words else "it ends too early"


def thresholds_of(songs: Analysed, rate: float | None = None) -> np.ndarray:
    """Returns the score from which a tag counts, for each tag [num_tags].

    Args:
        songs: Songs of the library.
        rate: Share of the songs that reach the threshold of each tag; None: the
            thresholds of the model, or DEFAULT_RATE if it holds none.

    Raises:
        ValueError: the rate is not between 0 and 1.
    """
    if rate is None and songs.model.thresholds:
        return np.array(songs.model.thresholds)
    rate = DEFAULT_RATE if rate is None else rate
    if not 0 < rate < 1:
        raise TaggerError(f"The rate must be between 0 and 1, not {rate:g}.")
    if not len(songs.scores):
        return np.full(len(songs.model.tags), np.inf)
    counts = np.full(len(songs.model.tags), max(round(rate * len(songs.scores)), 1))
    return np.array(rates.thresholds_reached_by(songs.scores, counts))


def find(songs: Analysed, query: Query, rate: float | None = None) -> np.ndarray:
    """Returns the rows of the songs that match, the best first.

    They are sorted by the mean score of the tags that the expression asks for, after
    each was divided by its highest score in the library: models give some tags low
    scores throughout.

    Args:
        songs: Songs of the library.
        query: What to find.
        rate: See `thresholds_of`.
    """
    num_tags = len(songs.model.tags)
    thresholds = (
        thresholds_of(songs, rate) if query.needs_thresholds else np.zeros(num_tags)
    )
    return ranked(songs, query, np.flatnonzero(query.matches(songs.scores, thresholds)))


def ranked(songs: Analysed, query: Query, rows: np.ndarray) -> np.ndarray:
    """Returns rows of songs in the order of `find`, whether they match or not."""
    if not query.wanted or not len(rows):
        return rows
    wanted = songs.scores[:, query.wanted]
    relative = (wanted / np.maximum(wanted.max(axis=0), 1e-12)).mean(axis=1)
    return rows[np.argsort(-relative[rows], kind="stable")]


def values_for(
    songs: Analysed, query: Query, number: int
) -> list[tuple[str, float, int]]:
    """Returns, for each tag of which much is wanted, a value that finds some songs.

    Args:
        songs: Songs of the library.
        query: What was asked for.
        number: About how many songs to find.

    Returns:
        Tag, value, and how many songs have a higher score.
    """
    found = []
    for tag in query.wanted if len(songs.scores) else ():
        scores = np.sort(songs.scores[:, tag])[::-1].astype(float)
        lowest = scores[min(number, len(scores)) - 1]
        # Two digits, rounded down, so that this song is found too.
        step = 10.0 ** (np.floor(np.log10(max(lowest, 1e-6))) - 1)
        value = float(f"{max(np.ceil(lowest / step) - 1, 0) * step:.2g}")
        found.append((songs.model.tags[tag], value, int((scores > value).sum())))
    return found
