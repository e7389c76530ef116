"""Chooses the engine that runs a model, and exports the model where that pays.

name or file of a model -> `engines.Engine`

A pretrained model is exported once, beside its `.keras` file in the cache. A model of
the user is exported when a job takes longer than the export; the export is stored under
the checksum of the model file, so that it is never out of date.
"""

import contextlib
import importlib.util
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tagger import inference, storage
from tagger.audio import Source, rough_seconds
from tagger.inference.engines import (
    ENGINES,
    PRECISIONS,
    Engine,
    EngineSpec,
    KerasEngine,
    OnnxEngine,
    OpenVinoEngine,
)
from tagger.models.metadata import PENULTIMATE
from tagger.weights import pretrained

EXPORTER = 3  # version of the exports; older ones are exported again
MAX_DIFFERENCE = 1e-4  # of an export's scores from those of Keras
EXPORT_SECONDS = 15  # a typical export; Keras runs shorter jobs itself


def open_engine(
    model: str | os.PathLike,
    engine: str = "auto",
    precision: str = "float32",
    job: Iterable[Source] = (),
    layer: str = PENULTIMATE,
) -> Engine:
    """Opens a model in the engine that runs it fastest here.

    Args:
        model: Name of a pretrained model, or model file (.keras, .hdf5, .onnx).
        engine: One of ENGINES; "auto": OpenVINO where it is installed and nothing is
            faster than the CPU, else ONNX Runtime, else Keras.
        precision: One of PRECISIONS; only OpenVINO computes in bfloat16.
        job: What the model will hear. Its length decides whether a model file of the
            user is exported first.
        layer: Layer whose output is the embedding; only Keras knows others than
            "penultimate".

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the engine is unknown, or does not go with the precision or with the
            model.
        ImportError: the engine is not installed.
    """
    _check(engine, precision, layer)
    if layer != PENULTIMATE:
        runtime = "keras"
    elif engine == "auto":
        runtime = (
            "openvino" if precision == "bfloat16" or _prefers_openvino() else "onnx"
        )
    else:
        runtime = engine
    if runtime == "keras":
        return KerasEngine(_load(model), layer)
    if str(model).endswith(".onnx"):
        return EngineSpec(runtime, os.fspath(model), precision).open()
    path, source = _export_of(model)
    spec = EngineSpec(runtime, str(path), precision)
    is_required = engine != "auto" or precision != "float32"
    had_export, found = path.exists(), _opened(spec, source, not is_required)
    if found:
        return found
    if precision == "bfloat16":
        OpenVinoEngine.check_precision(precision)
    keras_engine = KerasEngine(_load(model))
    if not is_required:
        is_wanted = (
            model in pretrained.PRETRAINED
            or had_export
            or _is_longer_than_export(keras_engine, job)
        )
        if not is_wanted or not _has_exporter():
            return keras_engine
    try:
        _export(keras_engine, os.path.basename(model), spec, source)
    except Exception as error:  # exporters raise errors of every kind
        name = os.path.basename(model)
        if is_required:
            raise ValueError(f"{name} cannot be exported to ONNX: {error}") from error
        warnings.warn(
            f"{name} cannot be exported to ONNX ({error}); Keras runs it.", stacklevel=2
        )
        return keras_engine
    return _opened(spec, source, not is_required) or keras_engine


def prepare(name: str) -> Path:
    """Downloads a pretrained model and exports it, unless the cache holds both.

    Returns:
        Path of its `.keras` file.

    Raises:
        ValueError, OSError, ImportError: see `pretrained.ensure_cached`.
    """
    open_engine(name)
    return pretrained.ensure_cached(name)


def _check(engine: str, precision: str, layer: str) -> None:
    for what, name, known in (
        ("engine", engine, ("auto", *ENGINES)),
        ("precision", precision, PRECISIONS),
    ):
        if name not in known:
            raise ValueError(
                f"Unknown {what} {name!r}. Choose one of: {', '.join(known)}."
            )
    if layer != PENULTIMATE and (engine, precision) not in (
        ("auto", "float32"),
        ("keras", "float32"),
    ):
        raise ValueError(
            f"Only the engine keras, in float32, gives the layer {layer!r}. Use"
            " --engine keras."
        )
    if precision == "bfloat16" and engine not in ("auto", "openvino"):
        raise ValueError(
            f"The engine {engine} computes in float32. For bfloat16, use --engine"
            " openvino."
        )


