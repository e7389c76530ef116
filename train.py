"""Trains a tagger in stages; the same command resumes an interrupted run."""

from tagger import cli

main = cli.main_of("train", "train.py")

if __name__ == "__main__":
    cli.run(main)
