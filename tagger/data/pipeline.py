"""Shards -> tf.data: shuffled segments to train on, whole clips to evaluate.

Segments leave here as they lie in the records (int16, half the bytes to move); the
model makes them float on its device, see `models.fed_with`.
"""

import contextlib
import ctypes
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tqdm import tqdm

from tagger import storage
from tagger.data import records
from tagger.data.records import INT16_SCALE

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
UNLABELLED = -1.0  # in the labels of a batch: nobody said whether the tag applies
# Waveform float32 [num_samples] at ±1 -> another, perhaps of another length.
Modify = Callable[[np.ndarray], np.ndarray]
SHUFFLED_SAMPLES = 4096 * 59049  # about 400 clips of MTT, 480 MB of int16


@dataclasses.dataclass(frozen=True)
class Shards:
    """A folder of shards, opened.

    Attributes:
        directory: The folder, or a URL.
        manifest: What it holds.
        names_tags: The records come with tag names, not with an order alone.
        parse: Serialized record -> content (waveform [num_samples], or log-mel
            [num_segments, num_frames, n_mels]), num_samples, labels [num_tags] and
            clip_id.
    """

    directory: Path | storage.Remote
    manifest: records.Manifest
    names_tags: bool
    parse: Callable[[tf.Tensor], dict[str, tf.Tensor]]

    @property
    def dtype(self) -> str:
        """Of the segments: "int16", "float32" (resemul's), a log-mel's."""
        return self.manifest.segment_dtype

    def paths(self, split: str) -> list[str]:
        """Shard files of a split.

        Raises:
            ValueError: the split has no clip.
            FileNotFoundError: a shard that the manifest lists is not there, or not
                whole.
        """
        if not self.manifest.num_clips(split):
            raise ValueError(
                f"{self.directory} holds no {split} clips, only"
                f" {', '.join(self.manifest.splits) or 'nothing'}. Build with the audio"
                " of that split, or choose another one."
            )
        shards = self.manifest.shards
        names = [n for n in self.manifest.shard_names(split) if shards[n].num_clips]
        paths = [self.directory / name for name in names]
        for path in paths:
            num_bytes = storage.num_bytes(path)
            if num_bytes != shards[path.name].num_bytes:
                raise FileNotFoundError(
                    f"{path} is {'missing' if num_bytes is None else 'incomplete'}."
                    " Run the build again: it makes only what is missing."
                )
        return [str(path) for path in paths]

    def check_counts(
        self, num_audios_per_shard: int | None, num_segments_per_audio: int | None
    ) -> None:
        """Compares counts a user gave (None: did not) with the manifest.

        Raises:
            ValueError: one of them differs.
        """
        built = self.manifest.num_audios_per_shard
        if num_audios_per_shard not in (None, built):
            raise ValueError(
                f"--num-audios-per-shard {num_audios_per_shard} does not agree with"
                f" {self.directory}, built with {built}. Leave it out, or build again."
            )
        clips, segments = (
            self.manifest.num_clips("train"),
            self.manifest.num_segments("train"),
        )
        if (
            num_segments_per_audio is not None
            and segments != num_segments_per_audio * clips
        ):
            raise ValueError(
                f"--num-segments-per-audio {num_segments_per_audio} does not agree"
                f" with {self.directory}: its {clips} train clips hold {segments}"
                " segments. Leave it out, or build again."
            )


