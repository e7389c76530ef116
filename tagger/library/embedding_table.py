"""Tables of embeddings, which `tagger embed` writes for other programs to read.

paths -> float32 [num_files, channels] in a .parquet file, or an .npy and a .json file
"""

import dataclasses
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors
from tqdm import tqdm

from tagger import validation
from tagger.inference.embeddings import Embedder
from tagger.inference.streaming import StreamOptions
from tagger.storage import replacing, write_text_atomically
from tagger.text import as_utf8

SAVED_EVERY = 200  # files; a killed run loses at most this many


@dataclasses.dataclass
class EmbeddingTable:
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
    def load(cls, path: str | os.PathLike) -> "EmbeddingTable":
        """Reads a table that `save` wrote.

        Raises:
            ValueError: the file is not such a table.
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
        the path of each row. An existing table stays intact until the new one is
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
    table: EmbeddingTable,
    embedder: Embedder,
    paths: Iterable[str],
    place: str | os.PathLike | None,
    bar: tqdm | None = None,
    options: StreamOptions = StreamOptions(),
) -> dict[str, Exception]:
    """Adds files to a table and saves it regularly, also when interrupted.

    Args:
        table: Table to extend; files that it already holds are skipped.
        embedder: Embedder with the model and layer of the table.
        paths: Audio files of any length.
        place: Path to save the table to; None does not save it.
        bar: Progress bar from `streaming.progress`, or None.
        options: How files are read and run.

    Returns:
        The errors of files that could not be added, by path.
    """
    errors, num_new = {}, 0
    held = {as_utf8(os.path.realpath(path)) for path in table.vectors}
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
            table.vectors[path] = vector
            num_new += 1
            if place and num_new % SAVED_EVERY == 0:
                table.save(place)
    finally:
        if place and num_new:
            table.save(place)
    return errors


def _beside(path: str | os.PathLike) -> Path:
    return Path(f"{path}.json")
