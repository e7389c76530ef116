"""Audio files -> one vector each, of what a model makes of them; which are alike."""

import dataclasses
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors
from tqdm import tqdm

from tagger import models
from tagger.inference.streaming import stream_files
from tagger.models.metadata import suggest_names
from tagger.storage import temporary, write_text_atomically

PENULTIMATE = "penultimate"
SAVED_EVERY = 200  # files: what a run that is killed loses at most


class Embedder:
    """A model up to one of its layers.

    Args:
        model: From `models.load_model`, `pretrained.load` or `conversion.load_model`.
        layer: Its name; "penultimate": what the last layer makes scores of. What has
            time or frequency axes is averaged over them.

    Attributes:
        layer: Name of the layer whose output it is.
        info: What the model says of itself.
        network: Waveforms [batch, num_samples] -> vectors [batch, channels].

    Raises:
        ValueError: there is no such layer, or it has no single output of floats.

    Example:
        >>> from tagger.weights import pretrained
        >>> embedder = Embedder(pretrained.load("musicnn_mtt"))
        >>> vector = embedder.embed("song.mp3")
        >>> vector.shape, vector.dtype
        ((200,), dtype('float32'))
        >>> library = Library("musicnn_mtt", embedder.layer)
        >>> errors = extend(library, embedder, ["song.mp3", "no.mp3"], "library.npy")
        >>> print(errors["no.mp3"])
        Cannot decode 'no.mp3': there is no such file.
        >>> Library.load("library.npy").nearest(vector, 1).round(3).to_dict()
        {'song.mp3': 1.0}
    """

    def __init__(self, model: keras.Model, layer: str = PENULTIMATE):
        self.info = models.model_info(model)
        if layer == PENULTIMATE:
            scores = model.layers[-1]
            output = scores.input
        else:
            output = _layer(model, layer).output
        if not isinstance(output, keras.KerasTensor) or len(output.shape) < 2:
            raise ValueError(f"Layer {layer!r} of {model.name} has no single output.")
        self.layer = layer
        if len(output.shape) > 2:
            middle = tuple(range(1, len(output.shape) - 1))
            output = keras.ops.mean(output, axis=middle)
        self.network = keras.Model(model.input, output, name=f"{model.name}_embedding")

    def embed(self, path: str | os.PathLike) -> np.ndarray:
        """The mean of a file's segments, float32 [channels].

        Raises:
            AudioDecodeError: the file cannot be decoded.
        """
        ((_, vector, error),) = self.embed_files([path])
        if error:
            raise error
        return vector

    def embed_files(self, paths: Iterable, bar: tqdm | None = None):
        """Yields each path with its vector [channels] and None, or None and an error.

        Args:
            paths: Audio of any length; memory is bounded by a batch of segments.
            bar: From `streaming.progress`.
        """
        for file in stream_files(
            self.network.predict_on_batch,
            paths,
            self.info.segmentation,
            self.info.sample_rate,
            bar,
        ):
            vector = None if file.error else file.rows.mean(axis=0)
            yield file.path, vector, file.error


@dataclasses.dataclass
class Library:
    """Vectors of many files.

    Attributes:
        model: Name of the model that made them.
        layer: Its layer.
        vectors: Path -> float32 [channels], in the order they were made.
    """

    model: str
    layer: str
    vectors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Library":
        """Reads what `save` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            if Path(path).suffix == ".parquet":
                table = pd.read_parquet(path)
                about, paths, vectors = table.attrs, table["path"], table["embedding"]
            else:
                about = json.loads(_beside(path).read_text(encoding="utf-8"))
                paths = about["paths"]
                vectors = np.load(path, allow_pickle=False)[: len(paths)]
            rows = (np.asarray(vector, np.float32) for vector in vectors)
            return cls(
                about["model"],
                about["layer"],
                dict(zip(paths, rows, strict=True)),
            )
        except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
            raise ValueError(
                f"{str(path)!r} holds no library of embeddings ({error}). Choose"
                " another --library, or make it with python -m tagger embed FILES."
            ) from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes .parquet (path, embedding) or .npy [files, channels].

        Beside an .npy stands a .npy.json with the model, the layer and the rows' paths.
        A library that is there stays whole until the new one is.
        """
        path, held = Path(path), io.BytesIO()
        matrix = np.stack(list(self.vectors.values()))
        about = {"model": self.model, "layer": self.layer}
        if path.suffix == ".parquet":
            columns = {"path": list(self.vectors), "embedding": list(matrix)}
            table = pd.DataFrame(columns)
            table.attrs = about
            table.to_parquet(held)
        else:
            np.save(held, matrix)
        unfinished = temporary(path)
        try:
            unfinished.write_bytes(held.getvalue())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        if path.suffix != ".parquet":
            # Last: rows that it does not name yet are not read.
            about["paths"] = list(self.vectors)
            write_text_atomically(_beside(path), json.dumps(about))

    def vector_of(self, path: str | os.PathLike) -> np.ndarray | None:
        """Returns the embedding of a file, however its path is spelt, or None."""
        real = os.path.realpath(path)
        for held, vector in self.vectors.items():
            if os.path.realpath(held) == real:
                return vector
        return None

    def nearest(self, vector: np.ndarray, number: int) -> pd.Series:
        """Returns the most similar files: cosine similarity of embeddings, by path."""
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
) -> dict[str, Exception]:
    """Adds files to a library, which is saved on the way, also when interrupted.

    Args:
        library: Files that it holds are not embedded again.
        embedder: The library's model and layer.
        paths: Audio of any length.
        place: Where it is saved; None: nowhere.
        bar: From `streaming.progress`.

    Returns:
        Why files are not in it, by path.
    """
    errors, num_new = {}, 0
    held = {os.path.realpath(path) for path in library.vectors}
    new = [path for path in dict.fromkeys(paths) if os.path.realpath(path) not in held]
    try:
        for path, vector, error in embedder.embed_files(new, bar):
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


def _layer(model: keras.Model, name: str) -> keras.Layer:
    names = [layer.name for layer in model.layers]
    if name in names:
        return model.get_layer(name)
    raise ValueError(
        f"Model {model.name} has no layer {name!r}."
        f" {suggest_names(name, [PENULTIMATE, *names])}"
    )
