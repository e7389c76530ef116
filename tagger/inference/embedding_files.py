"""Files of embeddings, for other programs to read.

paths ─▶ float32 [num_files, channels] in a .npy file, with a .npy.json file beside it
         that names the model, the layer and the path of each row; or in a .parquet file
         with the columns path and embedding
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tagger import validation
from tagger.inference.embeddings import Embedder
from tagger.inference.results import Result
from tagger.inference.streaming import StreamOptions, progress
from tagger.storage import replacing, write_text_atomically
from tagger.text import TaggerError, as_utf8


@dataclasses.dataclass
class EmbeddingFile:
    """Embeddings of many files, and what computed them.

    Attributes:
        about: Model, layer, and the options that change embeddings.
        paths: Real path of each file.
        rows: Embedding [channels] of each file.
    """

    about: dict[str, object]
    paths: list[str] = dataclasses.field(default_factory=list)
    rows: list[np.ndarray] = dataclasses.field(default_factory=list)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "EmbeddingFile":
        """Reads a file that `save` wrote.

        Raises:
            ValueError: the file is none.
            ImportError: it is a .parquet file, and pyarrow is not installed.
        """
        try:
            if _is_parquet(path):
                table = _pyarrow().parquet.read_table(path)
                about = json.loads(table.schema.metadata[b"tagger"])
                paths = table["path"].to_pylist()
                rows = np.array(table["embedding"].to_pylist(), np.float32)
            else:
                validation.check_regular(_beside(path))
                about = json.loads(_beside(path).read_text(encoding="utf-8"))
                paths = about.pop("paths")
                # A killed run may have written rows that are not named yet.
                rows = validation.load_array(path)[: len(paths)]
            if rows.ndim != 2 or len(rows) != len(paths) or not len(rows):
                raise TaggerError("it does not have one row per path")
            if not np.isfinite(rows).all():
                raise TaggerError("a row holds NaN")
            return cls(dict(about), [str(one) for one in paths], list(rows))
        except (OSError, *validation.DAMAGED) as error:
            raise TaggerError(
                f"{str(path)!r} does not hold embeddings of tagger embed ({error})."
                " Choose another `output=`."
            ) from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes .npy or .parquet; replaces an existing file once that is complete.

        Raises:
            ImportError: it is a .parquet file, and pyarrow is not installed.
        """
        rows = np.stack(self.rows).astype(np.float32)
        paths = list(map(as_utf8, self.paths))
        if _is_parquet(path):
            columns = {"path": paths, "embedding": list(rows)}
            table = (
                _pyarrow()
                .table(columns)
                .replace_schema_metadata({"tagger": json.dumps(self.about)})
            )
            with replacing(path) as unfinished:
                _pyarrow().parquet.write_table(table, unfinished)
            return
        with replacing(path) as unfinished, open(unfinished, "wb") as file:
            np.save(file, rows)
        text = json.dumps(self.about | {"paths": paths}, indent=1)
        write_text_atomically(_beside(path), text + "\n")

    def extend(
        self, embedder: Embedder, paths: list[str], options: StreamOptions
    ) -> Iterator[Result[np.ndarray]]:
        """Adds the embeddings of files that are not in it yet.

        Yields:
            The result of each file that cannot be decoded.
        """
        held = set(self.paths)
        missing = {os.path.realpath(path): path for path in paths}
        missing = [path for real, path in missing.items() if as_utf8(real) not in held]
        with progress(len(missing), "Embedding") as bar:
            for found in embedder.embed_files(missing, bar, options):
                if found.error:
                    yield found
                else:
                    self.paths.append(as_utf8(os.path.realpath(found.path)))
                    self.rows.append(found.value)


def _pyarrow():
    import pyarrow.parquet  # of the extra parquet

    return pyarrow


def _is_parquet(path: str | os.PathLike) -> bool:
    return Path(path).suffix == ".parquet"


def _beside(path: str | os.PathLike) -> Path:
    return Path(f"{path}.json")
