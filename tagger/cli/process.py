"""How a command begins and ends."""

import importlib.util
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable

from tagger import storage

SUPERVISED = "TAGGER_SUPERVISED"  # set in the child of `supervise`


def run(main: Callable[[], int | None], if_interrupted: str = "") -> None:
    """Calls a script's main; what is wrong ends in one sentence and exit code 2.

    Args:
        main: Returns the exit code, None for 0.
        if_interrupted: What to tell who pressed Ctrl-C.
    """
    name = os.path.basename(sys.argv[0]).replace("__main__.py", "python -m tagger")
    warnings.showwarning = lambda message, *_, **__: print(
        f"Note: {message}", file=sys.stderr
    )
    # Names of files need not be UTF-8; they are printed as the bytes they are.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="surrogateescape")
    try:
        sys.exit(main())
    except (ValueError, OSError, ImportError) as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        if os.environ.get(SUPERVISED):
            os._exit(2)  # in good order JAX would wait for the other hosts, and crash
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted. {if_interrupted}", file=sys.stderr)
        sys.exit(130)


def supervise() -> None:
    """Runs this same command in a child process and ends as it does.

    JAX aborts a process whose coordinator is gone, with pages of C++; the parent lives
    to say what that means.
    """
    if os.environ.get(SUPERVISED):
        return
    environment = os.environ | {SUPERVISED: "1"}
    child = subprocess.Popen([sys.executable, *sys.argv], env=environment)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:
            pass  # the child got it too, and says so
    if code == -signal.SIGTERM:
        raise OSError("Training was asked to end. The same command goes on.")
    if code < 0:
        raise OSError(
            f"Training on this host was ended by {signal.Signals(-code).name}, most"
            " likely because another host was lost. Start the same command again on"
            " every host; it goes on from the last checkpoint."
        )
    sys.exit(code)


def load_tensorflow() -> None:
    """After parsing, before our heavy modules; models need none on other backends."""
    if importlib.util.find_spec("tensorflow"):
        storage.tensorflow()
