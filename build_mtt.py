"""Builds MagnaTagATune: mp3 files and annotations_final.csv -> sharded TFRecords."""

from tagger import cli

main = cli.main_of("build", "mtt")

if __name__ == "__main__":
    cli.run(main)
