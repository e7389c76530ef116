"""Groups the music of the student, so that related songs stay in one split.

    python benchmarks/student/groups.py

Two tracks are related if they are of one package, or if a person is named for both, as
`artist` or, where the licence file names three persons at most, as `author`;
`aliases.csv` lists people with several names. Groups are connected: relatives of
relatives are related. Prints the tracks and hours of each split, and how many groups
lie in several splits (there must be none).
"""

import csv
import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

MAX_PERSONS = 3  # in a licence paragraph; more are everybody who worked on a game
HERE = Path(__file__).parent
_SEPARATORS = re.compile(r"[,;&()\[\]<>\"“”/]|\b(?:and|aka|feat|featuring|with|by)\b")
_YEARS = re.compile(r"\b(?:19|20)\d\d\b|copyright|©|\(c\)")
_NOBODY = re.compile(
    r"^code$|^file of|^see |^the |team|project|others|contributors|various|company|gmbh"
    r"|entertainment|interactive|freesound|opengameart|commissioned|must credit"
)
_URLS = re.compile(r"https?:|www\.|\.(?:com|de|net|org|cz)\b|members")


def read(name: str) -> list[dict[str, str]]:
    """Reads a table beside this script."""
    with open(HERE / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def aliases() -> dict[str, str]:
    """Returns the main name of a person by each other name."""
    return {row["alias"]: row["person"] for row in read("aliases.csv")}


def persons(text: str) -> set[str]:
    """Returns the names in a text: lower case, without accents, each under one name."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    plain = _URLS.sub("/", plain)
    parts = _SEPARATORS.split(_YEARS.sub(",", plain))
    names = (re.sub(r"[^\w ]+", " ", part).split() for part in parts)
    found = (" ".join(words) for words in names)
    return {
        aliases().get(name, name)
        for name in found
        if len(name) > 2 and not name.isdecimal() and not _NOBODY.search(name)
    }


def keys(row: dict[str, str]) -> set[str]:
    """Returns what a track shares with its relatives: its package, and persons."""
    package = row["path"].split("/")[0]
    named = persons(row["artist"]) if row["artist"] != package else set()
    authors = persons(row["author"])
    if len(authors) <= MAX_PERSONS:
        named |= authors
    return {f"package {package}", *named}


def groups(rows: Sequence[dict[str, str]]) -> list[int]:
    """Returns the number of each track's group."""
    tracks = defaultdict(list)
    held = [keys(row) for row in rows]
    for track, own in enumerate(held):
        for key in own:
            tracks[key].append(track)
    found = [-1] * len(rows)
    for start in range(len(rows)):
        waiting = [start] if found[start] < 0 else []
        while waiting:
            track = waiting.pop()
            if found[track] < 0:
                found[track] = start
                waiting += [other for key in held[track] for other in tracks[key]]
    return found


def main() -> None:
    """Prints what is in each split."""
    rows = read("music.csv")
    found = groups(rows)
    splits = defaultdict(set)
    for row, group in zip(rows, found, strict=True):
        splits[group].add(row["split"])
    for split in ("train", "val", "test"):
        own = [row for row in rows if row["split"] == split]
        hours = sum(float(row["seconds"]) for row in own) / 3600
        num_groups = sum(split in held for held in splits.values())
        print(f"{split}: {len(own)} tracks, {hours:.1f} h, {num_groups} groups")
    num_mixed = sum(len(held) > 1 for held in splits.values())
    print(f"{len(splits)} groups, {num_mixed} of them in several splits")


if __name__ == "__main__":
    main()
