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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

import tagger
from tagger import storage, validation
from tagger.data.clips import Clips, outputs_of
from tagger.inference import streaming
from tagger.inference.results import Result, ScoringError
from tagger.models.metadata import ModelInfo
from tagger.segmentation import to_float
from tagger.text import TaggerError

SHARD_BATCH_SIZE = 16  # segments


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network whose output is cached.

    Attributes:
        name: Name for people.
        key: Identifies the network and its weights: letters, digits, - and _.
        run: Function of waveforms float32 [batch, num_samples] that returns embeddings
            [batch, num_channels].
        num_channels: Channels of an embedding.
    """

    name: str
    key: str
    run: Callable[[np.ndarray], np.ndarray]
    num_channels: int


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
        folder: Folder of the files. Default: embeddings in `storage.cache_folder`.
    """

    def __init__(self, folder: str | os.PathLike | None = None):
        self.folder = Path(folder or storage.cache_folder() / "embeddings")

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
            shape = (len(rows), backbone.num_channels)
            if not len(rows) or rows.shape != shape or rows.dtype != np.float32:
                raise TaggerError(f"it has the shape {rows.shape}, not {shape}")
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
) -> list[Result[str]]:
    """Embeds audio files; those that the cache holds already are skipped.

    Each file is decoded only once, however many backbones there are.

    Args:
        cache: Cache to fill.
        backbones: Networks to run.
        info: Sample rate and segmentation that the backbones share.
        paths: Audio files of any length.

    Returns:
        The key in the cache of each file, or why it cannot be decoded or embedded.
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
                    _save_all(cache, lacking, clips[file.path], file.value.rows)
    return [Result(path, key, errors.get(path)) for path, key in clips.items()]


def keys_of_clips(clips: Clips) -> list[str]:
    """Returns the key of each clip in shards."""
    shards = clips.shards.manifest.shards
    # The original resemul's shards have no checksums.
    digests = [shards[path.name].sha256 or storage.sha256(path) for path in clips.paths]
    places = clips.rows[["shard", "number"]].tolist()
    return [key_of(digests[shard], str(number)) for shard, number in places]


def embed_clips(
    cache: EmbeddingCache, backbones: Sequence[Backbone], info: ModelInfo, clips: Clips
) -> None:
    """Embeds clips in shards; those that the cache holds already are skipped.

    Args:
        cache: Cache to fill, with the keys of `keys_of_clips`.
        backbones: Networks to run.
        info: Sample rate and segmentation that the backbones share.
        clips: Clips whose records are waveforms.

    Raises:
        records.CorruptShardError: a record is damaged; the message names it.
        ScoringError: a network gives NaN for a clip.
    """
    keys = keys_of_clips(clips)
    lacking = [b for b in backbones if not all(cache.has(b, key) for key in keys)]
    missing = [
        number
        for number, key in enumerate(keys)
        if not all(cache.has(backbone, key) for backbone in lacking)
    ]
    predict = _all_outputs(lacking)
    embedded = outputs_of(
        lambda segments: [predict(to_float(segments))],
        clips.chosen(missing),
        info.segmentation,
        SHARD_BATCH_SIZE,
    )
    with tqdm(total=len(missing), desc="Embedding", unit="clip", disable=None) as bar:
        for number, (rows,) in zip(missing, embedded, strict=True):
            if not np.isfinite(rows).all():
                raise ScoringError(clips.ids[number])
            _save_all(cache, lacking, keys[number], rows)
            bar.update()


def _all_outputs(backbones: Sequence[Backbone]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs all backbones and joins their channels."""
    return lambda waveforms: np.concatenate([b.run(waveforms) for b in backbones], 1)


def _save_all(
    cache: EmbeddingCache, backbones: Sequence[Backbone], clip: str, rows: np.ndarray
) -> None:
    widths = [backbone.num_channels for backbone in backbones]
    parts = np.split(rows, np.cumsum(widths)[:-1], axis=1)
    for backbone, part in zip(backbones, parts, strict=True):
        cache.save(backbone, clip, part)
