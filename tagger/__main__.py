"""`python -m tagger`, and the entry point of every command."""

import sys


def console() -> None:
    """Runs the command line; Ctrl-C ends it quietly from the first moment."""
    try:
        from tagger import cli

        cli.run(cli.main)
    except KeyboardInterrupt:  # while the modules are imported
        sys.exit(130)


if __name__ == "__main__":
    console()