def _prefers_openvino() -> bool:
    """Returns whether OpenVINO is installed, and this machine computes on its CPU."""
    if not importlib.util.find_spec("openvino"):
        return False
    features = getattr(np._core._multiarray_umath, "__cpu_features__", {})
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if is_x86 and not features.get("AVX2", True):
        return False  # OpenVINO has no fast code for such processors
    return OnnxEngine.providers()[0] == "CPUExecutionProvider"


def _load(model: str | os.PathLike):
    storage.load_tensorflow()
    return pretrained.load(model)


def _export_of(model: str | os.PathLike) -> tuple[Path, str]:
    """Returns where the export of a model is stored, and a stamp of the model file.

    Raises:
        FileNotFoundError: there is no such model.
    """
    path = pretrained.path_of(model)
    if model in pretrained.PRETRAINED:
        return path.with_suffix(".onnx"), pretrained.stamp(model)
    digest = storage.sha256(path)
    return storage.cache_folder() / "exports" / f"{digest}.onnx", digest


def _opened(spec: EngineSpec, source: str, falls_back: bool = True) -> Engine | None:
    """Opens a stored export; None if there is none, or it has to be made again.

    Args:
        spec: The export, and the engine to open it in.
        source: Stamp of the model file that must have been exported.
        falls_back: Whether ONNX Runtime may take the place of OpenVINO.

    Raises:
        ValueError: OpenVINO cannot run it, but ONNX Runtime can.
    """
    if not os.path.exists(spec.path):
        return None
    try:
        engine = spec.open()
    except ValueError as error:
        if spec.name == "openvino":
            engine = _opened(EngineSpec("onnx", spec.path, "float32"), source)
            if engine and not falls_back:
                raise
            if engine:
                warnings.warn(f"{error} ONNX Runtime runs it.", stacklevel=3)
            return engine
        warnings.warn(f"{spec.path} is damaged. Exporting it again.", stacklevel=3)
        with contextlib.suppress(OSError):  # an installation that is read-only
            os.unlink(spec.path)
        return None
    held = engine.metadata.get("exporter"), engine.metadata.get("source")
    # Otherwise it is of an earlier version, or of a model file that was replaced.
    return engine if held == (EXPORTER, source) else None


def _has_exporter() -> bool:
    return all(map(importlib.util.find_spec, ("onnx", "tf2onnx", "onnxruntime")))


def _is_longer_than_export(engine: KerasEngine, job: Iterable[Source]) -> bool:
    """Returns whether Keras would take longer for a job than an export takes."""
    info, number = engine.info, 4
    segments = np.zeros((number, info.segmentation.num_samples), np.float32)
    engine.run(segments)  # compiles
    started = time.perf_counter()
    engine.run(segments)
    seconds = time.perf_counter() - started
    hop_seconds = info.segmentation.hop_samples / info.sample_rate
    longest = EXPORT_SECONDS * number * hop_seconds / seconds
    total = 0.0
    for source in job:
        total += rough_seconds(source) or 0.0
        if total > longest:
            return True
    return False


def _export(engine: KerasEngine, name: str, spec: EngineSpec, source: str) -> None:
    """Exports a model to the cache, checks its scores, and says how long that took.

    Raises:
        Exception: of any kind: the model cannot be exported, or the export gives other
            scores.
    """
    path = Path(spec.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.file_lock(path, f"${storage.CACHE_VARIABLE}", waits=True):
        if _opened(spec, source):  # another process made it meanwhile
            return
        started = time.perf_counter()
        with tqdm(desc=f"Exporting {name}", total=1, disable=None, leave=False):
            notes = {"source": source, "exporter": EXPORTER}
            inference.export.export(engine.model, path, "onnx", True, notes)
        _compare(engine, path)
        seconds = time.perf_counter() - started
        # stderr, because a program may read scores from standard output.
        print(
            f"Exported {name} to ONNX in {seconds:.0f} s; from now on it starts at"
            " once.",
            file=sys.stderr,
        )


def _compare(engine: KerasEngine, path: Path) -> None:
    """Deletes an export whose scores differ from those of Keras.

    Raises:
        ValueError: they do.
    """
    random = np.random.default_rng(0)
    num_samples = engine.info.segmentation.num_samples
    segment = random.uniform(-0.3, 0.3, (1, num_samples)).astype(np.float32)
    (expected,), (found,) = engine.run(segment), OnnxEngine(path).run(segment)
    difference = np.abs(found - expected).max()
    if not difference <= MAX_DIFFERENCE:
        path.unlink()
        raise ValueError(f"its scores would differ by {difference:.1e}")
