"""Command lines: the arguments of `python -m tagger` and what all our scripts share.

Only arguments and printing live here; heavy modules are imported after parsing, so that
`--help` and a wrong argument cost no TensorFlow.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable

# TensorFlow's own start-up notes say nothing to a user of ours.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def run(main: Callable[[], int | None]) -> None:
    """Calls a script's main; what is wrong ends in one sentence and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: print(f"Note: {message}", file=sys.stderr)
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"{parser_name()}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{parser_name()}: interrupted. Run the same command to go on.", file=sys.stderr)
        sys.exit(130)


def parser_name() -> str:
    return os.path.basename(sys.argv[0])
