"""How commands start, report errors and exit."""

import errno
import os
import re
import shlex
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable

from tagger.text import TaggerError, printable


def run(main: Callable[[], None]) -> None:
    """Calls a command's main; reports errors in one line and exits with code 2."""
    name = os.path.basename(sys.argv[0]).replace("__main__.py", "python -m tagger")
    name = f"python {name}" if name.endswith(".py") else name
    warnings.showwarning = lambda message, *_, **__: _say(f"Note: {message}")
    # File names need not be UTF-8; their bytes are printed unchanged.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="surrogateescape")
    try:
        main()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # what shells report for it
    except (TaggerError, OSError, ImportError) as error:
        _say(f"{name}: {missing(error) or named(error) or error}")
        if os.environ.get("TAGGER_SUPERVISED"):  # see training/supervision.py
            os._exit(2)  # on a normal exit, JAX would wait for the others and crash
        sys.exit(2)
    except KeyboardInterrupt:
        # Only tag continues what --force would begin anew.
        unwanted = "--force" if sys.argv[1:2] == ["tag"] else None
        words = [word for word in sys.argv[1:] if word != unwanted]
        _say(
            f"\n{name}: interrupted. To continue: {shlex.join([*name.split(), *words])}"
        )
        sys.exit(130)


EXTRAS = {
    "fit": ("sklearn", "scipy", "pandas"),
    "train": ("keras", "tensorflow", "h5py", "tf2onnx", "tensorboard"),
    "plots": ("matplotlib",),
    "web": (
        *("fastapi", "fastapi_offline", "jinja2"),
        *("python_multipart", "starlette", "uvicorn"),
    ),
    "hub": ("huggingface_hub",),
    "beets": ("beets",),
    "cluster": ("distributed",),
    "completion": ("shtab",),
    "jams": ("jams",),
    "parquet": ("pyarrow",),
    "openvino": ("openvino",),
    "torch": ("torch",),
}  # fmt: skip


def missing(error: Exception) -> str | None:
    """Returns what to install if an error is about a package that an extra has."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if isinstance(error, ModuleNotFoundError) and package in packages:
            return (
                f"This needs {package}, which is not installed. In the folder of"
                f" tagger: pip install '.[{extra}]'."
            )
    return None


_REASONS = {
    errno.EEXIST: "is a file, where a folder is needed",
    errno.ENOTDIR: "lies below a file, where a folder is needed",
    errno.EISDIR: "is a folder, where a file is needed",
    errno.ENOENT: "does not exist",
    errno.EACCES: "may not be read or written",
    errno.EROFS: "is on a file system that cannot be written",
    errno.ENAMETOOLONG: "has a name that is too long",
    errno.ENOSPC: "does not fit: the disk is full",
}


def named(error: Exception) -> str | None:
    """Returns the sentence for an error of the operating system about a file."""
    path, reason = (
        getattr(error, "filename", None),
        _REASONS.get(getattr(error, "errno", None)),
    )
    if not (path and reason):
        return None
    return f"{os.fsdecode(path)} {reason}. Check the path, or choose another one."


# Where the command line has another name than Python.
_FLAGS = {"output_dir": "output", "tags": "tag-file", "tag_map": "rename"}


def with_flags(text: str) -> str:
    """Rewrites the options in a message of the library as command-line flags.

    `batch_size=` becomes --batch-size, and `precision=bfloat16` --precision bfloat16.
    """

    def flag(found: re.Match) -> str:
        name = _FLAGS.get(found[1], found[1].replace("_", "-"))
        return f"--{name} {found[2]}".rstrip()

    return re.sub(r"`([a-z_]+)=([^`]*)`", flag, text)


def wrapped(text: str) -> str:
    """Breaks the lines of prose at the width of the terminal."""
    width = shutil.get_terminal_size().columns
    lines = text.splitlines()
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False) for line in lines
    )


def _say(text: str) -> None:
    print(printable(with_flags(text), keep="\n"), file=sys.stderr, flush=True)
