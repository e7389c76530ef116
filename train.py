"""Trains a tagger in stages of falling learning rate; run again, it goes on."""

from tagger import cli

main = cli.main_of("train")

if __name__ == "__main__":
    cli.run(main)
