"""Builds the Million Song Dataset (split classic or CALS) from the part that you have.

tagger/datasets/million_song.py documents the lists that each split needs.
"""

from tagger import cli

main = cli.main_of("build msd", "build_msd.py")

if __name__ == "__main__":
    cli.run(main)
