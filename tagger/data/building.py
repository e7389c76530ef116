"""Annotations and audio files -> shards and their manifest.

Worker processes, on this machine or on a Dask cluster, make one shard at a time. The
result is the same to the byte for any number of workers and interruptions: a shard is
either complete or absent, and a rerun makes those that the manifest does not list yet.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import signal
import subprocess
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from tagger import models, storage
from tagger.audio import AudioDecodeError, stream_audio
from tagger.containers import python_command
from tagger.data import records, tfds, workers
from tagger.data.manifest import MANIFEST_NAME, Manifest, Shard
from tagger.datasets.annotations import Annotations
from tagger.segmentation import INT16_SCALE, Segmentation, cut, to_int16
from tagger.validation import HIGHEST_RATE, LONGEST_SEGMENT

MANIFEST_SECONDS = 1.0  # a killed build loses at most the shards of the last second
MISSING_NAME = "missing.txt"
# Extensions that are tried for a path without one.
ENDINGS = (".mp3", ".wav", ".flac", ".m4a", ".ogg")


def build(
    annotations: Annotations,
    output_dir: str | os.PathLike | storage.Remote,
    sample_rate: int | None = None,
    segment_samples: int | None = None,
    num_audios_per_shard: int = 100,
    features: str | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    num_workers: int | None = None,
    scheduler: str | None = None,
    max_skipped: float = 0.01,
    max_missing: float = 0.01,
) -> Manifest:
    """Decodes, resamples and segments every clip and writes the shards of all splits.

    Args:
        annotations: The clips.
        output_dir: Folder of the shards, or a URL (gs://…); created if necessary.
            Shards of an earlier run of the same build are kept.
        sample_rate: Rate of the waveforms in Hz. Default: that of `features`, or 22050.
        segment_samples: Length of a segment. Default: that of the models with these
            `features`, or 59049.
        num_audios_per_shard: Clips per shard, including those that are later skipped;
            the remainder of a split is spread over its shards.
        features: Key of `frontends.PRESETS` (won2019, won2021 …) or of `models.MODELS`.
            If given, records hold the log-mel spectrogram of every segment instead of
            its waveform.
        dtype: Data type of log-mel spectrograms.
        num_workers: Number of processes on this machine. Default: one per core.
        scheduler: Address of a Dask scheduler whose workers make the shards. They must
            see the audio and the output folder under the same paths.
        max_skipped: Largest share of the existing clips that may be skipped.
        max_missing: Largest share of the clips whose audio file may be missing.

    Returns:
        The manifest, also written to `output_dir/manifest.json`. It lists clips that
        are broken, truncated, empty or shorter than a segment in `skipped`. Clips
        without an audio file are counted, and listed in `output_dir/missing.txt`.

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
            raise ValueError(f"The {name} must be positive, not {value}.")
    for name, value, highest in (
        ("sample rate", sample_rate, HIGHEST_RATE),
        ("segment length", segment_samples, LONGEST_SEGMENT),
    ):
        if value is not None and value > highest:
            raise ValueError(f"The {name} must be at most {highest:,}, not {value:,}.")
    manifest = _plan_manifest(
        annotations, sample_rate, segment_samples, num_audios_per_shard, features, dtype
    )
    audio_dir, output_dir = annotations.audio_dir, storage.location(output_dir)
    if not any(_audio_file(audio_dir / path) for path in annotations.paths):
        raise FileNotFoundError(
            f"None of the {len(annotations):,} annotated clips is in"
            f" {str(audio_dir)!r}; the first should be"
            f" {str(audio_dir / annotations.paths[0])!r}. Give another folder with"
            " --audio-dir."
        )
    with storage.writer_lock(output_dir, "--output-dir"):
        _remove_leftovers(output_dir)
        tasks = _plan_tasks(annotations, manifest, output_dir)
        missing = _adopt_finished_shards(manifest, output_dir, tasks)
        tasks = [task for task in tasks if task.name not in manifest.shards]
        num_workers = num_workers or workers.num_cores()
        _run(tasks, manifest, missing, output_dir, num_workers, scheduler)
        _remove_leftovers(output_dir)
        _write_missing(output_dir, missing)
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
    is_suspect: bool = False  # one of its files may crash the decoder


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
            raise ValueError(
                f"Unknown dtype {dtype!r}. Choose one of: float16, float32."
            )
        log_mel = models.frontends.preset(features)
        if sample_rate not in (None, log_mel.sample_rate):
            raise ValueError(
                f"The features {features} are computed at {log_mel.sample_rate} Hz, not"
                f" at {sample_rate} Hz. Omit --sample-rate."
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


def _build_shard(task: _Task) -> tuple[Shard, list[dict], list[str]]:
    """Writes a shard; returns it, the skipped clips and the paths of missing ones."""
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
                if task.is_suspect:
                    _decode_apart(path, task.sample_rate)
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
    return shard, skipped, missing


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


def _decode_apart(path: Path, sample_rate: int) -> None:
    """Decodes a file in a separate process, which contains a crash of the decoder.

    Raises:
        AudioDecodeError: the decoder crashed.
    """
    code = (
        "from tagger import audio\n"
        "for block in audio.stream_audio(sys.argv[2], int(sys.argv[3])): pass"
    )
    command = python_command(code, str(path), str(sample_rate))
    done = subprocess.run(command, capture_output=True)
    if done.returncode == -signal.SIGKILL:
        raise OSError(f"Decoding {path} was killed, perhaps for lack of memory.")
    if done.returncode < 0:  # a signal; Python errors recur in the real decoding
        name = signal.Signals(-done.returncode).name
        raise AudioDecodeError(path, f"it crashes the decoder ({name})")


SEGMENTS_AT_ONCE = 16  # batch size of the frontend; bounds the memory for a long file


def _log_mel(segments: np.ndarray, preset: str) -> np.ndarray:
    """int16 [segments, num_samples] -> float32 [segments, num_frames, n_mels]."""
    frontend = _frontend(preset)
    waveforms = segments.astype(np.float32) / INT16_SCALE
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


# --- All shards -----------------------------------------------------------------------


def _adopt_finished_shards(
    manifest: Manifest, output_dir: Path | storage.Remote, tasks: list[_Task]
) -> list[str]:
    """Adopts the shards of an earlier run of the same build, interrupted or not.

    A shard is made again if its file is gone or has another size, if a missing clip of
    it has appeared, or if a skipped clip of it has changed. Clips whose audio has
    disappeared stay in their shards. Returns the paths of the clips that are missing
    from the adopted shards.
    """
    if not (output_dir / MANIFEST_NAME).exists():
        return []
    earlier = Manifest.load(output_dir)
    for field in (
        "dataset", "split_rule", "sample_rate", "segment_samples", "features",
        "segment_dtype", "num_audios_per_shard", "tags", "planned",
        "annotations_sha256",
    ):  # fmt: skip
        held, asked = getattr(earlier, field), getattr(manifest, field)
        if held != asked:
            raise ValueError(
                f"{output_dir} holds another build: its {field} is {held}, but this"
                f" build's is {asked}. Choose another --output-dir, or delete that"
                " folder."
            )
    if earlier.shards and earlier.versions != manifest.versions:
        warnings.warn(
            f"{output_dir} was begun with {earlier.versions}; its shards are kept, and"
            f" new ones are made with {manifest.versions}.",
            stacklevel=3,
        )
    listed, skipped = _read_missing(output_dir), {}
    for skip in earlier.skipped:
        skipped.setdefault(skip["shard"], []).append(skip)
    all_missing = []
    for task in tqdm(tasks, "Checking existing shards", unit="shard", disable=None):
        shard = earlier.shards.get(task.name)
        if shard is None:
            continue
        missing = [path for path in task.paths if path in listed]
        if len(missing) != shard.num_missing:  # a killed build did not write its list
            missing = task.paths if shard.num_missing else []
        missing = [p for p in missing if _audio_file(task.audio_dir / p) is None]
        if (
            storage.num_bytes(output_dir / task.name) == shard.num_bytes
            and len(missing) >= shard.num_missing
            and all(
                skip["size"] == _audio_bytes(task.audio_dir / skip["path"])
                for skip in skipped.get(task.name, ())
            )
        ):
            manifest.shards[task.name] = shard
            manifest.skipped += skipped.get(task.name, ())
            all_missing += missing
    return all_missing


def _remove_leftovers(output_dir: Path | storage.Remote) -> None:
    """Removes the unfinished files of workers that were killed.

    Behind a URL, where no lock is held, they may belong to another build.
    """
    if isinstance(output_dir, storage.Remote):
        return
    for pattern in (f"{storage.UNFINISHED}*", ".*.tmp"):  # the latter until 2026-11-24
        for leftover in output_dir.glob(pattern):
            leftover.unlink(missing_ok=True)


def _run(
    tasks: list[_Task],
    manifest: Manifest,
    missing: list[str],
    output_dir: Path | storage.Remote,
    num_workers: int,
    scheduler: str | None,
) -> None:
    """Makes the shards and adds each one to the manifest when it is done."""
    if not tasks:
        return
    manifest.save(output_dir)
    next_save = time.monotonic() + MANIFEST_SECONDS
    num_clips = sum(manifest.planned.values())
    progress = tqdm(
        total=num_clips,
        initial=num_clips - sum(len(task.paths) for task in tasks),
        desc="Building",
        unit="clip",
        disable=None,
    )

    def on_result(task: _Task, made: tuple[Shard, list[dict], list[str]]) -> None:
        nonlocal next_save
        if task.name in manifest.shards:
            return
        manifest.shards[task.name], skipped, absent = made
        manifest.skipped += skipped
        missing.extend(absent)
        progress.update(len(task.paths))
        if time.monotonic() > next_save:
            started = time.monotonic()
            manifest.save(output_dir)
            # Saving a manifest of 10,000 shards must not dominate the work.
            seconds = time.monotonic() - started
            next_save = time.monotonic() + max(MANIFEST_SECONDS, 20 * seconds)

    def make(tasks: list[_Task]) -> None:
        workers.run(_build_shard, tasks, on_result, num_workers, scheduler)

    try:
        with progress:
            # Long shards come first, so that the workers finish together.
            tasks = sorted(tasks, key=lambda task: -len(task.paths))
            while tasks:
                try:
                    make(tasks)
                except workers.WorkersDied:
                    # One of the first tasks left must have killed them.
                    tasks = [t for t in tasks if t.name not in manifest.shards]
                    suspects = [
                        dataclasses.replace(task, is_suspect=True)
                        for task in tasks[: 2 * num_workers]
                    ]
                    make(suspects)
                tasks = [t for t in tasks if t.name not in manifest.shards]
    except OSError as error:
        if error.errno is not None:  # a full disk, which writer_lock explains
            raise
        absent = [task.name for task in tasks if task.name not in manifest.shards]
        raise OSError(
            f"{error} {len(absent)} shards are missing{', ' * bool(absent)}"
            f"{', '.join(absent[:3])}; run the same command again to make them."
        ) from error
    finally:
        # On a full disk, the first error is the one to report.
        with contextlib.suppress(OSError):
            _write_missing(output_dir, missing)
            manifest.save(output_dir)


# One path per line. Line breaks and bytes that are not UTF-8 are escaped as in JSON.


def _write_missing(output_dir: Path | storage.Remote, paths: list[str]) -> None:
    text = "".join(
        json.dumps(path, ensure_ascii=False)[1:-1] + "\n" for path in sorted(paths)
    )
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    storage.write_text_atomically(output_dir / MISSING_NAME, text)


def _read_missing(output_dir: Path | storage.Remote) -> set[str]:
    path = output_dir / MISSING_NAME
    if not path.exists():
        return set()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return {json.loads(f'"{line}"') for line in lines if line}
    except ValueError as error:
        raise ValueError(
            f"{path} is not a list of missing clips. Delete it and build again."
        ) from error


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
        raise ValueError(
            f"The audio of {missing} of {planned} clips is missing, more than"
            f" --max-missing {max_missing:g} allows. All are listed in"
            f" {output_dir / MISSING_NAME}; {rest}"
        )
    if len(manifest.skipped) > max_skipped * (planned - missing):
        first = manifest.skipped[0]
        raise ValueError(
            f"{len(manifest.skipped)} of {planned - missing} clips were skipped, more"
            f" than --max-skipped {max_skipped:g} allows; the first is"
            f" {first['path']!r}: {first['reason']}. All are listed in"
            f" {output_dir / MANIFEST_NAME}; {rest}"
        )
