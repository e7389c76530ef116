"""`python -m tagger`."""

from tagger import cli

if __name__ == "__main__":
    cli.console()
