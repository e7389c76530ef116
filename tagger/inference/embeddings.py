"""Embeddings of audio files, and a search for similar files.

audio file -> float32 [channels], the output of one layer averaged over all segments.
"""

import copy
import dataclasses
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.neighbors import NearestNeighbors
from tqdm import tqdm

from tagger import validation
from tagger.audio import Source
from tagger.inference.engines import Engine, EngineSpec, KerasEngine
from tagger.inference.selection import open_engine
from tagger.inference.streaming import StreamOptions, progress, stream_files
from tagger.models.metadata import DEFAULT_MODEL, PENULTIMATE
from tagger.storage import replacing, write_text_atomically
from tagger.validation import as_utf8

if TYPE_CHECKING:
    import keras

SAVED_EVERY = 200  # files; a killed run loses at most this many


class Embedder(TransformerMixin, BaseEstimator):
    """Computes embeddings: the output of one layer of a model.

    It is a transformer of scikit-learn that has nothing to fit.

    Args:
        model: Keras model, engine, model file, or name of a pretrained model.
        layer: Name of the layer; "penultimate" is the input of the last layer. Time and
            frequency axes of its output are averaged. Other layers need the engine
            keras.
        engine: See `selection.open_engine`; a Keras model is run by Keras.

    Attributes:
        model: Model, as given.
        layer: Name of the layer, as given.
        engine: Name of the engine, as given.
        info: Metadata of the model.
        opened: The engine that runs the model.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the model has no such layer, the layer has no single output, or the
            engine knows no layers.
        ImportError: the engine is not installed.

    Example:
        >>> embedder = Embedder.from_pretrained("musicnn_mtt")
        >>> vector = embedder.embed("song.mp3")
        >>> vector.shape, vector.dtype
        ((200,), dtype('float32'))
        >>> embedder.transform(["song.mp3", (np.zeros(48000), 16000)]).shape
        (2, 200)
        >>> library = Library("musicnn_mtt", embedder.layer)
        >>> errors = extend(library, embedder, ["song.mp3", "no.mp3"], "library.npy")
        >>> print(errors["no.mp3"])
        Cannot decode 'no.mp3': there is no such file.
        >>> Library.load("library.npy").nearest(vector, 1).round(3).to_dict()
        {'song.mp3': 1.0}
    """

    def __init__(
        self,
        model: "keras.Model | Engine | str | os.PathLike",
        layer: str = PENULTIMATE,
        engine: str = "auto",
    ):
        self.model = model
        self.layer = layer
        self.engine = engine
        self._open()

    def _open(self) -> None:
        if isinstance(self.model, Engine):
            self.opened = self.model
        elif isinstance(self.model, (str, os.PathLike)):
            self.opened = open_engine(self.model, self.engine, layer=self.layer)
        else:
            self.opened = KerasEngine(self.model, self.layer)
        if not self.opened.embedding_size:
            raise ValueError(
                f"{str(self.model)!r} gives no embedding: an earlier version exported"
                " it. Export the model again."
            )
        self.info = self.opened.info

    def __getstate__(self) -> dict:
        """Returns what pickle stores: other processes open the engine themselves."""
        state = self.__dict__ | {"opened": None}
        if isinstance(self.model, Engine):
            state["model"] = self.model.spec or self.model.model
        return state

    def __setstate__(self, state: dict) -> None:
        """Opens the engine again."""
        self.__dict__ |= state
        if isinstance(self.model, EngineSpec):
            self.model = self.model.open()
        self._open()

    def set_params(self, **params) -> "Embedder":
        """Sets the model or the layer, as scikit-learn's searches do."""
        super().set_params(**params)
        if params:
            self._open()
        return self

    @classmethod
    def from_pretrained(
        cls,
        name: str = DEFAULT_MODEL,
        layer: str = PENULTIMATE,
        engine: str = "auto",
    ) -> "Embedder":
        """Returns an embedder with a pretrained model, which is downloaded once.

        Args:
            name: Key of `pretrained.PRETRAINED`.
            layer: See `Embedder`.
            engine: See `Embedder`.

        Raises:
            ValueError, OSError, ImportError: see `pretrained.ensure_cached`.
        """
        return cls(name, layer, engine)

    def __sklearn_clone__(self) -> "Embedder":
        """Returns a copy that shares the network, because a model is large."""
        return copy.copy(self)

    def __sklearn_is_fitted__(self) -> bool:
        """Returns True: there is nothing to fit."""
        return True

    def fit(self, sources: Iterable[Source], labels=None) -> "Embedder":
        """Does nothing, as scikit-learn's pipelines expect of such a transformer."""
        return self

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


