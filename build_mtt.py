"""Builds MagnaTagATune: mp3 files and annotations_final.csv -> sharded TFRecords."""

from tagger import cli


def main() -> int:
    """Parses, calls, prints."""
    return cli.build("mtt", __doc__)


if __name__ == "__main__":
    cli.run(main, "Run the same command to go on.")
