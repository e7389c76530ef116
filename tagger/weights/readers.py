"""Reads the original projects' weight files into arrays under their original names.

The files are PyTorch state dicts, Keras 2 HDF5 files, TensorFlow 1 checkpoints and
`.npz` files. Nothing in a file is ever executed.
"""

import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable

import lazy_loader
import numpy as np

from tagger import validation
from tagger.text import TaggerError
from tagger.validation import MAX_ARRAY_BYTES
from tagger.weights.checkpoints import read_checkpoint

h5py = lazy_loader.load("h5py")  # of the extra train
Weights = dict[str, np.ndarray]

# Prefixes that wrappers add to the names: a Lightning attribute, DataParallel.
_PREFIXES = ("network.", "module.")
_TEACHER = "teacher_network."  # a student's checkpoint also holds its teacher


def read_weights(path: str | os.PathLike) -> Weights:
    """Reads a weight file; floating-point arrays become float32.

    Args:
        path: `.pth`, `.pt` or `.ckpt` file (PyTorch), `.hdf5` or `.h5` file (Keras 2),
            `.npz` file, or the folder or prefix of a TensorFlow 1 checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another type, is damaged, or contains more than arrays.
        ImportError: it is a PyTorch file, and PyTorch is not installed.
    """
    path = os.fspath(path)
    checkpoint = _tensorflow_prefix(path)
    if checkpoint is not None:
        weights = read_tensorflow_checkpoint(checkpoint)
    elif not os.path.isfile(path):
        raise FileNotFoundError(f"There is no weight file {path!r}.")
    else:
        reader = READERS.get(os.path.splitext(path)[1].lower())
        if reader is None:
            raise TaggerError(
                f"Unknown type of weight file: {path!r}. Give a file that ends in"
                f" {', '.join(READERS)}, or the folder of a TensorFlow 1 checkpoint."
            )
        weights = reader(path)
    if not weights:
        raise TaggerError(f"{path!r} holds no weights.")
    others = [name for name, array in weights.items() if array.dtype.kind not in "fiu"]
    if others:
        raise TaggerError(f"{path!r} is refused: {others[0]!r} is not numeric.")
    return {
        name: array.astype(np.float32) if array.dtype.kind == "f" else array
        for name, array in weights.items()
    }


