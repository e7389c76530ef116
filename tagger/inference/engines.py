"""Models that `export` wrote as ONNX, run by ONNX Runtime: no Keras, no TensorFlow.

They start in a moment where TensorFlow takes seconds, and are the faster ones on a CPU;
a GPU they leave alone.
"""

import contextlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tagger.models.metadata import ModelInfo


class OnnxModel:
    """An exported model; a `tagger.Tagger` takes it as it takes a Keras one.

    Args:
        path: The `.onnx` file.

    Attributes:
        info: What the file says of itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no ONNX file, or none that `export` wrote.
        ImportError: ONNX Runtime is missing.

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
        options.log_severity_level = 4  # its lines say what our sentence says
        options.intra_op_num_threads = 1  # a batch is shared out instead
        try:
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of many kinds, none of them public
            first = (str(error).strip() or repr(error)).splitlines()[0]
            raise ValueError(
                f"{str(path)!r} is no model ONNX Runtime can read: {first}"
            ) from error
        self._num_threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._num_threads, initializer=_step_back)
        fields = {}
        for key, text in self._session.get_modelmeta().custom_metadata_map.items():
            with contextlib.suppress(ValueError):  # other tools' are no JSON
                fields[key] = json.loads(text)
        try:
            self.info = ModelInfo.from_dict(fields)
        except KeyError as error:
            raise ValueError(
                f"{str(path)!r} does not hold its sample rate, segmentation and tags."
                " Use a file made by python -m tagger export MODEL --to onnx."
            ) from error

    def predict_on_batch(self, waveforms: np.ndarray) -> np.ndarray:
        """Scores [batch, num_tags] of float32 waveforms [batch, num_samples]."""
        parts = np.array_split(waveforms, min(len(waveforms), self._num_threads))
        return np.concatenate(list(self._pool.map(self._scores, parts)))

    def _scores(self, waveforms: np.ndarray) -> np.ndarray:
        (scores,) = self._session.run(["scores"], {"waveform": waveforms})
        return scores


def _step_back() -> None:
    """Lets the thread that decodes go first: a small model waits for it."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        with contextlib.suppress(OSError):
            os.nice(10)
