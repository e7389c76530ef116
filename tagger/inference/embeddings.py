"""Embeddings of audio files.

audio file -> float32 [channels], the output of one layer averaged over all segments.
"""

import copy
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from tagger.audio import Source
from tagger.inference.engines import Engine, KerasEngine
from tagger.inference.selection import open_engine
from tagger.inference.streaming import StreamOptions, progress, stream_files
from tagger.models.metadata import DEFAULT_MODEL, PENULTIMATE

if TYPE_CHECKING:
    import keras


class Embedder:
    """Computes embeddings: the output of one layer of a model.

    It works as a transformer in scikit-learn's pipelines; there is nothing to fit.

    Args:
        model: Keras model, engine, model file, or name of a pretrained model.
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
        >>> embedder = Embedder.from_pretrained()
        >>> vector = embedder.embed("song.mp3")
        >>> vector.shape, vector.dtype
        ((128,), dtype('float32'))
        >>> embedder.transform(["song.mp3", (np.zeros(48000), 16000)]).shape
        (2, 128)
    """

    def __init__(
        self,
        model: "keras.Model | Engine | str | os.PathLike",
        layer: str = PENULTIMATE,
    ):
        self.model = model
        self.layer = layer
        self._open()

    def _open(self) -> None:
        if isinstance(self.model, Engine):
            if self.layer != PENULTIMATE:
                raise ValueError(
                    f"An engine gives the layer that it was opened with, not"
                    f" {self.layer!r}. Give the model or its name instead."
                )
            self.opened = self.model
        elif isinstance(self.model, (str, os.PathLike)):
            self.opened = open_engine(self.model, layer=self.layer)
        else:
            self.opened = KerasEngine(self.model, self.layer)
        if not self.opened.embedding_size:
            raise ValueError(
                f"{str(self.model)!r} gives no embedding: an earlier version exported"
                " it. Export the model again."
            )
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
            raise ValueError(f"Embedder has no parameter {min(unknown)!r}.")
        vars(self).update(params)
        if params:
            self._open()
        return self

    @classmethod
    def from_pretrained(
        cls, name: str = DEFAULT_MODEL, layer: str = PENULTIMATE
    ) -> "Embedder":
        """Returns an embedder with a trained model, which is downloaded if necessary.

        Args:
            name: Name of a pretrained model, file, or `hf://user/name`.
            layer: See `Embedder`.

        Raises:
            ValueError, OSError, ImportError: see `pretrained.ensure_cached`.
        """
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
            for number, (_, vector, error) in enumerate(found):
                if error:
                    raise error
                rows[number] = vector
        return rows

    def embed(self, source: Source) -> np.ndarray:
        """Returns the mean embedding of a file's segments, float32 [channels].

        Args:
            source: Audio file, or (waveform, sample rate in Hz).

        Raises:
            AudioDecodeError: the file cannot be decoded.
            ValueError: the waveform has another shape or type.
        """
        ((_, vector, error),) = self.embed_files([source])
        if error:
            raise error
        return vector

    def embed_files(
        self,
        paths: Iterable[Source],
        bar: tqdm | None = None,
        options: StreamOptions = StreamOptions(),
    ):
        """Computes the embeddings of many files.

        Args:
            paths: Audio files of any length, or waveforms with their sample rates;
                memory is bounded by a few batches of segments.
            bar: Progress bar from `streaming.progress`, or None.
            options: How files are read and run.

        Yields:
            (path, embedding [channels], None), or (path, None, error) for a file that
            cannot be decoded.
        """
        for file in stream_files(
            self.opened, paths, None, ("embedding",), options, bar
        ):
            vector = None if file.error else file.rows.mean(axis=0)
            yield file.path, vector, file.error