def open_shards(
    path: str | os.PathLike | storage.Remote, verify: bool = False
) -> Shards:
    """Opens a folder of shards, or its parent (`dataset` for `dataset/tfrecord`).

    Shards of the original resemul project are read too. They hold no tag names: the
    manifest then says "tag 1", "tag 2" … In its train and val shards every segment
    counts as a clip.

    Args:
        path: Folder or URL (gs://…).
        verify: Check every checksum and record first (see `records.verify`).

    Raises:
        FileNotFoundError: there are no shards.
        ValueError: the build is unfinished, its manifest damaged, or a shard is not
            what was written.
    """
    path = storage.location(path)
    folders = [path, path / records.SHARD_FOLDER]
    for folder in folders:
        if (folder / records.MANIFEST_NAME).is_file():
            manifest = records.Manifest.load(folder)
            if not manifest.complete:
                raise ValueError(
                    f"The build in {folder} is unfinished ({len(manifest.shards)}"
                    " shards so far). Run the build command again; it goes on where"
                    " it stopped."
                )
            if verify:
                _verify(folder, manifest)
            return Shards(folder, manifest, True, _parser(manifest))
    for folder in folders:
        if isinstance(folder, Path) and any(folder.glob(RESEMUL_PATTERN)):
            return _open_resemul_shards(folder)
    raise FileNotFoundError(
        f"There are no shards in {str(path)!r}. Build them (python build_mtt.py), or"
        " give their folder or its parent with --data-dir."
    )


def _verify(folder: Path | storage.Remote, manifest: records.Manifest) -> None:
    shards = tqdm(
        records.verify(folder, manifest),
        "Verifying",
        total=len(manifest.shards),
        unit="shard",
        disable=None,
    )
    bad = {name: faults for name, faults in shards if faults}
    if bad:
        name, faults = next(iter(bad.items()))
        raise ValueError(
            f"{len(bad)} files in {folder} are not as they were written: {name}:"
            f" {faults[0]}{' …' if len(bad) > 1 else ''}. Delete them and run the build"
            " again: it makes only what is missing."
        )


