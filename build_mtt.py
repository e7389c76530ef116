"""Builds MagnaTagATune: mp3 files and annotations_final.csv -> sharded TFRecords."""

from tagger import cli

main = cli.main_of("build mtt", "build_mtt.py")

if __name__ == "__main__":
    cli.run(main)
