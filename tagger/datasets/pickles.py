"""Pickles of Python 2 (`.cP`) that published splits come in, read without running code.

A pickle may name any function to be called while it is read. Ours allows what plain
containers, text, numbers and NumPy arrays take, and refuses the rest by its name.
"""

import os
import pickle
from pathlib import Path

import numpy as np


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2; other codecs would do more."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}")
    return text.encode(encoding)


# module and name, as the pickle writes them -> what they stand for
_reconstruct = np.empty(0).__reduce__()[0]
_scalar = np.float64(0).__reduce__()[0]
ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]


def load(path: str | os.PathLike, kind: type):
    """Reads a pickle of containers, text, numbers and arrays.

    Args:
        path: The file.
        kind: What it must hold: list or dict.

    Returns:
        What it holds; the byte strings of Python 2 are str.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it asks for anything else, which is named and was not called; it is
            no whole pickle, or holds another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path.name} in {str(path.parent)!r}.")
    with open(path, "rb") as file:
        try:
            content = _Unpickler(file, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} is no pickle of plain lists and arrays: {error}. Nothing in it"
                " was run; take the file from its publisher again."
            ) from error
        except Exception as error:  # bytes at random end in any exception
            raise ValueError(f"{path} is no whole pickle ({error!r}).") from error
    if not isinstance(content, kind):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a {kind.__name__}."
        )
    return content
