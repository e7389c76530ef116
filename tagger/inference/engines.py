"""Runs models that `export` wrote as ONNX, without Keras and TensorFlow.

They load almost at once, while TensorFlow takes seconds, and run faster on a CPU. They
do not use a GPU.
"""

import contextlib
import json
import os
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tagger.models.metadata import ModelInfo


class OnnxModel:
    """An exported ONNX model, which `tagger.Tagger` accepts like a Keras model.

    Args:
        path: Path of the `.onnx` file.

    Attributes:
        info: Metadata of the model, which the file holds.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not an ONNX model, `export` did not write it, or what it
            says of itself cannot be right.
        ImportError: ONNX Runtime is not installed.

    Example:
        >>> from tagger import Tagger
        >>> model = OnnxModel("musicnn_mtt.onnx")  # python -m tagger export made it
        >>> next(iter(Tagger(model).tag("song.mp3")))
        'violin'
    """

    def __init__(self, path: str | os.PathLike):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                "Running an ONNX model needs onnxruntime: pip install onnxruntime."
            ) from error
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no model file {str(path)!r}.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # our error message replaces its log
        options.intra_op_num_threads = 1  # batches are split over threads instead
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exception classes are not public
            raise ValueError(
                f"ONNX Runtime cannot read {str(path)!r}: {_first_line(error)}"
            ) from error
        self._path = path
        self._num_threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._num_threads, initializer=_step_back)
        fields = {}
        for key, text in self._session.get_modelmeta().custom_metadata_map.items():
            # Other tools may not write JSON.
            with contextlib.suppress(ValueError, RecursionError):
                fields[key] = json.loads(text)
        self.info = ModelInfo.from_dict(fields, path)
        inputs = [one.name for one in self._session.get_inputs()]
        outputs = [one.name for one in self._session.get_outputs()]
        if inputs != ["waveform"] or "scores" not in outputs:
            raise ValueError(
                f"{str(path)!r} has the inputs {', '.join(inputs)} and the outputs"
                f" {', '.join(outputs)}, not waveform and scores. Use a file made by"
                " python -m tagger export MODEL --to onnx."
            )

    def predict_on_batch(self, waveforms: np.ndarray) -> np.ndarray:
        """Returns the scores [batch, num_tags] of waveforms [batch, num_samples].

        Raises:
            ValueError: ONNX Runtime fails, or the scores have another shape.
        """
        parts = np.array_split(waveforms, min(len(waveforms), self._num_threads))
        return np.concatenate(list(self._pool.map(self._scores, parts)))

    def _scores(self, waveforms: np.ndarray) -> np.ndarray:
        try:
            (scores,) = self._session.run(["scores"], {"waveform": waveforms})
        except Exception as error:  # ONNX Runtime's exception classes are not public
            raise ValueError(
                f"ONNX Runtime cannot run {str(self._path)!r}: {_first_line(error)}"
            ) from error
        expected = (len(waveforms), self.info.num_tags)
        if not isinstance(scores, np.ndarray) or scores.shape != expected:
            raise ValueError(
                f"{str(self._path)!r} gives scores of the shape"
                f" {getattr(scores, 'shape', None)}, not {expected}. Use a file made by"
                " python -m tagger export MODEL --to onnx."
            )
        return scores


def _first_line(error: Exception) -> str:
    return textwrap.shorten((str(error).strip() or repr(error)).splitlines()[0], 200)


def _step_back() -> None:
    """Lowers this thread's priority below the decoder's: a small model waits for it."""
    if sys.platform == "linux":  # elsewhere, threads have no priority of their own
        with contextlib.suppress(OSError):
            os.nice(10)
