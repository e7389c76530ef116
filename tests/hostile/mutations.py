"""Spoils one value of a JSON document at a time."""

import copy
import json

NESTED = "a list in a list in a list …"  # `as_text` writes 100,000 of them
BAD_VALUES = (
    *(None, True, "x", "", -1, 0, 1, 1e300, float("nan"), float("inf"), 10**12),
    *([], {}, [None], ["a", "a"], {"a": 1}, "/etc/passwd", "../x.tfrecord", NESTED),
)


def places(value, above=()):
    """Yields the place of every value in a document, as keys and positions."""
    yield above
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*above, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*above, 0))


def spoiled(document, place, bad):
    """Returns a copy of a document with another value at a place."""
    if not place:
        return bad
    whole = copy.deepcopy(document)
    part = whole
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = bad
    return whole


def mutations(document):
    """Yields every document with one value spoiled, or one key missing or renamed."""
    for place in places(document):
        for bad in BAD_VALUES:
            yield spoiled(document, place, bad)
        if place and isinstance(place[-1], str):
            part = whole = copy.deepcopy(document)
            for key in place[:-1]:
                part = part[key]
            part["/etc/passwd"] = part.pop(place[-1])
            yield whole


def as_text(document):
    """Returns a document as JSON."""
    nested = 100_000 * "[" + 100_000 * "]"
    return json.dumps(document).replace(json.dumps(NESTED), nested)
