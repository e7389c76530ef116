"""Runs a process of several that train together as a child, and reports its end."""

import os
import signal
import subprocess
import sys

SUPERVISED = "TAGGER_SUPERVISED"  # set in the child of `supervise`


def supervise() -> None:
    """Runs the same command in a child process and exits with its exit code.

    If the coordinator is lost, JAX aborts the process with pages of C++ messages. The
    parent process survives and reports what happened.
    """
    if os.environ.get(SUPERVISED):
        return
    environment = os.environ | {SUPERVISED: "1"}
    is_module = sys.modules["__main__"].__spec__ is not None
    program = ["-m", "tagger"] if is_module else sys.argv[:1]
    command = [sys.executable, *program, *sys.argv[1:]]
    child = subprocess.Popen(command, env=environment)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:
            pass  # the child receives it too, and reports it
    if code == -signal.SIGTERM:
        raise OSError(
            "Training was terminated. Run the same command again to resume it."
        )
    if code < 0:
        raise OSError(
            f"This training process was killed by {signal.Signals(-code).name}, most"
            " likely because another process was lost. Start the same command again on"
            " every host; it resumes from the last checkpoint."
        )
    sys.exit(code)
