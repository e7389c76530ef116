"""The interface of HEAR, the benchmark of audio representations.

    hear-validator tagger.hear --model musicnn_mtt

Reference: Turian et al., HEAR: Holistic Evaluation of Audio Representations, PMLR 176,
2022; https://hearbenchmark.com/hear-api.html
"""

import importlib
import importlib.util
import itertools
import os
import sys

import numpy as np

from tagger.inference.embeddings import Embedder
from tagger.models.metadata import DEFAULT_MODEL
from tagger.segmentation import cut
from tagger.text import TaggerError

SAMPLE_RATES = (16000, 22050, 32000, 44100, 48000)  # that HEAR provides
HOP_MS = 50  # of timestamps; HEAR's tolerance for onsets
BATCH_SIZE = 16  # segments


def _module() -> type:
    """Returns the class that HEAR asks of models: TensorFlow's or PyTorch's."""
    wanted = ("tensorflow", "torch")
    if os.environ.get("KERAS_BACKEND") == "torch":
        wanted = wanted[::-1]
    for name in wanted:
        if importlib.util.find_spec(name):
            module = {"tensorflow": "tensorflow", "torch": "torch.nn"}[name]
            return importlib.import_module(module).Module
    return object


class HearModel(_module()):
    """A model with the attributes that HEAR asks for.

    Attributes:
        embedder: The `Embedder` that computes the embeddings.
        sample_rate: Sample rate of the audio in Hz.
        scene_embedding_size: Number of channels of an embedding.
        timestamp_embedding_size: The same.
    """

    def __init__(self, embedder: Embedder):
        super().__init__()
        self.embedder = embedder
        self.sample_rate = embedder.info.sample_rate
        self.scene_embedding_size = embedder.opened.embedding_size
        self.timestamp_embedding_size = self.scene_embedding_size


def load_model(model_file_path: str | os.PathLike = "") -> HearModel:
    """Loads a model.

    Args:
        model_file_path: Model file, or name of a pretrained model. Default: the default
            model of `tagger tag`.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: HEAR provides no audio at the model's sample rate.
    """
    embedder = Embedder(model_file_path or DEFAULT_MODEL)
    rate = embedder.info.sample_rate
    if rate not in SAMPLE_RATES:
        raise TaggerError(
            f"{embedder.info.name} takes {rate} Hz, but HEAR provides only"
            f" {', '.join(map(str, SAMPLE_RATES))} Hz. Choose another model."
        )
    return HearModel(embedder)


def get_scene_embeddings(audio, model: HearModel):
    """Returns one embedding per sound: the mean over its segments.

    Args:
        audio: Tensor or array [num_sounds, num_samples] at ±1 and the model's sample
            rate.
        model: Model from `load_model`.

    Returns:
        float32 [num_sounds, scene_embedding_size]: a tensor of PyTorch or TensorFlow if
        `audio` is one, else an array.
    """
    segmentation = model.embedder.info.segmentation
    rows = []
    for sound in _array(audio):
        segments = cut(sound, segmentation)
        rows.append(_embed(model, segments, len(segments)).mean(axis=0))
    return _like(audio, np.stack(rows))


def get_timestamp_embeddings(audio, model: HearModel):
    """Returns an embedding every 50 ms, of the segment centred there.

    Args:
        audio: Tensor or array [num_sounds, num_samples] at ±1 and the model's sample
            rate. Beyond its ends, segments hold zeros.
        model: Model from `load_model`.

    Returns:
        float32, as `get_scene_embeddings`: embeddings [num_sounds, num_timestamps,
        timestamp_embedding_size], and the timestamps in milliseconds [num_sounds,
        num_timestamps].
    """
    sounds = _array(audio)
    length = model.embedder.info.segmentation.num_samples
    stamps = np.arange(0, 1000 * sounds.shape[1] / model.sample_rate, HOP_MS)
    # Each start is rounded by itself: at 22050 Hz, 50 ms are 1102.5 samples.
    starts = np.rint(stamps * model.sample_rate / 1000).astype(int)
    rows = []
    for sound in np.pad(sounds, ((0, 0), (length // 2, length))):
        segments = (sound[start : start + length] for start in starts)
        rows.append(_embed(model, segments, len(starts)))
    stamps = np.tile(stamps.astype(np.float32), (len(sounds), 1))
    return _like(audio, np.stack(rows)), _like(audio, stamps)


def _array(audio) -> np.ndarray:
    return np.asarray(audio.cpu() if hasattr(audio, "cpu") else audio, np.float32)


def _like(audio, rows: np.ndarray):
    """Returns an array as a tensor of the framework that the audio comes from."""
    framework = type(audio).__module__.partition(".")[0]
    if framework == "torch":
        return sys.modules["torch"].from_numpy(rows)
    if framework == "tensorflow":
        return sys.modules["tensorflow"].convert_to_tensor(rows)
    return rows


def _embed(model: HearModel, segments, number: int) -> np.ndarray:
    """Returns the embeddings [number, channels] of segments, batch by batch."""
    segments, rows = iter(segments), []
    for _ in range(-(-number // BATCH_SIZE)):
        batch = np.stack(list(itertools.islice(segments, BATCH_SIZE)))
        rows += model.embedder.opened.run(batch, ("embedding",))
    return np.concatenate(rows)