@dataclasses.dataclass
class Library:
    """Embeddings of many files.

    Attributes:
        model: Name of the model that computed them.
        layer: Name of the layer whose output they are.
        vectors: Path -> float32 [channels], in the order in which they were added.
        settings: Number of excerpts and precision, where they are not the defaults.
    """

    model: str
    layer: str
    vectors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    settings: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Library":
        """Reads a library that `save` wrote.

        Raises:
            ValueError: the file is not such a library.
        """
        try:
            if Path(path).suffix == ".parquet":
                table = pd.read_parquet(path)
                about, paths, vectors = table.attrs, table["path"], table["embedding"]
            else:
                validation.check_regular(_beside(path))
                about = json.loads(_beside(path).read_text(encoding="utf-8"))
                paths = about["paths"]
                vectors = validation.load_array(path)[: len(paths)]
            rows = [np.asarray(vector, np.float32) for vector in vectors]
            if len({row.shape for row in rows}) > 1 or rows[0].ndim != 1:
                raise ValueError("its vectors do not have one length")
            if not all(np.isfinite(row).all() for row in rows):
                raise ValueError("a vector holds NaN")
            texts = [about["model"], about["layer"], *paths]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("its paths or names are not text")
            settings = about.get("settings", {})
            return cls(*texts[:2], dict(zip(texts[2:], rows, strict=True)), settings)
        except (OSError, *validation.DAMAGED) as error:
            raise ValueError(
                f"{str(path)!r} is not a library of embeddings ({error}). Choose"
                " another --library, or create one with python -m tagger embed FILES."
            ) from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes .parquet (columns path and embedding) or .npy [files, channels].

        An .npy file is accompanied by an .npy.json file with the model, the layer and
        the path of each row. An existing library stays intact until the new one is
        complete.
        """
        path, held = Path(path), io.BytesIO()
        matrix = np.stack(list(self.vectors.values()))
        about = {"model": self.model, "layer": self.layer}
        if self.settings:
            about["settings"] = self.settings
        if path.suffix == ".parquet":
            paths = [as_utf8(path) for path in self.vectors]
            columns = {"path": paths, "embedding": list(matrix)}
            table = pd.DataFrame(columns)
            table.attrs = about
            table.to_parquet(held)
        else:
            np.save(held, matrix)
        with replacing(path) as unfinished:
            unfinished.write_bytes(held.getvalue())
        if path.suffix != ".parquet":
            # Written last: `load` ignores rows that this file does not name.
            about["paths"] = list(self.vectors)
            write_text_atomically(_beside(path), json.dumps(about))

    def vector_of(self, path: str | os.PathLike) -> np.ndarray | None:
        """Returns the embedding of a file, however its path is spelt, or None."""
        real = as_utf8(os.path.realpath(path))
        for held, vector in self.vectors.items():
            if as_utf8(os.path.realpath(held)) == real:
                return vector
        return None

    def nearest(self, vector: np.ndarray, number: int) -> pd.Series:
        """Returns the cosine similarities of the most similar files, by path."""
        neighbors = NearestNeighbors(metric="cosine")
        neighbors.fit(np.stack(list(self.vectors.values())))
        distances, places = neighbors.kneighbors(
            vector[None], min(number, len(self.vectors))
        )
        paths = list(self.vectors)
        return pd.Series(
            1 - distances[0], [paths[place] for place in places[0]], name="similarity"
        )


def extend(
    library: Library,
    embedder: Embedder,
    paths: Iterable[str],
    place: str | os.PathLike | None,
    bar: tqdm | None = None,
    options: StreamOptions = StreamOptions(),
) -> dict[str, Exception]:
    """Adds files to a library and saves it regularly, also when interrupted.

    Args:
        library: Library to extend; files that it already holds are skipped.
        embedder: Embedder with the model and layer of the library.
        paths: Audio files of any length.
        place: Path to save the library to; None does not save it.
        bar: Progress bar from `streaming.progress`, or None.
        options: How files are read and run.

    Returns:
        The errors of files that could not be added, by path.
    """
    errors, num_new = {}, 0
    held = {as_utf8(os.path.realpath(path)) for path in library.vectors}
    new = [
        path
        for path in dict.fromkeys(paths)
        if as_utf8(os.path.realpath(path)) not in held
    ]
    try:
        for path, vector, error in embedder.embed_files(new, bar, options):
            if error:
                errors[path] = error
                continue
            library.vectors[path] = vector
            num_new += 1
            if place and num_new % SAVED_EVERY == 0:
                library.save(place)
    finally:
        if place and num_new:
            library.save(place)
    return errors


def _beside(path: str | os.PathLike) -> Path:
    return Path(f"{path}.json")
