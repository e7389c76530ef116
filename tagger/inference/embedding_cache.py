"""Embeddings of segments, computed once and kept on disk.

    audio files ─┐
                 ├─▶ float32 [num_segments, channels] per clip and backbone
    shards ──────┘

Fitting again, with other tags or another penalty, then takes seconds. A cached file is
named after the network with its weights and after the clip: a changed audio file, shard
or model is computed again. The folder may be deleted at any time.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

import tagger
from tagger import models, storage, validation
from tagger.data import pipeline
from tagger.inference import engines, streaming
from tagger.models.metadata import ModelInfo
from tagger.weights.pretrained import cache_folder

if TYPE_CHECKING:
    import keras

SHARD_BATCH_SIZE = 16  # segments


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network whose output is cached.

    Attributes:
        name: Name for people.
        key: Identifies the network and its weights: letters, digits, - and _.
        network: Keras model from waveforms [batch, num_samples] to embeddings [batch,
            channels].
    """

    name: str
    key: str
    network: "keras.Model"


def key_of(*parts: str | os.PathLike) -> str:
    """Returns a key of some text, such as the hash of a model file and a layer."""
    text = "\n".join([tagger.__version__, *map(os.fspath, parts)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def key_of_file(path: str | os.PathLike) -> str:
    """Returns a key of an audio file, which changes when the file is written.

    Raises:
        OSError: there is no such file.
    """
    status = os.stat(path)
    place = os.path.realpath(path)
    return key_of(place, str(status.st_size), str(status.st_mtime_ns))


class EmbeddingCache:
    """Embeddings on disk, one file per backbone and clip.

    Args:
        folder: Folder of the files. Default: embeddings in `pretrained.cache_folder`.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        self.folder = Path(folder or cache_folder() / "embeddings")

    def has(self, backbone: Backbone, clip: str) -> bool:
        """Returns whether the embeddings of a clip are stored."""
        return self._path(backbone, clip).exists()

    def load(self, backbone: Backbone, clip: str) -> np.ndarray:
        """Returns the embeddings of a clip, float32 [num_segments, channels].

        Raises:
            OSError: they are not stored, or are damaged.
        """
        path = self._path(backbone, clip)
        try:
            rows = validation.load_array(path)
            shape = (len(rows), *backbone.network.output_shape[1:])
            if not len(rows) or rows.shape != shape or rows.dtype != np.float32:
                raise ValueError(f"it has the shape {rows.shape}, not {shape}")
        except validation.DAMAGED as error:
            path.unlink(missing_ok=True)
            raise OSError(
                f"{str(path)!r} was damaged ({error}) and has been deleted. Run the"
                " same command again."
            ) from error
        return rows

    def save(self, backbone: Backbone, clip: str, rows: np.ndarray) -> None:
        """Stores the embeddings of a clip, float32 [num_segments, channels]."""
        path = self._path(backbone, clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        with storage.replacing(path) as unfinished:
            np.save(unfinished, np.asarray(rows, np.float32))

    def _path(self, backbone: Backbone, clip: str) -> Path:
        return self.folder / backbone.key / f"{clip}.npy"


def embed_files(
    cache: EmbeddingCache,
    backbones: Sequence[Backbone],
    info: ModelInfo,
    paths: Iterable[str | os.PathLike],
) -> tuple[dict[str, str], dict[str, Exception]]:
    """Embeds audio files; those that the cache holds already are skipped.

    Each file is decoded only once, however many backbones there are.

    Args:
        cache: Cache to fill.
        backbones: Networks to run.
        info: Sample rate and segmentation that the backbones share.
        paths: Audio files of any length.

    Returns:
        The key in the cache of each file, and the errors of files that cannot be
        decoded or embedded, by path.
    """
    errors, clips, missing = {}, {}, {}
    for path in paths:
        try:
            clips[path] = key_of_file(path)
        except OSError:
            clips[path] = key_of(path)  # decoding reports what is wrong with it
        lacking = tuple(b for b in backbones if not cache.has(b, clips[path]))
        if lacking:
            missing.setdefault(tuple(b.key for b in lacking), (lacking, []))[1].append(
                path
            )
    num_files = sum(len(group) for _, group in missing.values())
    reading = streaming.Reading(info.segmentation, info.sample_rate)
    with streaming.progress(num_files, "Embedding") as bar:
        for lacking, group in missing.values():
            num_done = bar.n
            pieces = streaming.read_segments(group, reading)
            predict = _all_outputs(lacking)
            for file in streaming.stream_segments(predict, pieces, reading):
                num_done += 1
                bar.update(num_done - bar.n)
                if file.error:
                    errors[file.path] = file.error
                else:
                    _save_all(cache, lacking, clips[file.path], file.rows)
    return {path: key for path, key in clips.items() if path not in errors}, errors


def keys_of_shards(shards: pipeline.Shards, split: str) -> list[str]:
    """Returns the key of each clip of a split, in the order of the shards."""
    keys = []
    for path in shards.paths(split):
        shard = shards.manifest.shards[os.path.basename(path)]
        # The original resemul's shards have no manifest.
        digest = shard.sha256 or storage.sha256(storage.location(path))
        keys += [key_of(digest, str(n)) for n in range(shard.num_clips)]
    return keys


def embed_shards(
    cache: EmbeddingCache,
    backbones: Sequence[Backbone],
    info: ModelInfo,
    shards: pipeline.Shards,
    split: str,
) -> None:
    """Embeds the clips of a split; shards that the cache holds already are skipped.

    Args:
        cache: Cache to fill, with the keys of `keys_of_shards`.
        backbones: Networks to run.
        info: Sample rate and segmentation that the backbones share.
        shards: Shards of waveforms.
        split: "train", "val" or "test".

    Raises:
        records.CorruptShardError: a record is damaged; the message names it.
        ScoringError: a network gives NaN for a clip.
    """
    names = [os.path.basename(path) for path in shards.paths(split)]
    for_records = {
        backbone.key: _for_records(backbone, shards) for backbone in backbones
    }
    with (
        pipeline.naming_corrupt_records(shards),
        tqdm(
            total=shards.manifest.num_clips(split),
            desc=f"Embedding {split}",
            unit="clip",
            disable=None,
        ) as bar,
    ):
        for one in map(shards.only, names):
            keys = keys_of_shards(one, split)
            lacking = [
                backbone
                for backbone in backbones
                if not all(cache.has(backbone, key) for key in keys)
            ]
            if lacking:
                predict = _all_outputs([for_records[b.key] for b in lacking])
                for key, rows in _rows_of_clips(one, split, info, keys, predict):
                    _save_all(cache, lacking, key, rows)
                    bar.update()
            else:
                bar.update(len(keys))


def _for_records(backbone: Backbone, shards: pipeline.Shards) -> Backbone:
    network = models.with_record_inputs(backbone.network, shards.dtype)
    return dataclasses.replace(backbone, network=network)


def _rows_of_clips(
    shards: pipeline.Shards,
    split: str,
    info: ModelInfo,
    keys: Sequence[str],
    predict: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the key and the embeddings [num_segments, channels] of each clip."""
    rows, current, name = [], 0, ""

    def finished() -> tuple[str, np.ndarray]:
        if not np.isfinite(rows).all():
            raise streaming.ScoringError(name or f"clip {current} of {split}")
        return keys[current], np.stack(rows)

    for batch in pipeline.evaluation_segments(
        shards, split, info.segmentation, SHARD_BATCH_SIZE
    ).as_numpy_iterator():
        outputs = predict(batch["segments"])
        for index, clip_id, row in zip(
            batch["clip_index"], batch["clip_id"], outputs, strict=True
        ):
            if index != current:
                yield finished()
                rows, current = [], int(index)
            name = clip_id.decode()
            rows.append(row)
    yield finished()


def _all_outputs(backbones: Sequence[Backbone]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs all backbones and joins their channels."""

    def predict(segments: np.ndarray) -> np.ndarray:
        batch = engines.padded(segments)
        outputs = [np.asarray(b.network.predict_on_batch(batch)) for b in backbones]
        return np.concatenate(outputs, axis=1)[: len(segments)]

    return predict


def _save_all(
    cache: EmbeddingCache, backbones: Sequence[Backbone], clip: str, rows: np.ndarray
) -> None:
    widths = [backbone.network.output_shape[-1] for backbone in backbones]
    parts = np.split(rows, np.cumsum(widths)[:-1], axis=1)
    for backbone, part in zip(backbones, parts, strict=True):
        cache.save(backbone, clip, part)
