"""Builds the Million Song Dataset, split classic or CALS, from the part of it you have.

The lists that each split needs stand in tagger/datasets/million_song.py.
"""

from tagger import cli


def main() -> int:
    """Parses, calls, prints."""
    return cli.build("msd", __doc__)


if __name__ == "__main__":
    cli.run(main, "Run the same command to go on.")
