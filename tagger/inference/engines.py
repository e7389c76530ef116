"""Runs models that `export` wrote as ONNX, without Keras and TensorFlow.

They load almost at once, while TensorFlow takes seconds, and run faster on a CPU. They
do not use a GPU.
"""

import contextlib
import json
import os
import sys
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
        ValueError: the file is not an ONNX model, or `export` did not write it.
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
            first = (str(error).strip() or repr(error)).splitlines()[0]
            raise ValueError(
                f"ONNX Runtime cannot read {str(path)!r}: {first}"
            ) from error
        self._num_threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._num_threads, initializer=_step_back)
        fields = {}
        for key, text in self._session.get_modelmeta().custom_metadata_map.items():
            # Other tools may not write JSON.
            with contextlib.suppress(ValueError, RecursionError):
                fields[key] = json.loads(text)
        try:
            self.info = ModelInfo.from_dict(fields, path)
        except KeyError as error:
            raise ValueError(
                f"{str(path)!r} does not hold its sample rate, segmentation and tags."
                " Use a file made by python -m tagger export MODEL --to onnx."
            ) from error

    def predict_on_batch(self, waveforms: np.ndarray) -> np.ndarray:
        """Returns the scores [batch, num_tags] of waveforms [batch, num_samples]."""
        parts = np.array_split(waveforms, min(len(waveforms), self._num_threads))
        return np.concatenate(list(self._pool.map(self._scores, parts)))

    def _scores(self, waveforms: np.ndarray) -> np.ndarray:
        (scores,) = self._session.run(["scores"], {"waveform": waveforms})
        return scores


def _step_back() -> None:
    """Lowers this thread's priority below the decoder's: a small model waits for it."""
    if sys.platform == "linux":  # elsewhere, threads have no priority of their own
        with contextlib.suppress(OSError):
            os.nice(10)
