"""Reads the Python 2 pickles (`.cP`) of published splits without running their code.

A pickle may name any function to be called while it is read. This reader allows only
those that plain containers, text, numbers and NumPy arrays need.
"""

import os
import pickle
from pathlib import Path

import numpy as np

from tagger.text import TaggerError


def _encode(text: str, encoding: str) -> bytes:
    """Rebuilds bytes that Python 3 pickled for Python 2; other codecs could do more."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding}")
    return text.encode(encoding)


_reconstruct = np.empty(0).__reduce__()[0]
_scalar = np.float64(0).__reduce__()[0]
# (module, name) in the pickle -> the function or class to call
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
        path: Path of the pickle.
        kind: Type that the pickle must hold: list or dict.

    Returns:
        Content of the pickle; byte strings of Python 2 are str.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the pickle asks for another function, which the message names and
            which is not called; or it is incomplete, or holds another type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path.name} in {str(path.parent)!r}.")
    with open(path, "rb") as file:
        try:
            content = _Unpickler(file, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise TaggerError(
                f"{path} is not a pickle of plain lists and arrays: {error}. None of"
                " its code was run; download the file from its publisher again."
            ) from error
        except Exception as error:  # random bytes may raise any exception
            raise TaggerError(
                f"{path} is not a complete pickle ({error!r})."
            ) from error
    if not isinstance(content, kind):
        raise TaggerError(
            f"{path} must hold the type {kind.__name__}, not {type(content).__name__}."
        )
    return content