def training_segments(
    shards: Shards,
    split: str,
    window: records.Window,
    batch_size: int,
    seed: int = 0,
    first_epoch: int = 0,
    crops_per_clip: int = 0,
    host: int = 0,
    num_hosts: int = 1,
    num_read_threads: int = 8,
    shuffled_samples: int = SHUFFLED_SAMPLES,
    scores_dir: Path | None = None,
) -> tf.data.Dataset:
    """Endless batches of shuffled segments, epoch after epoch.

    The order is a function of seed and epoch alone: a run that starts at epoch 3 reads
    what an uninterrupted one reads there.

    Args:
        shards: Where to read.
        split: Usually "train"; "student" is unlabelled.
        window: How clips are cut; what is left of one is dropped in any case.
        batch_size: Segments per batch; an incomplete last batch of an epoch is dropped.
        seed: Of the order and the crops.
        first_epoch: Epoch to begin with.
        crops_per_clip: 0: an epoch sees every whole segment of every clip. Else so many
            segments that begin anywhere in the clip, drawn anew in every epoch.
        host: Number of this machine. Each reads shards of its own, dealt anew in every
            epoch.
        num_hosts: Machines that train together. Every one's epoch has the same number
            of batches, so in one with a smaller share of shards some segments come
            twice, and some of a larger share wait for another epoch.
        num_read_threads: Shards read at once.
        shuffled_samples: Size of the shuffle buffer, in segments that hold so many.
        scores_dir: Folder with a teacher's scores of every whole segment, a file per
            shard (see `noisy_student.write_scores`); they stand behind the labels.

    Returns:
        Dataset of (segments `shards.dtype` [batch_size, *shape], labels float32
        [batch_size, num_tags], UNLABELLED in the student split); with `scores_dir`
        labels are [batch_size, num_tags + the teacher's]. `batches_per_epoch` of them
        are an epoch.

    Raises:
        ValueError: the records do not hold such segments, the split has no clip, there
            are fewer shards than hosts, or crops of stored scores are asked for.
    """
    _check_window(shards, window, crops_per_clip)
    paths = shards.paths(split)
    if scores_dir and crops_per_clip:
        raise ValueError(
            "A teacher's scores are stored for whole segments, not for random crops."
            " Add --crops-per-clip 0, or let the teacher score live (without"
            " --cache-scores)."
        )
    score_paths = [str((scores_dir or Path()) / Path(path).name) for path in paths]
    if len(paths) < num_hosts:
        raise ValueError(
            f"{shards.directory} has {len(paths)} {split} shards, too few for"
            f" {num_hosts} hosts. Build with a smaller --num-audios-per-shard."
        )
    _keep_freed_memory()
    window = dataclasses.replace(window, remainder="drop")
    num_shuffled = max(1, shuffled_samples // window.num_samples)
    num_batches = None
    if num_hosts > 1:
        num_batches = batches_per_epoch(
            shards, split, window, batch_size, crops_per_clip, num_hosts
        )

    def records_of(path, score_path):
        clips = tf.data.TFRecordDataset(path)
        if not scores_dir:
            return clips
        return tf.data.Dataset.zip((clips, tf.data.TFRecordDataset(score_path)))

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        # The seed of this function's graph alone: without it the order would also hang
        # on the program's global seed, and a global 0 beside a tensor is refused by
        # tf.data.
        tf.random.set_seed(1)
        files = tf.data.Dataset.from_tensor_slices((paths, score_paths))
        # Once: an epoch that a host repeats (below) is of the same shards.
        files = files.shuffle(len(paths), seed + epoch, reshuffle_each_iteration=False)
        files = files.shard(num_hosts, host)
        # One record of each shard in turn, then segments shuffled: neighbours in a
        # batch are of different clips.
        clips = files.interleave(
            records_of,
            cycle_length=num_read_threads,
            num_parallel_calls=num_read_threads,
            deterministic=True,
        )

        def segments_of(index, example):
            example, scores = example if scores_dir else (example, None)
            clip = shards.parse(example)
            labels = tf.cast(clip["labels"], tf.float32)
            if split == "student":
                labels = tf.fill([len(shards.manifest.tags)], UNLABELLED)
            if crops_per_clip:
                clip_seed = tf.stack([seed + epoch, index])
                segments = _crop(clip, window, crops_per_clip, clip_seed)
            else:
                segments = _cut(clip, window)
            labels = _for_each(labels, segments)
            if scores_dir:
                scores = tf.io.decode_raw(scores, tf.float32)
                scores = tf.reshape(scores, [tf.shape(segments)[0], -1])
                labels = tf.concat([labels, scores], axis=1)
            return segments, labels

        segments = clips.enumerate().map(segments_of, tf.data.AUTOTUNE).unbatch()
        segments = segments.shuffle(num_shuffled, seed=seed + epoch)
        if num_batches:  # a host with a smaller share sees some segments twice
            segments = segments.repeat()
        batches = segments.batch(
            batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE
        )
        return batches.take(num_batches) if num_batches else batches

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    return epochs.flat_map(one_epoch).prefetch(tf.data.AUTOTUNE)


def batches_per_epoch(
    shards: Shards,
    split: str,
    window: records.Window,
    batch_size: int,
    crops_per_clip: int = 0,
    num_hosts: int = 1,
) -> int:
    """Batches of `training_segments` (see there) in an epoch of each host."""
    if crops_per_clip:
        num_examples = crops_per_clip * shards.manifest.num_clips(split)
    else:
        window = dataclasses.replace(window, remainder="drop")
        num_examples = num_segments(shards, split, window)
    return num_examples // (batch_size * num_hosts)


@dataclasses.dataclass(frozen=True)
class Source:
    """One of several datasets in a batch.

    Attributes:
        shards: Where to read.
        split: "train", or "student" for unlabelled music.
        weight: Its share of every batch, beside the other sources' weights.
    """

    shards: Shards
    split: str
    weight: float


def mixed_segments(
    sources: Sequence[Source],
    window: records.Window,
    batch_size: int,
    seed: int = 0,
    first_batch: int = 0,
    crops_per_clip: int = 0,
    num_hosts: int = 1,
    **options,
) -> tf.data.Dataset:
    """Endless batches in which each source has its share, the first source's first.

    Labelled and unlabelled music, for the noisy student; or datasets of the same tags.

    Args:
        sources: What to mix.
        window: How clips are cut.
        batch_size: Segments per batch, of all sources together.
        seed: Of order and crops; each source has an order of its own.
        first_batch: Batches to leave out; sources whose epochs differ in length come
            to different places of them.
        crops_per_clip: See `training_segments`.
        num_hosts: See `training_segments`.
        **options: Others of `training_segments`, the same for all sources.

    Returns:
        Dataset of (segments [batch_size, *shape], labels float32 [batch_size,
        num_tags]); labels of unlabelled music are UNLABELLED.

    Raises:
        ValueError: sources disagree on tags, rate or kind of records, a weight is not
            positive, or the batch is too small to hold all sources.
    """
    # Labelled ones first: unlabelled music has no tags to compare.
    first, *others = sorted(sources, key=lambda source: source.split == "student")
    num_tags = len(first.shards.manifest.tags)
    for source in others:
        fields = ["sample_rate", "features", "segment_dtype"]
        fields += ["tags"] * (source.split != "student")
        for field in fields:
            one, other = (getattr(s.shards.manifest, field) for s in (first, source))
            if one != other:
                raise ValueError(
                    f"{first.shards.directory} and {source.shards.directory} do not"
                    f" mix: their {field} are {one} and {other}."
                )
    places = shares([source.weight for source in sources], batch_size)
    parts = []
    for n, (source, share) in enumerate(zip(sources, places, strict=True)):
        part = source.shards, source.split, window, share
        epoch = batches_per_epoch(*part, crops_per_clip, num_hosts)
        if not epoch:
            raise ValueError(
                f"{source.shards.directory} holds fewer {source.split} segments than"
                f" the {share} of one batch. Choose a smaller --batch-size."
            )
        segments = training_segments(
            *part,
            seed=seed + 7919 * n,
            first_epoch=first_batch // epoch,
            crops_per_clip=crops_per_clip,
            num_hosts=num_hosts,
            **options,
        )
        parts.append(segments.skip(first_batch % epoch))

    def join(*batches):
        segments, labels = map(list, zip(*batches, strict=True))
        for n, source in enumerate(sources):
            if source.split == "student":  # perhaps built beside other tags
                scores = labels[n][:, len(source.shards.manifest.tags) :]
                unlabelled = tf.fill([places[n], num_tags], UNLABELLED)
                labels[n] = tf.concat([unlabelled, scores], axis=1)
        return tf.concat(segments, axis=0), tf.concat(labels, axis=0)

    mixed = tf.data.Dataset.zip(tuple(parts)).map(join, tf.data.AUTOTUNE)
    return mixed.prefetch(tf.data.AUTOTUNE)


def shares(weights: list[float], batch_size: int) -> list[int]:
    """Deals the places of a batch: largest remainders get what rounding left.

    Raises:
        ValueError: a weight is not positive, or a source gets no place.
    """
    if min(weights) <= 0:
        raise ValueError(f"Weights of sources must be positive, not {min(weights):g}.")
    exact = np.array(weights) / sum(weights) * batch_size
    dealt = np.floor(exact).astype(int)
    dealt[np.argsort(dealt - exact, kind="stable")[: batch_size - dealt.sum()]] += 1
    if dealt.min() < 1:
        raise ValueError(
            f"A batch of {batch_size} has no place for each of the {len(weights)}"
            f" sources by their weights {', '.join(f'{w:g}' for w in weights)}."
        )
    return dealt.tolist()


def num_segments(shards: Shards, split: str, window: records.Window) -> int:
    """Segments in a split: what one evaluation sees (an epoch: with "drop")."""
    if window == records.Window(shards.manifest.segment_samples):
        return shards.manifest.num_segments(split)
    # The manifest counts whole segments of its own length alone.
    lengths = _clips(shards, split).map(lambda clip: clip["num_samples"])
    return sum(map(window.num_segments, lengths.as_numpy_iterator()))


def evaluation_segments(
    shards: Shards,
    split: str,
    window: records.Window,
    batch_size: int,
    modify: Modify | None = None,
) -> tf.data.Dataset:
    """Every segment of every clip of a split once, in the order of the shards.

    Args:
        shards: Where to read.
        split: "train", "val" or "test".
        window: How clips are cut.
        batch_size: Segments per batch; the last batch may be smaller.
        modify: Changes every clip's waveform before it is cut.

    Returns:
        Dataset of dicts: segments `shards.dtype` [batch, *shape], labels uint8 [batch,
        num_tags], clip_index int64 [batch] (counting clips from 0), clip_id str
        [batch].

    Raises:
        ValueError: the records do not hold such segments, or the split has no clip.
    """
    _check_window(shards, window)

    _keep_freed_memory()

    def cut(index, clip):
        if modify:
            clip |= {"content": _modified(clip["content"], modify)}
        segments = _cut(clip, window)
        return {
            "segments": segments,
            "labels": _for_each(clip["labels"], segments),
            "clip_index": _for_each(index, segments),
            "clip_id": _for_each(clip["clip_id"], segments),
        }

    clips = _clips(shards, split).enumerate()
    segments = clips.map(cut, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    batches = segments.batch(batch_size, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def shard_segments(
    shards: Shards, path: str, window: records.Window
) -> Iterator[np.ndarray]:
    """Whole segments [num_segments, *shape] of each clip of one shard."""
    window = dataclasses.replace(window, remainder="drop")
    clips = tf.data.TFRecordDataset(path).map(shards.parse)
    yield from clips.map(lambda clip: _cut(clip, window)).as_numpy_iterator()


def _modified(waveform: tf.Tensor, modify: Modify) -> tf.Tensor:
    scale = INT16_SCALE if waveform.dtype == tf.int16 else 1.0

    def change(samples):
        changed = modify(samples.astype(np.float32) / scale) * scale
        if waveform.dtype == tf.int16:
            changed = np.clip(np.rint(changed), -INT16_SCALE, INT16_SCALE - 1)
        return changed.astype(samples.dtype)

    changed = tf.numpy_function(change, [waveform], waveform.dtype, stateful=False)
    return tf.ensure_shape(changed, [None])


def export_arrays(
    shards: Shards,
    split: str,
    window: records.Window,
    directory: str | os.PathLike,
    max_segments: int | None = None,
) -> tuple[Path, Path]:
    """Writes whole segments and their labels as .npy, for machines without TensorFlow.

    Args:
        shards: Where to read.
        split: "train", "val" or "test".
        window: How clips are cut.
        directory: Where `<split>_segments.npy` and `<split>_labels.npy` go.
        max_segments: Stop there.

    Returns:
        The paths: segments `shards.dtype` [num_segments, *shape], labels uint8
        [num_segments, num_tags].

    Raises:
        ValueError: as `evaluation_segments`.
    """
    dropped = dataclasses.replace(window, remainder="drop")
    total = num_segments(shards, split, dropped)
    total = min(total, max_segments or total)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    segments = evaluation_segments(shards, split, dropped, 1).take(total)
    parts = {"segments": [], "labels": []}
    for batch in tqdm(
        segments.as_numpy_iterator(), "Exporting", total, unit="segment", disable=None
    ):
        for name, arrays in parts.items():
            arrays.append(batch[name])
    paths = tuple(directory / f"{split}_{name}.npy" for name in parts)
    for path, arrays in zip(paths, parts.values(), strict=True):
        unfinished = path.with_name(f"unfinished-{path.name}")
        np.save(unfinished, np.concatenate(arrays))
        unfinished.replace(path)
    return paths


@contextlib.contextmanager
def naming_corrupt_records(shards: Shards) -> Iterator[None]:
    """Turns TensorFlow's complaint about lost data into ours: file and record."""
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
        for name in shards.manifest.shards:
            for number, example in enumerate(
                records.read_shard(shards.directory / name)
            ):
                try:
                    shards.parse(example)
                except tf.errors.InvalidArgumentError as error:
                    raise records.CorruptShardError(
                        shards.directory / name, number
                    ) from error
        raise


def _for_each(value: tf.Tensor, segments: tf.Tensor) -> tf.Tensor:
    """Repeats what is said of a clip for each of its segments."""
    return tf.repeat(value[None], tf.shape(segments)[0], axis=0)


@functools.cache
def _keep_freed_memory() -> None:
    """Tells glibc to keep freed megabytes for the next clip.

    It would give them back to the system, and every clip would fault its pages in anew:
    reading takes twice as long so. Other C libraries know no `mallopt`.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in (
            (M_MMAP_THRESHOLD, 1 << 25),
            (M_TRIM_THRESHOLD, (1 << 31) - 1),
            (M_ARENA_MAX, 1),
        ):
            mallopt(option, value)


def _clips(shards: Shards, split: str) -> tf.data.Dataset:
    dataset = tf.data.TFRecordDataset(shards.paths(split))
    return dataset.map(shards.parse, num_parallel_calls=tf.data.AUTOTUNE)


# --- Cutting --------------------------------------------------------------------------


def _check_window(
    shards: Shards, window: records.Window, crops_per_clip: int = 0
) -> None:
    """Log-mel records hold segments of one length, which cannot be cut anew."""
    manifest = shards.manifest
    if manifest.features is None:
        return
    if not window.is_plain or window.num_samples != manifest.segment_samples:
        raise ValueError(
            f"{shards.directory} holds the log-mel spectrograms of"
            f" {manifest.segment_samples} samples each; the model takes"
            f" {window.num_samples}{'' if window.is_plain else ' that overlap'}. Build"
            + (
                f" with --num-samples {window.num_samples}."
                if window.is_plain
                else " waveforms (without --features) for it."
            )
        )
    if crops_per_clip:
        raise ValueError(
            f"{shards.directory} holds log-mel spectrograms of whole segments, so"
            " nothing can be cropped at random. Build waveforms (without --features),"
            " or train on whole segments (--crops-per-clip 0)."
        )


def _cut(clip: dict[str, tf.Tensor], window: records.Window) -> tf.Tensor:
    """A parsed clip -> segments [num_segments, *shape]."""
    content = clip["content"]
    if content.shape.rank != 1:  # log-mel, cut by the builder; the last one is padded
        whole = clip["num_samples"] // window.num_samples
        return content if window.remainder == "pad" else content[:whole]
    waveform = _fill(content, window)
    if not window.is_plain:
        edges = [[window.edge_samples, window.edge_samples]]
        waveform = tf.pad(waveform, edges, "REFLECT")
        return tf.signal.frame(waveform, window.num_samples, window.hop_samples)
    rest = tf.size(waveform) % window.num_samples
    if window.remainder == "pad":
        waveform = tf.pad(waveform, [[0, -rest % window.num_samples]])
    else:
        waveform = waveform[: tf.size(waveform) - rest]
    return tf.reshape(waveform, [-1, window.num_samples])


def _crop(
    clip: dict[str, tf.Tensor], window: records.Window, num_crops: int, seed: tf.Tensor
) -> tf.Tensor:
    """A parsed clip -> segments [num_crops, num_samples] that begin anywhere in it."""
    waveform = _fill(clip["content"], window)
    if window.edge_samples:
        edges = [[window.edge_samples, window.edge_samples]]
        waveform = tf.pad(waveform, edges, "REFLECT")
    end = tf.size(waveform) - window.num_samples + 1
    starts = tf.random.stateless_uniform([num_crops], seed, 0, end, tf.int32)
    crops = [
        waveform[start : start + window.num_samples] for start in tf.unstack(starts)
    ]
    return tf.ensure_shape(tf.stack(crops), [num_crops, window.num_samples])


def _fill(waveform: tf.Tensor, window: records.Window) -> tf.Tensor:
    """Repeats a waveform that is shorter than one segment."""
    shortest = window.num_samples - 2 * window.edge_samples
    repeats = -(-shortest // tf.maximum(tf.size(waveform), 1))
    return tf.cond(
        repeats > 1,
        lambda: tf.tile(waveform, [repeats])[:shortest],
        lambda: waveform,  # no copy
    )


# --- Our records ----------------------------------------------------------------------

_SPEC = {
    name: tf.io.FixedLenFeature(
        [], tf.int64 if kind == "integer" else tf.string, default
    )
    for name, kind in records.FEATURES.items()
    for default in [b"" if name == "labels" else None]  # unlabelled music has none
}


def _parser(manifest: records.Manifest) -> Callable[[tf.Tensor], dict]:
    def parse(example: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.io.parse_single_example(example, _SPEC)
        content = tf.io.decode_raw(values["segments"], manifest.segment_dtype)
        if manifest.features:
            content = tf.reshape(content, [-1, *manifest.segment_shape])
        else:
            content = content[: values["num_samples"]]
        return {
            "content": content,
            "num_samples": tf.cast(values["num_samples"], tf.int32),
            "labels": tf.io.decode_raw(values["labels"], records.FEATURES["labels"]),
            "clip_id": values["clip_id"],
        }

    return parse


# --- Shards of the original resemul project -------------------------------------------
# train and val: an Example per segment; test: a SequenceExample per clip.

RESEMUL_PATTERN = "*-????-of-????.*tfrecord"  # .tfrecord and .seq.tfrecord


def _open_resemul_shards(folder: Path) -> Shards:
    manifest = records.Manifest(
        dataset="magnatagatune",
        split_rule="as built by resemul",
        tags=(),
        sample_rate=22050,
        segment_samples=0,
        num_audios_per_shard=0,
        segment_dtype="float32",
        complete=True,
    )
    for path in sorted(folder.glob(RESEMUL_PATTERN)):
        example = next(records.read_shard(path), None)
        if example is None:
            continue
        try:
            content = tf.train.SequenceExample.FromString(example)
            context, sequence = content.context.feature, content.feature_lists
            segments = sequence.feature_list["raw_segments"].feature
            segments = segments or [context["raw_segment"]]
            num_tags = len(context["raw_labels"].bytes_list.value[0])
            manifest.segment_samples = len(segments[0].bytes_list.value[0]) // 4
        except (IndexError, DecodeError) as error:
            raise ValueError(
                f"{path} is a shard of neither this project nor resemul. Build again"
                " (python build_mtt.py), or give another --data-dir."
            ) from error
        num_clips = records.count_records(path)
        manifest.shards[path.name] = records.Shard(
            split=path.name.split("-")[0],
            num_clips=num_clips,
            num_segments=num_clips * len(segments),
            num_bytes=path.stat().st_size,
            sha256="",
        )
    if not manifest.shards:
        raise ValueError(f"The shards in {folder} are empty.")
    manifest.tags = tuple(f"tag {number}" for number in range(1, num_tags + 1))
    warnings.warn(
        f"{folder} was built by resemul: it holds no tag names, only their order.",
        stacklevel=2,
    )
    return Shards(folder, manifest, False, _parse_resemul)


def _parse_resemul(example: tf.Tensor) -> dict[str, tf.Tensor]:
    # An Example read as a SequenceExample is all context.
    context, sequence = tf.io.parse_single_sequence_example(
        example,
        {
            "raw_labels": tf.io.FixedLenFeature([], tf.string),
            "raw_segment": tf.io.FixedLenFeature([], tf.string, b""),
        },
        {
            "raw_segments": tf.io.FixedLenSequenceFeature(
                [], tf.string, allow_missing=True
            )
        },
    )
    segments = context["raw_segment"] + tf.strings.reduce_join(sequence["raw_segments"])
    waveform = tf.io.decode_raw(segments, tf.float32)
    return {
        "content": waveform,
        "num_samples": tf.size(waveform),
        "labels": tf.io.decode_raw(context["raw_labels"], tf.uint8),
        "clip_id": tf.constant(""),
    }
