"""`python -m tagger`."""

from tagger import cli

if __name__ == "__main__":
    cli.run(cli.main, "Run the same command again.")
