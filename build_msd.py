"""Builds the Million Song Dataset, split classic or CALS, from the part of it you have.

The lists that each split needs stand in tagger/datasets/million_song.py.
"""

from tagger import cli

main = cli.main_of("build", "msd")

if __name__ == "__main__":
    cli.run(main)
