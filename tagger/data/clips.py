"""Clips in shards: an index of where each one lies, and what reads them.

    open_shards ─▶ Shards.clips("train") ─▶ Clips: content, segments, one crop

The index is made by one pass over the records that skips their samples. It is kept
beside the shards as `index.npz`, which may be deleted at any time.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tagger import storage, validation
from tagger.data import records, resemul, verification, workers
from tagger.data.manifest import MANIFEST_NAME, SHARD_FOLDER, Manifest
from tagger.segmentation import (
    Segmentation,
    crop,
    cut,
    num_crops,
    to_float,
    to_int16,
)
from tagger.text import TaggerError

INDEX_NAME = "index.npz"
MAX_OPEN_FILES = 64  # some systems allow 256
UNLABELLED = -1  # in labels: it is unknown whether the tag applies
# Waveform float32 [num_samples] at ±1 -> waveform, perhaps of another length.
Modify = Callable[[np.ndarray], np.ndarray]
# One row of the index: shard (position in `Clips.paths`), position of the record in the
# shard, start and end of its data in the file, length of the clip, and start, length
# and distance in bytes of the parts that hold its values.
_ROW = np.dtype(
    [
        *((name, "i4") for name in ("shard", "number")),
        *((name, "i8") for name in ("start", "end", "num_samples")),
        *((name, "i8") for name in ("values", "part", "stride")),
    ]
)


@dataclasses.dataclass(frozen=True)
class Shards:
    """An open folder of shards.

    Attributes:
        directory: Folder or URL of the shards.
        manifest: Manifest of the folder.
        names_tags: Whether the shards come with tag names, not only with their order.
    """

    directory: Path | storage.Remote
    manifest: Manifest
    names_tags: bool

    @property
    def dtype(self) -> str:
        """Data type of segments: "int16", "float32" (resemul), or that of log-mel."""
        return self.manifest.segment_dtype

    @functools.cached_property
    def indexed(self) -> dict[str, tuple[np.ndarray, ...]]:
        """What is known of each shard so far: rows of the index, labels and ids."""
        return {}

    @property
    def is_resemul(self) -> bool:
        """Whether the original resemul wrote the shards."""
        return not self.manifest.num_audios_per_shard

    def with_tags(self, tags: tuple[str, ...]) -> "Shards":
        """Returns the same clips with other tags, whose labels they lack."""
        manifest = dataclasses.replace(self.manifest, tags=tags)
        return dataclasses.replace(self, manifest=manifest, names_tags=True)

    def paths(self, split: str) -> list[Path]:
        """Returns the shard files of a split, copied from a URL if need be.

        Raises:
            ValueError: the split has no clips.
            FileNotFoundError: a shard that the manifest lists is missing or incomplete.
            OSError: the disk has no room for copies.
        """
        if not self.manifest.num_clips(split):
            raise TaggerError(
                f"{self.directory} holds no {split} clips, only"
                f" {', '.join(self.manifest.splits) or 'nothing'}. Build with the audio"
                " of that split, or choose another one."
            )
        shards = self.manifest.shards
        names = [n for n in self.manifest.shard_names(split) if shards[n].num_clips]
        if isinstance(self.directory, storage.Remote):
            folder = storage.copied(
                self.directory,
                {name: shards[name].num_bytes for name in names},
                self.manifest.checksum(),
            )
        else:
            folder = self.directory
        for name in names:
            num_bytes = storage.num_bytes(folder / name)
            if num_bytes != shards[name].num_bytes:
                raise FileNotFoundError(
                    f"{self.directory / name} is"
                    f" {'missing' if num_bytes is None else 'incomplete'}."
                    " Run the build again: it makes only what is missing."
                )
        return [folder / name for name in names]

    def clips(self, *splits: str) -> "Clips":
        """Returns the clips of one or more splits, in the order of the shards.

        Raises:
            CorruptShardError: a record is damaged outside of its values.
            ValueError, OSError: see `paths`.
        """
        return _index(
            {path: split for split in splits for path in self.paths(split)}, self
        )

    def fold(self, number: int) -> "Clips":
        """Returns the clips of one fold, which may be in any split.

        Raises:
            ValueError: there is no such fold.
        """
        folds = self.manifest.folds
        ids = [clip_id for clip_id, fold in folds.items() if fold == number]
        if not ids:
            held = ", ".join(map(str, sorted(set(folds.values()))))
            has = f"only {held}" if held else "because it was built without `folds=`"
            raise TaggerError(f"{self.directory} has no fold {number}, {has}.")
        splits = [*filter(self.manifest.num_clips, ("train", "val", "test"))]
        clips = self.clips(*splits) if splits else None
        if clips is None or not np.isin(clips.ids, ids).any():
            raise TaggerError(f"{self.directory} holds no clips of fold {number}.")
        return clips.chosen(np.isin(clips.ids, ids))


def open_shards(
    path: str | os.PathLike | storage.Remote, verify: bool = False
) -> Shards:
    """Opens a folder of shards, or its parent (`dataset` for `dataset/tfrecord`).

    Shards of the original resemul project are read too, see `resemul.read_manifest`.

    Args:
        path: Folder or URL (gs://…), whose shards are copied before they are read.
        verify: Whether to check every checksum and record first, with
            `verification.verify`.

    Raises:
        FileNotFoundError: there are no shards.
        ValueError: the build is unfinished, its manifest is damaged, or verification
            fails.
    """
    path = storage.location(path)
    folders = [path, path / SHARD_FOLDER]
    for folder in folders:
        if (folder / MANIFEST_NAME).is_file():
            manifest = Manifest.load(folder)
            if not manifest.complete:
                raise TaggerError(
                    f"The build in {folder} is unfinished ({len(manifest.shards)}"
                    " shards so far). Run the build command again; it resumes where"
                    " it stopped."
                )
            if verify:
                shards = verification.verify(folder, manifest)
                _refuse_faults(folder, shards, len(manifest.shards))
            return Shards(folder, manifest, True)
    for folder in folders:
        if found := resemul.shard_paths(folder):
            if verify:
                shards = verification.verify_resemul(folder)
                _refuse_faults(folder, shards, len(found))
            manifest = resemul.read_manifest(folder)
            return Shards(folder, manifest, "tag 1" not in manifest.tags)
    raise FileNotFoundError(
        f"There are no shards in {str(path)!r}. Build them (python build_mtt.py), or"
        " give the folder of the shards or its parent with `data_dir=`."
    )


def _refuse_faults(
    folder: Path | storage.Remote, shards: Iterable[tuple[str, list[str]]], total: int
) -> None:
    shards = tqdm(shards, "Verifying", total, unit="shard", disable=None)
    bad = {name: faults for name, faults in shards if faults}
    if bad:
        name, faults = next(iter(bad.items()))
        raise TaggerError(
            f"{len(bad)} files in {folder} failed verification: {name}:"
            f" {faults[0]}{' …' if len(bad) > 1 else ''}. Delete them and run the build"
            " again: it makes only what is missing."
        )


# --- The index ------------------------------------------------------------------------


def _index(paths: dict[Path, str], shards: Shards) -> "Clips":
    """Returns the clips of some shard files -> their splits, in that order."""
    folder = next(iter(paths)).parent
    held, is_new, parts = shards.indexed, False, []
    held.update({} if held else _load_index(folder))
    for path, split in tqdm(
        paths.items(), "Indexing", unit="shard", disable=None, delay=2, leave=False
    ):
        stamp = _stamp(path)
        if stamp not in held:
            held[stamp], is_new = _walk(path, split, shards), True
        parts.append(held[stamp])
    if is_new:
        _save_index(folder, held, shards)
    rows, labels, ids = map(np.concatenate, zip(*parts, strict=True))
    rows["shard"] = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    ids = np.where(ids == "", np.arange(len(ids)).astype(str), ids)
    return Clips(shards, tuple(paths), rows, labels, ids)


def _stamp(path: Path) -> str:
    """Returns what identifies a shard: its name, size and time of writing."""
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _walk(path: Path, split: str, shards: Shards) -> tuple[np.ndarray, ...]:
    """Returns rows of the index, labels and ids of one shard's clips."""
    manifest, num_tags = shards.manifest, len(shards.manifest.tags)
    find = resemul.find_clip if shards.is_resemul else records.find_clip
    rows, labels, ids = [], [], []
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        if hasattr(mmap, "MADV_RANDOM"):  # or the system reads the samples, too
            mapped.madvise(mmap.MADV_RANDOM)
        for number, (start, end) in enumerate(records.spans(path, file)):
            try:
                with data[start:end] as example:
                    found = find(example)
                row = _row(found, manifest)
            except (ValueError, IndexError, KeyError) as error:
                raise records.CorruptShardError(path, number) from error
            if split != "student" and len(found.labels) != num_tags:
                raise records.CorruptShardError(path, number)
            rows.append(
                (0, number, start, end, found.num_samples, start + row[0], *row[1:])
            )
            labels.append(found.labels)
            ids.append(found.clip_id)
    if split == "student":
        values = np.full((len(rows), num_tags), UNLABELLED, np.int8)
    else:
        values = np.frombuffer(b"".join(labels), np.int8).reshape(-1, num_tags)
    return np.array(rows, _ROW), values, np.array(ids, str)


def _row(found: records.Entry, manifest: Manifest) -> tuple[int, int, int]:
    """Returns start, length and distance of the parts that hold a clip's values."""
    starts, ends = np.array(found.spans).T
    lengths, strides = set((ends - starts).tolist()), set(np.diff(starts).tolist())
    num_values = found.num_samples
    if manifest.features:
        num_segments = -(-found.num_samples // manifest.segment_samples)
        num_values = num_segments * int(np.prod(manifest.segment_shape))
    num_bytes = num_values * np.dtype(manifest.segment_dtype).itemsize
    if len(lengths) != 1 or len(strides) > 1 or (ends - starts).sum() < num_bytes:
        raise TaggerError("its segments do not hold what it says")
    return int(starts[0]), lengths.pop(), strides.pop() if strides else 0


def _load_index(folder: Path) -> dict[str, tuple[np.ndarray, ...]]:
    """Returns what an index file holds of each shard, by its stamp.

    A file that is missing or damaged holds nothing.
    """
    try:
        held = validation.read_arrays(folder / INDEX_NAME)
        ends = np.cumsum(held["counts"])
        parts = [np.split(held[name], ends[:-1]) for name in ("rows", "labels", "ids")]
        if held["rows"].dtype != _ROW:
            return {}
        return dict(zip(held["stamps"].tolist(), zip(*parts, strict=True), strict=True))
    except (OSError, KeyError, *validation.DAMAGED):
        return {}


def _save_index(
    folder: Path, held: dict[str, tuple[np.ndarray, ...]], shards: Shards
) -> None:
    listed = [folder / name for name in shards.manifest.shards]
    there = {_stamp(path) for path in listed if path.exists()}
    held = {stamp: part for stamp, part in held.items() if stamp in there}
    rows, labels, ids = map(np.concatenate, zip(*held.values(), strict=True))
    # The index is made again where it cannot be kept.
    with contextlib.suppress(OSError):
        with storage.replacing(folder / INDEX_NAME) as unfinished:
            np.savez(
                unfinished,
                stamps=np.array(list(held)),
                counts=np.array([len(part[0]) for part in held.values()]),
                rows=rows,
                labels=labels,
                ids=ids,
            )


# --- Clips ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Clips:
    """Clips in shards, of which only the index is in memory.

    Attributes:
        shards: Shards that hold the clips.
        paths: Local files of the shards.
        rows: Where each clip lies [num_clips], see `_ROW`.
        labels: 0/1 or UNLABELLED, int8 [num_clips, num_tags].
        ids: Id of each clip [num_clips]; its number where the records hold none, as
            those of the original resemul.
    """

    shards: Shards
    paths: tuple[Path, ...]
    rows: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, which: np.ndarray) -> "Clips":
        """Returns some of the clips, given by a mask or by numbers."""
        return dataclasses.replace(
            self, rows=self.rows[which], labels=self.labels[which], ids=self.ids[which]
        )

    def labelled(self, labels: np.ndarray) -> "Clips":
        """Returns the same clips with other labels [num_clips, any number]."""
        return dataclasses.replace(self, labels=labels)

    def num_segments(self, segmentation: Segmentation) -> np.ndarray:
        """Returns the number of segments of each clip; incomplete ones if padded."""
        return self._per_length(segmentation.num_segments)

    def num_crops(self, segmentation: Segmentation) -> np.ndarray:
        """Returns the number of places where a random crop of each clip may start."""
        return self._per_length(functools.partial(num_crops, segmentation=segmentation))

    def _per_length(self, function: Callable[[int], int]) -> np.ndarray:
        lengths, which = np.unique(self.rows["num_samples"], return_inverse=True)
        return np.array([function(length) for length in lengths.tolist()], int)[which]

    def segment_shape(self, segmentation: Segmentation) -> tuple[int, ...]:
        """Returns the shape of a segment: [num_samples], or [num_frames, n_mels].

        Raises:
            ValueError: the records do not hold such segments: log-mel spectrograms
                cannot be cut again.
        """
        manifest = self.shards.manifest
        if manifest.features is None:
            return (segmentation.num_samples,)
        held = (
            f"{self.shards.directory} holds log-mel spectrograms of"
            f" {manifest.segment_samples} samples each"
        )
        if not segmentation.is_consecutive:
            raise TaggerError(
                f"{held}, but the model takes overlapping segments. Build waveform"
                " records (without `features=`)."
            )
        if segmentation.num_samples != manifest.segment_samples:
            raise TaggerError(
                f"{held}, but the model takes {segmentation.num_samples}. Build with"
                f" `num_samples={segmentation.num_samples}`."
            )
        return manifest.segment_shape

    @property
    def dtype(self) -> np.dtype:
        """Data type of the values in the records."""
        return np.dtype(self.shards.dtype).newbyteorder("<")

    @functools.cached_property
    def _is_checked(self) -> np.ndarray:
        """Whether the CRC of each clip's record has been checked, [num_clips]."""
        return np.zeros(len(self), bool)

    def content(self, number: int) -> np.ndarray:
        """Reads a whole clip.

        Returns:
            Waveform [num_samples], or log-mel spectrograms [num_segments, num_frames,
            n_mels].

        Raises:
            CorruptShardError: the record does not match its CRC.
            FileNotFoundError: the shard has been removed.
        """
        shard, record, start, end, num_samples, first, part, stride = self.rows[
            number
        ].item()
        path = self.paths[shard]
        with path.open("rb", buffering=0) as file:
            data = records.read_record(path, file, record, (start, end))
        size = self.dtype.itemsize
        num_parts = num_samples * size // part if stride else 1
        parts = np.ndarray(
            (num_parts, part // size), self.dtype, data, first - start, (stride, size)
        )
        values = parts.reshape(-1)  # copies parts that are not consecutive
        if self.shards.manifest.features:
            return values.reshape(-1, *self.shards.manifest.segment_shape)
        return values[:num_samples]

    def segments(
        self, number: int, segmentation: Segmentation, modify: Modify | None = None
    ) -> np.ndarray:
        """Reads all segments of a clip, [num_segments, *shape].

        Args:
            number: Number of the clip.
            segmentation: How the clip is cut; `segment_shape` checks it.
            modify: Function that changes the waveform before it is cut.

        Raises:
            CorruptShardError, FileNotFoundError: see `content`.
        """
        content = self.content(number)
        if content.ndim > 1:
            num_samples = int(self.rows["num_samples"][number])
            return content[: segmentation.num_segments(num_samples)]
        if modify and content.dtype == np.int16:
            changed = modify(to_float(content))
            content = to_int16(changed)
        elif modify:
            content = modify(content)
        return cut(content, segmentation)

    def read_segment(
        self, number: int, segmentation: Segmentation, start: int, segment: np.ndarray
    ) -> None:
        """Reads one segment of a clip, and no more of it than that.

        The first call for a clip reads the whole record, to check its CRC.

        Args:
            number: Number of the clip.
            segmentation: Length and edges of the segment.
            start: First sample; of a log-mel record, a multiple of the segment length.
            segment: Array to fill [*shape].

        Raises:
            CorruptShardError, FileNotFoundError: see `content`.
        """
        if segment.ndim > 1:
            first = start // segmentation.num_samples * segment.size
            self._read_into(number, first, segment.reshape(-1))
            return
        num_samples = int(self.rows["num_samples"][number])
        read_into = functools.partial(self._read_into, number)
        crop(read_into, num_samples, segmentation, start, segment)

    def expect(self, number: int) -> None:
        """Tells the system that all of a clip will be read soon, to spare seeks."""
        shard, _, start, end, *_ = self.rows[number].item()
        self._open(shard).expect(start, end - start)

    def _read_into(self, number: int, first: int, values: np.ndarray) -> None:
        """Reads the values of a clip from `first` on."""
        shard, record, *span, _, start, part, stride = self.rows[number].item()
        file, first = self._open(shard), first * values.itemsize
        if not self._is_checked[number]:
            self.content(number)
            self._is_checked[number] = True
        while len(values):
            place, within = divmod(first, part)
            some = values[: (part - within) // values.itemsize]
            place = start + place * stride + within
            if file.read_into(some, place) != some.nbytes:
                raise records.CorruptShardError(self.paths[shard], record)
            first, values = first + some.nbytes, values[len(some) :]

    @functools.cached_property
    def _open(self) -> Callable[[int], "_OpenFile"]:
        """Opens a shard by its number, or returns it if it was open."""
        paths = self.paths  # not `self`: files close as soon as the clips go
        return functools.lru_cache(MAX_OPEN_FILES)(lambda n: _OpenFile(paths[n]))


class _OpenFile:
    """A file that threads read at once; it is closed when nothing refers to it."""

    def __init__(self, path: Path):
        self._number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._seeking = threading.Lock()

    def __del__(self):
        with contextlib.suppress(AttributeError):  # it was not opened
            os.close(self._number)

    def expect(self, start: int, num_bytes: int) -> None:
        if hasattr(os, "posix_fadvise"):
            advice = os.POSIX_FADV_WILLNEED
            os.posix_fadvise(self._number, start, num_bytes, advice)

    def read_into(self, values: np.ndarray, place: int) -> int:
        """Reads values from a place on, and returns the number of bytes read."""
        if hasattr(os, "preadv"):
            return os.preadv(self._number, [values], place)
        with self._seeking:  # on Windows, threads share the position in a file
            os.lseek(self._number, place, os.SEEK_SET)
            data = os.read(self._number, values.nbytes)
        values.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        return len(data)


def outputs_of(
    function: Callable[[np.ndarray], Sequence[np.ndarray]],
    clips: Clips,
    segmentation: Segmentation,
    batch_size: int,
    modify: Modify | None = None,
) -> Iterator[list[np.ndarray]]:
    """Applies a function to every segment of every clip.

    Args:
        function: Function from segments [batch, *shape], as the shards store them, to
            arrays whose first axis is the batch.
        clips: Clips to read.
        segmentation: How they are cut.
        batch_size: Segments per call, which may be of several clips; the last batch may
            be smaller.
        modify: Function that changes each clip's waveform before it is cut.

    Yields:
        The arrays of each clip, [num_segments, …], in the order of the clips.

    Raises:
        ValueError: the records do not hold such segments.
        CorruptShardError: a record is damaged; the message names it.
    """
    clips.segment_shape(segmentation)
    counts, rows = collections.deque(), []

    def every_segment() -> Iterator[np.ndarray]:
        def read(number: int) -> np.ndarray:
            return clips.segments(number, segmentation, modify)

        for segments in ahead(read, range(len(clips))):
            counts.append(len(segments))
            yield from segments

    segments = every_segment()
    while batch := list(itertools.islice(segments, batch_size)):
        rows += zip(*map(np.asarray, function(np.stack(batch))), strict=True)
        # The last clip may have more segments than have been read.
        while counts and counts[0] <= len(rows):
            num_segments = counts.popleft()
            own = zip(*rows[:num_segments], strict=True)
            yield [np.stack(values) for values in own]
            del rows[:num_segments]


def default_threads() -> int:
    """Returns the number of threads that read if no other is given."""
    return min(workers.num_cores(), 8)


def ahead(
    function: Callable, numbers: Iterable, num_threads: int | None = None
) -> Iterator:
    """Yields `function(number)` for each number, in order, computed by threads.

    Args:
        function: Function that releases the GIL for most of its time, as reads do.
        numbers: Its arguments, which need not end.
        num_threads: Number of threads. Default: one per core, at most 8.
    """
    num_threads = num_threads or default_threads()
    with ThreadPoolExecutor(num_threads) as pool:
        waiting = collections.deque()
        for number in numbers:
            waiting.append(pool.submit(function, number))
            if len(waiting) > num_threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
