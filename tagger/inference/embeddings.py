"""Embeddings of audio files.

audio file -> float32 [channels], the output of one layer averaged over all segments.
"""

import copy
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from tagger.audio import Source
from tagger.inference.engines import Engine
from tagger.inference.results import Result
from tagger.inference.selection import as_engine
from tagger.inference.streaming import StreamOptions, progress, stream_files
from tagger.models.metadata import DEFAULT_MODEL, PENULTIMATE
from tagger.text import TaggerError

if TYPE_CHECKING:
    import keras


class Embedder:
    """Computes embeddings: the output of one layer of a model.

    It works as a transformer in scikit-learn's pipelines; there is nothing to fit.

    Args:
        model: Name of a pretrained model, model file, `hf://user/name`, Keras model, or
            engine from `selection.open_engine`.
        layer: Name of the layer; "penultimate" is the input of the last layer. Time and
            frequency axes of its output are averaged. Other layers need Keras.

    Attributes:
        model: Model, as given.
        layer: Name of the layer, as given.
        info: Metadata of the model.
        opened: The engine that runs the model.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the model has no such layer, the layer has no single output, or the
            engine knows no layers.
        ImportError: the engine is not installed.

    Example:
        >>> embedder = Embedder()
        >>> vector = embedder.embed("song.mp3")
        >>> vector.shape, vector.dtype
        ((128,), dtype('float32'))
        >>> embedder.transform(["song.mp3", (np.zeros(48000), 16000)]).shape
        (2, 128)
    """

    def __init__(
        self,
        model: "keras.Model | Engine | str | os.PathLike" = DEFAULT_MODEL,
        layer: str = PENULTIMATE,
    ):
        self.model = model
        self.layer = layer
        self._open()

    def _open(self) -> None:
        self.opened = as_engine(self.model, layer=self.layer)
        self.info = self.opened.info

    def __getstate__(self) -> dict:
        """Returns what pickle stores: other processes open the model themselves."""
        return self.__dict__ | {"opened": None}

    def __setstate__(self, state: dict) -> None:
        """Opens the model again."""
        self.__dict__ |= state
        self._open()

    def get_params(self, deep: bool = True) -> dict:
        """Returns the model and the layer, as scikit-learn asks of an estimator."""
        return {"model": self.model, "layer": self.layer}

    def set_params(self, **params) -> "Embedder":
        """Sets the model or the layer, as scikit-learn's searches do."""
        unknown = params.keys() - self.get_params()
        if unknown:
            raise TaggerError(f"Embedder has no parameter {min(unknown)!r}.")
        vars(self).update(params)
        if params:
            self._open()
        return self

    @classmethod
    def from_pretrained(
        cls, name: str = DEFAULT_MODEL, layer: str = PENULTIMATE
    ) -> "Embedder":
        """Returns `Embedder(name, layer)`."""
        return cls(name, layer)

    def __sklearn_clone__(self) -> "Embedder":
        """Returns a copy that shares the network, because a model is large."""
        return copy.copy(self)

    def __sklearn_is_fitted__(self) -> bool:
        """Returns True: there is nothing to fit."""
        return True

    def fit(self, sources: Iterable[Source], labels=None) -> "Embedder":
        """Does nothing, as scikit-learn's pipelines expect of such a transformer."""
        return self

    def fit_transform(self, sources: Iterable[Source], labels=None) -> np.ndarray:
        """Returns what `transform` returns."""
        return self.transform(sources)

    def transform(self, sources: Iterable[Source]) -> np.ndarray:
        """Returns the embeddings of files or waveforms, float32 [num_files, channels].

        Args:
            sources: Audio files, or pairs (waveform, sample rate in Hz): float
                [num_samples] at ±1.

        Raises:
            AudioDecodeError: a file cannot be decoded.
            ValueError: a waveform has another shape or type.
        """
        sources = list(sources)
        rows = np.zeros((len(sources), self.opened.embedding_size), np.float32)
        with progress(len(sources), "Embedding") as bar:
            found = self.embed_files(sources, bar)
            for number, one in enumerate(found):
                rows[number] = one.get()
        return rows

    def embed(self, source: Source) -> np.ndarray:
        """Returns the mean embedding of a file's segments, float32 [channels].

        Args:
            source: Audio file, or (waveform, sample rate in Hz).

        Raises:
            AudioDecodeError: the file cannot be decoded.
            ValueError: the waveform has another shape or type.
        """
        (found,) = self.embed_files([source])
        return found.get()

    def embed_files(
        self,
        paths: Iterable[Source],
        bar: tqdm | None = None,
        options: StreamOptions = StreamOptions(),
    ) -> Iterator[Result[np.ndarray]]:
        """Computes the embeddings of many files.

        Args:
            paths: Audio files of any length, or waveforms with their sample rates;
                memory is bounded by a few batches of segments.
            bar: Progress bar from `streaming.progress`, or None.
            options: How files are read and run.

        Yields:
            The embedding of each file [channels] in order, or why it has none.
        """
        outputs = ("embedding",)
        for found in stream_files(self.opened, paths, None, outputs, options, bar):
            yield found.with_value(found.value and found.value.rows.mean(axis=0))
