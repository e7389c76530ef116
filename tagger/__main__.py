"""`python -m tagger`, and the entry point of every command."""

import sys


def console(*command: str) -> None:
    """Runs a command of the command line; Ctrl-C ends it quietly from the first moment.

    Args:
        *command: Name of the command and its leading arguments; empty: the first
            argument of the command line names it.
    """
    try:
        from tagger import cli

        cli.run(cli.main_of(*command) if command else cli.main)
    except KeyboardInterrupt:  # while the modules are imported
        sys.exit(130)


if __name__ == "__main__":
    console()
