"""The interface of HEAR, the benchmark of audio representations.

    hear-validator tagger.hear --model musicnn_mtt

Reference: Turian et al., HEAR: Holistic Evaluation of Audio Representations, PMLR 176,
2022; https://hearbenchmark.com/hear-api.html
"""

import itertools
import os

import keras
import numpy as np

from tagger.inference.embeddings import Embedder
from tagger.models.metadata import DEFAULT_MODEL
from tagger.segmentation import cut

if keras.backend.backend() == "torch":
    from torch.nn import Module
else:
    from tensorflow import Module

SAMPLE_RATES = (16000, 22050, 32000, 44100, 48000)  # that HEAR provides
HOP_MS = 50  # of timestamps; HEAR's tolerance for onsets
BATCH_SIZE = 16  # segments


class HearModel(Module):
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
        raise ValueError(
            f"{embedder.info.name} takes {rate} Hz, but HEAR provides only"
            f" {', '.join(map(str, SAMPLE_RATES))} Hz. Choose another model."
        )
    return HearModel(embedder)


def get_scene_embeddings(audio, model: HearModel):
    """Returns one embedding per sound: the mean over its segments.

    Args:
        audio: Tensor [num_sounds, num_samples] at ±1 and the model's sample rate.
        model: Model from `load_model`.

    Returns:
        float32 tensor [num_sounds, scene_embedding_size].
    """
    segmentation = model.embedder.info.segmentation
    rows = []
    for sound in keras.ops.convert_to_numpy(audio).astype(np.float32):
        segments = cut(sound, segmentation)
        rows.append(_embed(model, segments, len(segments)).mean(axis=0))
    return keras.ops.convert_to_tensor(np.stack(rows))


def get_timestamp_embeddings(audio, model: HearModel):
    """Returns an embedding every 50 ms, of the segment centred there.

    Args:
        audio: Tensor [num_sounds, num_samples] at ±1 and the model's sample rate.
            Beyond its ends, segments hold zeros.
        model: Model from `load_model`.

    Returns:
        float32 tensors: embeddings [num_sounds, num_timestamps,
        timestamp_embedding_size], and the timestamps in milliseconds [num_sounds,
        num_timestamps].
    """
    sounds = keras.ops.convert_to_numpy(audio).astype(np.float32)
    length = model.embedder.info.segmentation.num_samples
    stamps = np.arange(0, 1000 * sounds.shape[1] / model.sample_rate, HOP_MS)
    # Each start is rounded by itself: at 22050 Hz, 50 ms are 1102.5 samples.
    starts = np.rint(stamps * model.sample_rate / 1000).astype(int)
    rows = []
    for sound in np.pad(sounds, ((0, 0), (length // 2, length))):
        segments = (sound[start : start + length] for start in starts)
        rows.append(_embed(model, segments, len(starts)))
    stamps = np.tile(stamps.astype(np.float32), (len(sounds), 1))
    return tuple(map(keras.ops.convert_to_tensor, (np.stack(rows), stamps)))


def _embed(model: HearModel, segments, number: int) -> np.ndarray:
    """Returns the embeddings [number, channels] of segments, batch by batch."""
    segments, rows = iter(segments), []
    for _ in range(-(-number // BATCH_SIZE)):
        batch = np.stack(list(itertools.islice(segments, BATCH_SIZE)))
        rows += model.embedder.opened.run(batch, ("embedding",))
    return np.concatenate(rows)
