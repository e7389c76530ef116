"""Annotations and audio files -> shards and their manifest.

Worker processes, on this machine or on a Dask cluster, make one shard at a time. The
result is the same to the byte for any number of workers and interruptions: a shard is
either complete or absent, and a rerun makes those that have no sidecar yet.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tqdm import tqdm

from tagger import models, storage
from tagger.audio import AudioDecodeError, stream_audio
from tagger.data import records, tfds, workers
from tagger.data.manifest import MANIFEST_NAME, Manifest, Shard, Sidecar
from tagger.datasets.annotations import Annotations
from tagger.options import Option
from tagger.segmentation import Segmentation, cut, to_float, to_int16
from tagger.text import TaggerError
from tagger.validation import HIGHEST_RATE, LONGEST_SEGMENT

# Extensions that are tried for a path without one.
ENDINGS = (".mp3", ".wav", ".flac", ".m4a", ".ogg")


def build(
    annotations: Annotations,
    output_dir: str | os.PathLike | storage.Remote,
    sample_rate: Annotated[int | None, Option(ge=1)] = None,
    segment_samples: Annotated[int | None, Option(ge=1, flag="--num-samples")] = None,
    num_audios_per_shard: Annotated[int, Option(ge=1)] = 100,
    features: Annotated[str | None, Option(metavar="NAME")] = None,
    dtype: Literal["float16", "float32"] = "float16",
    num_workers: Annotated[int | None, Option(ge=1)] = None,
    scheduler: Annotated[str | None, Option(metavar="ADDRESS")] = None,
    max_skipped: Annotated[float, Option(ge=0, le=1)] = 0.01,
    max_missing: Annotated[float, Option(ge=0, le=1)] = 0.01,
) -> Manifest:
    """Decodes, resamples and segments every clip and writes the shards of all splits.

    Args:
        annotations: The clips.
        output_dir: Folder of the shards, or a URL (gs://…); created if necessary.
            Shards of an earlier run of the same build are kept.
        sample_rate: Rate of the waveforms in Hz; None: that of the features, or 22050.
        segment_samples: Length of a segment in samples; None: that of the models with
            these features, or 59049.
        num_audios_per_shard: Clips per shard, including those that are later skipped;
            the remainder of a split is spread over its shards.
        features: Model or preset (musicnn, won2019 …) whose log-mel spectrogram is
            written of every segment, instead of its waveform.
        dtype: Data type of log-mel spectrograms.
        num_workers: Number of processes on this machine; None: one per core that this
            process may use.
        scheduler: Address of a Dask scheduler whose workers make the shards. They must
            see the audio and the output folder under the same paths.
        max_skipped: Largest share of the existing clips that may be skipped.
        max_missing: Largest share of the clips whose audio file may be missing.

    Returns:
        The manifest, also written to `output_dir/manifest.json`. It lists clips that
        are broken, truncated, empty or shorter than a segment in `skipped`. Clips
        without an audio file are counted, and listed in the sidecars of the shards.

    Raises:
        FileNotFoundError: none of the clips is in `annotations.audio_dir`.
        ValueError: an argument is invalid, the folder holds another build, or too many
            clips were skipped or missing (all others are written before that).
        OSError: the folder cannot be written, or the disk is full.
    """
    if features and (segment_samples is None or features in models.MODELS):
        features, usual = models.registry.features_of(features)
        segment_samples = segment_samples or usual
    if segment_samples is None:
        segment_samples = records.SEGMENT_SAMPLES
    for name, value in {
        "sample rate": 1 if sample_rate is None else sample_rate,
        "number of samples per segment": segment_samples,
        "number of audios per shard": num_audios_per_shard,
        "number of workers": 1 if num_workers is None else num_workers,
    }.items():
        if value < 1:
            raise TaggerError(f"The {name} must be positive, not {value}.")
    for name, value, highest in (
        ("sample rate", sample_rate, HIGHEST_RATE),
        ("segment length", segment_samples, LONGEST_SEGMENT),
    ):
        if value is not None and value > highest:
            raise TaggerError(f"The {name} must be at most {highest:,}, not {value:,}.")
    manifest = _plan_manifest(
        annotations, sample_rate, segment_samples, num_audios_per_shard, features, dtype
    )
    audio_dir, output_dir = annotations.audio_dir, storage.location(output_dir)
    if not any(_audio_file(audio_dir / path) for path in annotations.paths):
        raise FileNotFoundError(
            f"None of the {len(annotations):,} annotated clips is in"
            f" {str(audio_dir)!r}; the first should be"
            f" {str(audio_dir / annotations.paths[0])!r}. Give another folder with"
            " `audio_dir=`."
        )
    with storage.writer_lock(output_dir, "`output_dir=`"):
        _remove_leftovers(output_dir)
        _check_earlier_build(manifest, output_dir)
        waiting = []
        tasks = _plan_tasks(annotations, manifest, output_dir)
        for task in tqdm(tasks, "Checking", unit="shard", delay=2, disable=None):
            if made := _finished(task):
                manifest.add(task.name, made)
            else:
                waiting.append(task)
        if waiting:
            plan = dataclasses.replace(manifest, shards={}, skipped=[])
            plan.save(output_dir)
        with _progress(tasks, waiting) as progress:
            num_workers = num_workers or workers.num_cores()
            for task, made in _make(waiting, num_workers, scheduler):
                manifest.add(task.name, made)
                progress.update(len(task.paths))
        _remove_leftovers(output_dir)
        manifest.complete = True
        for name, content in tfds.metadata(manifest).items():
            storage.write_text_atomically(
                output_dir / name, json.dumps(content, indent=1) + "\n"
            )
        manifest.save(output_dir)
    _check_share(manifest, output_dir, max_skipped, max_missing)
    return manifest


def summary(manifest: Manifest, output_dir: str | os.PathLike) -> str:
    """Returns a summary of a build in a few lines of text."""
    content = f"{manifest.segment_samples} samples"
    if manifest.features:
        frames, n_mels = manifest.segment_shape
        content += f" as {frames} x {n_mels} log-mel ({manifest.features},"
        content += f" {manifest.segment_dtype})"
    lines = [f"{manifest.dataset} ({manifest.split_rule}), {manifest.sample_rate} Hz:"]
    for split, num_planned in manifest.planned.items():
        published = manifest.published.get(split)
        missing = manifest.num_missing(split)
        lines.append(
            f"  {split:7} {num_planned:7,} clips"
            + (f" (published: {published:,})" if published else "")
            + (f", {missing:,} without audio" if missing else "")
            + f"; {manifest.num_clips(split):,} written in"
            f" {len(manifest.shard_names(split))} shards,"
            f" {manifest.num_segments(split):,} whole segments of {content}"
        )
    skipped = f"  {len(manifest.skipped)} clips skipped"
    if manifest.skipped:
        first = ", ".join(skip["path"] for skip in manifest.skipped[:3])
        skipped += f" (reasons in {MANIFEST_NAME}): {first}"
    lines.append(skipped + (" …" if len(manifest.skipped) > 3 else ""))
    lines.append(f"Shards and {MANIFEST_NAME} are in {output_dir}")
    return "\n".join(lines)


# --- The plan -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Task:
    """The clips of one shard and everything that is needed to make it."""

    name: str
    split: str
    clip_ids: list[str]
    paths: list[str]
    labels: np.ndarray | None  # [num_clips, num_tags]; None for unlabelled music
    audio_dir: Path
    output_dir: Path | storage.Remote
    sample_rate: int
    segment_samples: int
    features: str | None
    dtype: str
    # Reason by path of the clips that kill the process that decodes them.
    fatal: dict[str, str] = dataclasses.field(default_factory=dict)


def _plan_manifest(
    annotations: Annotations,
    sample_rate: int | None,
    segment_samples: int,
    num_audios_per_shard: int,
    features: str | None,
    dtype: str,
) -> Manifest:
    """Returns the manifest of a build before its first shard."""
    versions = {name: metadata.version(name) for name in ("av", "numpy")}
    shape = (segment_samples,)
    if features is None:
        dtype = "int16"
    else:
        if dtype not in ("float16", "float32"):
            raise TaggerError(
                f"Unknown dtype {dtype!r}. Choose one of: float16, float32."
            )
        log_mel = models.presets.preset(features)
        if sample_rate not in (None, log_mel.sample_rate):
            raise TaggerError(
                f"The features {features} are computed at {log_mel.sample_rate} Hz, not"
                f" at {sample_rate} Hz. Omit `sample_rate=`."
            )
        sample_rate = log_mel.sample_rate
        shape = (log_mel.num_frames(segment_samples), log_mel.n_mels)
        for name in ("keras", "tensorflow"):
            with contextlib.suppress(metadata.PackageNotFoundError):  # tensorflow-cpu
                versions[name] = metadata.version(name)
    folds = {}
    if annotations.folds is not None:
        ids = annotations.clip_ids.tolist()
        pairs = zip(ids, annotations.folds.tolist(), strict=True)
        folds = {clip_id: fold for clip_id, fold in pairs if fold >= 0}
    return Manifest(
        folds=folds,
        dataset=annotations.dataset,
        split_rule=annotations.split_rule,
        tags=annotations.tags,
        sample_rate=sample_rate or records.SAMPLE_RATE,
        segment_samples=segment_samples,
        num_audios_per_shard=num_audios_per_shard,
        features=features,
        segment_dtype=dtype,
        segment_shape=shape,
        annotations_sha256=annotations.sha256(),
        planned=annotations.counts(),
        published=annotations.published,
        versions=versions,
    )


def _plan_tasks(
    annotations: Annotations,
    manifest: Manifest,
    output_dir: Path | storage.Remote,
) -> list[_Task]:
    local = isinstance(output_dir, Path)
    return [
        _Task(
            name=name,
            split=(split := str(annotations.splits[clips[0]])),
            clip_ids=annotations.clip_ids[clips].tolist(),
            paths=annotations.paths[clips].tolist(),
            labels=None if split == "student" else annotations.labels[clips],
            # Absolute paths: workers may have another working directory.
            audio_dir=annotations.audio_dir.absolute(),
            output_dir=output_dir.absolute() if local else output_dir,
            sample_rate=manifest.sample_rate,
            segment_samples=manifest.segment_samples,
            features=manifest.features,
            dtype=manifest.segment_dtype,
        )
        for name, clips in _plan_shards(
            annotations, manifest.num_audios_per_shard
        ).items()
    ]


def _plan_shards(
    annotations: Annotations, num_audios_per_shard: int
) -> dict[str, np.ndarray]:
    """Deals the clips of each split to shards: shard name -> rows of the annotations.

    The order is that of a hash of the clip id, which separates neighbours in the list,
    which often share an artist.
    """
    keys = [
        hashlib.sha256(clip_id.encode()).digest() for clip_id in annotations.clip_ids
    ]
    order = np.array(sorted(range(len(annotations)), key=keys.__getitem__))
    plan = {}
    for split, num_clips in annotations.counts().items():
        clips = order[annotations.splits[order] == split]
        num_shards = max(1, num_clips // num_audios_per_shard)
        for shard, rows in enumerate(np.array_split(clips, num_shards)):
            plan[records.shard_name(split, shard, num_shards)] = rows
    return plan


# --- One shard: the work of one worker process ----------------------------------------


def _build_shard(task: _Task) -> Sidecar:
    """Writes a shard, and its sidecar beside it."""
    skipped, missing, num_segments = [], [], 0
    with records.ShardWriter(task.output_dir / task.name) as writer:
        for row, (clip_id, clip) in enumerate(
            zip(task.clip_ids, task.paths, strict=True)
        ):
            path = _audio_file(task.audio_dir / clip)
            if path is None:
                missing.append(clip)
                continue
            try:
                if clip in task.fatal:
                    raise AudioDecodeError(path, task.fatal[clip])
                waveform = _load_clip(path, task.sample_rate, task.segment_samples)
            except AudioDecodeError as error:
                skipped.append(
                    {
                        "clip_id": clip_id,
                        "path": clip,
                        "reason": error.reason,
                        "shard": task.name,
                        "size": _audio_bytes(path),
                    }
                )
                continue
            rule = Segmentation(task.segment_samples, "pad")
            segments = cut(waveform, rule)
            if task.features:
                segments = _log_mel(segments, task.features).astype(task.dtype)
            labels = None if task.labels is None else task.labels[row]
            writer.write(records.encode(clip_id, segments, len(waveform), labels))
            num_segments += len(waveform) // task.segment_samples
    shard = Shard(
        split=task.split,
        num_clips=writer.num_records,
        num_segments=num_segments,
        num_bytes=writer.num_bytes,
        sha256=writer.sha256,
        num_missing=len(missing),
    )
    made = Sidecar(shard, skipped, missing)
    made.save(task.output_dir / task.name)
    return made


def _audio_file(path: Path) -> Path | None:
    """Returns the file of a clip, with its extension, or None if it is missing."""
    if os.path.lexists(path):  # a broken link is not missing; it fails to decode
        return path
    if not path.suffix:
        for ending in ENDINGS:
            if os.path.lexists(f"{path}{ending}"):
                return Path(f"{path}{ending}")
    return None


def _audio_bytes(path: Path) -> int | None:
    """Returns the size of a clip's file, or None if it is missing or unreadable."""
    file = _audio_file(path)
    return storage.num_bytes(file) if file and os.access(file, os.R_OK) else None


def _load_clip(path: Path, sample_rate: int, segment_samples: int) -> np.ndarray:
    """Decodes a clip to int16 block by block; float32 would take twice the memory."""
    blocks = [to_int16(block) for block in stream_audio(path, sample_rate)]
    waveform = np.concatenate(blocks)
    if len(waveform) < segment_samples:
        seconds, needed = len(waveform) / sample_rate, segment_samples / sample_rate
        reason = f"it is {seconds:.1f} s long, shorter than a segment ({needed:.1f} s)"
        raise AudioDecodeError(path, reason)
    return waveform


SEGMENTS_AT_ONCE = 16  # batch size of the frontend; bounds the memory for a long file


def _log_mel(segments: np.ndarray, preset: str) -> np.ndarray:
    """int16 [segments, num_samples] -> float32 [segments, num_frames, n_mels]."""
    frontend = _frontend(preset)
    waveforms = to_float(segments)
    return np.concatenate(
        [
            np.asarray(frontend(waveforms[at : at + SEGMENTS_AT_ONCE]))
            for at in range(0, len(waveforms), SEGMENTS_AT_ONCE)
        ]
    )


@functools.cache
def _frontend(preset: str):
    # TensorFlow runs on one thread here and does not use accelerators. Another number
    # of threads would change the order of additions, and so the bytes of the result.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    tf = storage.tensorflow()
    with contextlib.suppress(RuntimeError):  # a cluster worker may have used it
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")
    # On CPUs, models run a convolution: half as fast as the FFT, and within 2e-3 dB.
    return models.frontends.LogMelSpectrogram(preset, fourier="fft")


def _progress(tasks: list[_Task], waiting: list[_Task]) -> tqdm:
    num_clips, num_left = (sum(len(t.paths) for t in ts) for ts in (tasks, waiting))
    done = num_clips - num_left
    return tqdm(None, "Building", num_clips, initial=done, unit="clip", disable=None)


# --- All shards -----------------------------------------------------------------------


def _check_earlier_build(manifest: Manifest, output_dir: Path | storage.Remote) -> None:
    """Checks that the shards of a folder, if it holds any, are of the same build."""
    if not (output_dir / MANIFEST_NAME).exists():
        # Sidecars without a manifest are those of another build.
        for stale in output_dir.glob("*.tfrecord.json"):
            stale.unlink()
        return
    earlier = Manifest.load(output_dir)
    for field in (
        "dataset", "split_rule", "sample_rate", "segment_samples", "features",
        "segment_dtype", "num_audios_per_shard", "tags", "planned",
        "annotations_sha256",
    ):  # fmt: skip
        held, asked = getattr(earlier, field), getattr(manifest, field)
        if held != asked:
            raise TaggerError(
                f"{output_dir} holds another build: its {field} is {held}, but this"
                f" build's is {asked}. Choose another `output_dir=`, or delete that"
                " folder."
            )
    if earlier.shards and not any(output_dir.glob("*.tfrecord.json")):
        raise TaggerError(
            f"{output_dir} holds shards without the .json files that belong beside"
            " them, so this build cannot continue there. Use the shards as they are,"
            " choose another `output_dir=`, or delete that folder."
        )
    if earlier.shards and earlier.versions != manifest.versions:
        warnings.warn(
            f"{output_dir} was begun with {earlier.versions}; its shards are kept, and"
            f" new ones are made with {manifest.versions}.",
            stacklevel=3,
        )


def _finished(task: _Task) -> Sidecar | None:
    """Returns the sidecar of a shard that need not be made.

    A shard is made again if its file is gone or has another size, if a missing clip of
    it has appeared, or if a skipped clip of it has changed. Clips whose audio has
    disappeared stay in their shards.
    """
    path = task.output_dir / task.name
    made = Sidecar.load(path)
    if made is None or len(made.missing) != made.shard.num_missing:
        return None
    is_same = (
        storage.num_bytes(path) == made.shard.num_bytes
        and not any(_audio_file(task.audio_dir / missed) for missed in made.missing)
        and all(
            skip["size"] == _audio_bytes(task.audio_dir / skip["path"])
            for skip in made.skipped
        )
    )
    return made if is_same else None


def _remove_leftovers(output_dir: Path | storage.Remote) -> None:
    """Removes the unfinished files of workers that were killed.

    Behind a URL, where no lock is held, they may belong to another build.
    """
    if isinstance(output_dir, storage.Remote):
        return
    for leftover in output_dir.glob(f"{storage.UNFINISHED}*"):
        leftover.unlink(missing_ok=True)


def _make(
    tasks: list[_Task], num_workers: int, scheduler: str | None
) -> Iterator[tuple[_Task, Sidecar]]:
    """Makes shards in worker processes, and yields each with its sidecar.

    If a shard kills its worker, its clips are decoded one by one, and those that kill
    theirs are skipped.
    """
    # Long shards come first, so that the workers finish together.
    tasks = sorted(tasks, key=lambda task: -len(task.paths))
    for task, made in workers.stream(_build_shard, tasks, num_workers, scheduler):
        if isinstance(made, workers.WorkersDied):
            probes = [dataclasses.replace(task, paths=[path]) for path in task.paths]
            decoded = workers.stream(_decode, probes, num_workers, scheduler)
            fatal = {
                probe.paths[0]: str(result)
                for probe, result in decoded
                if isinstance(result, workers.WorkersDied)
            }
            again = dataclasses.replace(task, fatal=fatal)
            ((_, made),) = workers.stream(_build_shard, [again], 1, scheduler)
            if isinstance(made, workers.WorkersDied):
                raise OSError(
                    f"Making {task.name} killed its worker again, perhaps for lack of"
                    " memory. Run the same command with fewer `num_workers=`."
                )
        yield task, made


def _decode(task: _Task) -> None:
    """Decodes the one clip of a task, if it can be decoded."""
    path = _audio_file(task.audio_dir / task.paths[0])
    if path:
        with contextlib.suppress(AudioDecodeError):
            for _ in stream_audio(path, task.sample_rate):
                pass


def _check_share(
    manifest: Manifest,
    output_dir: Path | storage.Remote,
    max_skipped: float,
    max_missing: float,
) -> None:
    planned = sum(manifest.planned.values())
    missing = sum(shard.num_missing for shard in manifest.shards.values())
    rest = "the other clips are written and can be used."
    if missing > max_missing * planned:
        raise TaggerError(
            f"The audio of {missing} of {planned} clips is missing, more than"
            f" `max_missing={max_missing:g}` allows. They are listed in the .json file"
            f" beside each shard in {output_dir}; {rest}"
        )
    if len(manifest.skipped) > max_skipped * (planned - missing):
        first = manifest.skipped[0]
        raise TaggerError(
            f"{len(manifest.skipped)} of {planned - missing} clips were skipped, more"
            f" than `max_skipped={max_skipped:g}` allows; the first is"
            f" {first['path']!r}: {first['reason']}. All are listed in"
            f" {output_dir / MANIFEST_NAME}; {rest}"
        )