def read_torch(path: str) -> Weights:
    """Reads a PyTorch state dict, bare or under `state_dict` as Lightning saves it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path!r} is a PyTorch file, and PyTorch is not installed: pip install"
            " torch (the CPU build is enough)."
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise TaggerError(
                f"{path!r} is refused: besides tensors it would load {refused[1]}, and"
                " a pickle can run code. Save only the state dict:"
                " torch.save(model.state_dict(), …)."
            ) from error
        raise TaggerError(f"{path!r} is not a PyTorch file of tensors.") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise TaggerError(
            f"{path!r} holds a {type(content).__name__}, not a state dict. Save"
            " model.state_dict()."
        )
    num_bytes = 0
    for name, value in content.items():
        is_plain = (
            isinstance(value, torch.Tensor)
            and value.layout == torch.strided
            and not (value.is_quantized or value.is_meta or value.is_complex())
            # A view with stride 0 can claim more elements than its storage holds.
            and value.nbytes <= value.untyped_storage().nbytes()
        )
        num_bytes += 4 * value.numel() if is_plain else 0
        if not isinstance(name, str) or not is_plain or num_bytes > MAX_ARRAY_BYTES:
            raise TaggerError(
                f"{path!r} is not a state dict: {name!r} does not name a tensor. Save"
                " model.state_dict()."
            )
    return _unwrapped(
        {
            # float32 first: NumPy has no bfloat16.
            name: (value.float() if value.is_floating_point() else value)
            .detach()
            .numpy()
            for name, value in content.items()
        }
    )


def read_keras2_hdf5(path: str) -> Weights:
    """Reads a Keras 2 model or weight file: `conv1d_1/kernel:0` … -> array."""
    try:
        with h5py.File(path) as file:
            has_model = "model_weights" in file
            group = _member(file, "model_weights") if has_model else file
            weights, num_bytes = {}, 0
            for layer in map(_text, group.attrs["layer_names"]):
                held = _member(group, layer)
                for name in map(_text, held.attrs["weight_names"]):
                    dataset = _member(held, name)
                    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
                    num_bytes += max(dataset.nbytes, chunk)
                    if num_bytes > MAX_ARRAY_BYTES:
                        raise TaggerError("its weights take more than 1 GB")
                    weights[name] = np.asarray(dataset)
    except (OSError, *validation.DAMAGED) as error:
        raise TaggerError(
            f"{path!r} is not a Keras 2 model file ({_first_line(error)})."
        ) from error
    return number_from_one(weights)


def _member(group: "h5py.Group", path: str) -> "h5py.Group | h5py.Dataset":
    """Returns a member of an HDF5 file whose content lies in this file.

    Raises:
        ValueError: it lies in another file, or is computed from others.
    """
    for name in path.split("/"):
        if not isinstance(group, h5py.Group):
            raise TaggerError(f"{path!r} is not in it")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise TaggerError(f"{path!r} is a link")
        group = group[name]
    if isinstance(group, h5py.Dataset) and (group.external or group.is_virtual):
        raise TaggerError(f"{path!r} lies in another file")
    return group


def read_npz(path: str) -> Weights:
    """Reads an `.npz` file of arrays under their original parameter names."""
    if not zipfile.is_zipfile(path):
        raise TaggerError(f"{path!r} is not an .npz file.")
    try:
        return _unwrapped(validation.read_arrays(path))
    except ValueError as error:
        raise TaggerError(
            f"{path!r} is refused: {error}. Save plain arrays with numpy.savez."
        ) from error


def read_tensorflow_checkpoint(prefix: str) -> Weights:
    """Reads the variables of a TensorFlow 1 checkpoint, given its files' prefix."""
    try:
        return read_checkpoint(prefix, MAX_ARRAY_BYTES)
    except (OSError, *validation.DAMAGED) as error:
        raise TaggerError(
            f"{prefix!r} is not a TensorFlow checkpoint ({_first_line(error)})."
        ) from error


READERS: dict[str, Callable[[str], Weights]] = {
    ".pth": read_torch,
    ".pt": read_torch,
    ".ckpt": read_torch,
    ".hdf5": read_keras2_hdf5,
    ".h5": read_keras2_hdf5,
    ".npz": read_npz,
}


def number_from_one(weights: Weights) -> Weights:
    """Renames Keras layers so that each type is numbered from _1.

    Keras continues its numbers within a session, so only the first model of a session
    has these names in its file.
    """
    layers = dict.fromkeys(name.rpartition("/")[0] for name in weights)
    kinds = {}
    for layer in layers:
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", layer).groups()
        kinds.setdefault(kind, []).append((int(number or 0), layer))
    renamed = {
        layer: f"{kind}_{position}"
        for kind, numbered in kinds.items()
        for position, (_, layer) in enumerate(sorted(numbered), start=1)
    }
    return {
        f"{renamed[name.rpartition('/')[0]]}/{name.rpartition('/')[2]}": array
        for name, array in weights.items()
    }


def _tensorflow_prefix(path: str) -> str | None:
    """Returns the prefix of a checkpoint's files, or None if the path is not one."""
    if os.path.isdir(path):
        # The prefix may be empty: musicnn's files are `.index` and `.data-…`.
        names = [name for name in os.listdir(path) if name.endswith(".index")]
        if len(names) != 1:
            raise TaggerError(
                f"{path!r} holds {', '.join(sorted(names)) or 'no .index file'}. Give"
                " the folder of one TensorFlow 1 checkpoint, or its .index file."
            )
        path = os.path.join(path, names[0])
    path = path.removesuffix(".index")
    return path if os.path.isfile(f"{path}.index") else None


def _unwrapped(weights: Weights) -> Weights:
    """Removes the wrappers' prefixes, and the teacher of a student's checkpoint."""
    weights = {n: a for n, a in weights.items() if not n.startswith(_TEACHER)}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {n.removeprefix(prefix): a for n, a in weights.items()}
    return weights


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
