"""Annotations and audio files -> shards and their manifest.

A pool of processes makes one shard each. What comes out is the same to the byte for any
number of workers and however often the build was interrupted: a shard is whole or
absent, and a rerun makes what the manifest does not list yet.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tagger import records
from tagger.audio import AudioDecodeError, stream_audio
from tagger.datasets.annotations import Annotations

MANIFEST_SECONDS = 1.0  # a kill loses at most the shards of the last second


def build(
    annotations: Annotations,
    audio_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    sample_rate: int,
    segment_samples: int,
    num_audios_per_shard: int,
    num_workers: int | None = None,
    max_skipped: float = 0.01,
) -> records.Manifest:
    """Decodes, resamples and segments every clip and writes the shards of all splits.

    Args:
        annotations: The clips.
        audio_dir: Folder the clips' paths are relative to.
        output_dir: Folder of the shards; made if need be. What is there already is
            kept.
        sample_rate: Rate of the waveforms in Hz.
        segment_samples: Length of a segment.
        num_audios_per_shard: Clips per shard, before clips are skipped; the remainder
            of a split is spread over its shards.
        num_workers: Processes; None takes one per core.
        max_skipped: Largest share of clips that may be skipped.

    Returns:
        The manifest, also written to `output_dir/manifest.json`. Clips that are broken,
        truncated, empty, missing or shorter than a segment stand in `skipped`.

    Raises:
        FileNotFoundError: none of the clips is in `audio_dir`.
        ValueError: an argument is out of range, the folder holds another build, or too
            many clips were skipped (everything else is then written and listed).
        OSError: the folder cannot be written, or the disk is full.
    """
    for name, value in {
        "sample rate": sample_rate,
        "number of samples per segment": segment_samples,
        "number of audios per shard": num_audios_per_shard,
        "number of workers": num_workers or 1,
    }.items():
        if value < 1:
            raise ValueError(f"The {name} must be positive, not {value}.")
    audio_dir, output_dir = Path(audio_dir), Path(output_dir)
    if not any((audio_dir / path).exists() for path in annotations.paths):
        raise FileNotFoundError(
            f"None of the {len(annotations):,} annotated clips is in"
            f" {str(audio_dir)!r}; the first should be"
            f" {str(audio_dir / annotations.paths[0])!r}."
        )
    manifest = records.Manifest(
        dataset=annotations.dataset,
        split_rule=annotations.split_rule,
        tags=annotations.tags,
        sample_rate=sample_rate,
        segment_samples=segment_samples,
        num_audios_per_shard=num_audios_per_shard,
        annotations_sha256=annotations.sha256(),
        planned=annotations.counts(),
        versions={name: metadata.version(name) for name in ("av", "numpy")},
    )
    with records.only_writer(output_dir, "--output-dir"):
        plan = _plan_shards(annotations, num_audios_per_shard)
        _take_over(manifest, output_dir, audio_dir, plan)
        tasks = [
            _Task(
                name=name,
                split=str(annotations.splits[clips[0]]),
                clip_ids=annotations.clip_ids[clips].tolist(),
                paths=annotations.paths[clips].tolist(),
                labels=annotations.labels[clips],
                audio_dir=audio_dir,
                output_dir=output_dir,
                sample_rate=sample_rate,
                segment_samples=segment_samples,
            )
            for name, clips in plan.items()
            if name not in manifest.shards
        ]
        _run(tasks, manifest, output_dir, num_workers or os.cpu_count())
        manifest.complete = True
        for name, content in records.tfds_metadata(manifest).items():
            records.write_text_atomically(
                output_dir / name, json.dumps(content, indent=1) + "\n"
            )
        manifest.save(output_dir)
    _check_skipped(manifest, output_dir, max_skipped)
    return manifest


def summary(manifest: records.Manifest, output_dir: str | os.PathLike) -> str:
    """What a build made, in a few lines for people."""
    lines = [f"{manifest.dataset} ({manifest.split_rule}), {manifest.sample_rate} Hz:"]
    for split in manifest.splits:
        lines.append(
            f"  {split:7} {manifest.num_clips(split):6,} clips in"
            f" {len(manifest.shard_names(split)):4} shards,"
            f" {manifest.num_segments(split):7,} whole segments of"
            f" {manifest.segment_samples} samples"
        )
    skipped = f"  {len(manifest.skipped)} clips skipped"
    if manifest.skipped:
        first = ", ".join(skip["path"] for skip in manifest.skipped[:3])
        skipped += f" (reasons in {records.MANIFEST_NAME}): {first}"
    lines.append(skipped + (" …" if len(manifest.skipped) > 3 else ""))
    lines.append(f"Shards and {records.MANIFEST_NAME} are in {output_dir}")
    return "\n".join(lines)


# --- One shard: what a worker process does --------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Task:
    """The clips of one shard and all it takes to make it."""

    name: str
    split: str
    clip_ids: list[str]
    paths: list[str]
    labels: np.ndarray  # [num_clips, num_tags]
    audio_dir: Path
    output_dir: Path
    sample_rate: int
    segment_samples: int


def _build_shard(task: _Task) -> tuple[records.Shard, list[dict[str, str]]]:
    skipped, num_segments = [], 0
    path = task.output_dir / task.name
    with records.ShardWriter(path) as writer:
        for clip_id, clip, labels in zip(
            task.clip_ids, task.paths, task.labels, strict=True
        ):
            try:
                waveform = _load_clip(
                    task.audio_dir / clip, task.sample_rate, task.segment_samples
                )
            except AudioDecodeError as error:
                skipped.append(
                    {
                        "clip_id": clip_id,
                        "path": clip,
                        "reason": error.reason,
                        "shard": task.name,
                        "size": _size(task.audio_dir / clip),
                    }
                )
                continue
            if task.split == "student":
                labels = None  # unlabelled music has no labels, not labels of zeros
            writer.write(
                records.encode(clip_id, waveform, labels, task.segment_samples)
            )
            num_segments += len(waveform) // task.segment_samples
    num_bytes = path.stat().st_size
    shard = records.Shard(
        task.split, writer.num_records, num_segments, num_bytes, writer.sha256
    )
    return shard, skipped


def _size(path: Path) -> int | None:
    """Bytes of a file; None if it is not there."""
    return path.stat().st_size if path.is_file() else None


def _load_clip(path: Path, sample_rate: int, segment_samples: int) -> np.ndarray:
    """Decodes to int16 block by block: an hour of music takes 160 MB, little more."""
    blocks = [records.to_int16(block) for block in stream_audio(path, sample_rate)]
    waveform = np.concatenate(blocks)
    if len(waveform) < segment_samples:
        seconds, needed = len(waveform) / sample_rate, segment_samples / sample_rate
        reason = f"{seconds:.1f} s are shorter than one segment ({needed:.1f} s)"
        raise AudioDecodeError(path, reason)
    return waveform


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone decides what it
    # means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # the parent was killed; nobody waits for this shard


# --- All shards -----------------------------------------------------------------------


def _plan_shards(
    annotations: Annotations, num_audios_per_shard: int
) -> dict[str, np.ndarray]:
    """Deals the clips of a split to its shards: shard name -> rows of the annotations.

    By hash of the id, so that neighbours in the list (one artist, often) part.
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


def _take_over(
    manifest: records.Manifest,
    output_dir: Path,
    audio_dir: Path,
    plan: dict[str, np.ndarray],
) -> None:
    """Adopts the shards of an earlier, perhaps interrupted run of the same build.

    A shard is made again when its file is gone or has another size, and when a clip
    that it skipped has come or changed since.
    """
    for leftover in output_dir.glob(".*-of-*.tfrecord.*.tmp"):
        leftover.unlink()
    if not (output_dir / records.MANIFEST_NAME).exists():
        return
    earlier = records.Manifest.load(output_dir)
    for field in (
        "dataset", "split_rule", "sample_rate", "segment_samples",
        "num_audios_per_shard", "tags", "planned", "annotations_sha256",
    ):  # fmt: skip
        held, asked = getattr(earlier, field), getattr(manifest, field)
        if held != asked:
            raise ValueError(
                f"{output_dir} holds another build: its {field} is {held}, this one's"
                f" {asked}. Choose another --output-dir, or delete that folder."
            )

    def untouched(name: str, shard: records.Shard) -> bool:
        skipped = [skip for skip in earlier.skipped if skip["shard"] == name]
        return _size(output_dir / name) == shard.num_bytes and all(
            _size(audio_dir / skip["path"]) == skip["size"] for skip in skipped
        )

    manifest.shards = {
        name: shard
        for name, shard in earlier.shards.items()
        if name in plan and untouched(name, shard)
    }
    manifest.skipped = [
        skip for skip in earlier.skipped if skip["shard"] in manifest.shards
    ]


def _run(
    tasks: list[_Task], manifest: records.Manifest, output_dir: Path, num_workers: int
) -> None:
    """Makes the shards and enters each into the manifest as it comes."""
    if not tasks:
        return
    manifest.save(output_dir)
    saved = time.monotonic()
    progress = tqdm(
        total=sum(manifest.planned.values()),
        initial=sum(manifest.planned.values()) - sum(len(task.paths) for task in tasks),
        desc="Building",
        unit="clip",
        disable=None,
    )
    # "spawn" wherever we run: a caller that has loaded TensorFlow must not be forked.
    pool = concurrent.futures.ProcessPoolExecutor(
        min(num_workers, len(tasks)),
        multiprocessing.get_context("spawn"),
        _start_worker,
    )
    # Long shards first, so that the workers end together.
    tasks = sorted(tasks, key=lambda task: -len(task.paths))

    def enter(task: _Task, future: concurrent.futures.Future) -> None:
        if task.name not in manifest.shards:
            manifest.shards[task.name], skipped = future.result()
            manifest.skipped += skipped

    try:
        with progress, pool:
            futures = {pool.submit(_build_shard, task): task for task in tasks}
            try:
                for future in concurrent.futures.as_completed(futures):
                    enter(futures[future], future)
                    progress.update(len(futures[future].paths))
                    if time.monotonic() - saved > MANIFEST_SECONDS:
                        manifest.save(output_dir)
                        saved = time.monotonic()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                for future, task in futures.items():
                    # What ended while we stopped is whole as well.
                    if not future.cancelled() and not future.exception():
                        enter(task, future)
                raise
    except concurrent.futures.process.BrokenProcessPool as error:
        missing = sum(task.name not in manifest.shards for task in tasks)
        raise OSError(
            "A worker process died (out of memory, perhaps; fewer --num-workers need"
            f" less). {missing} shards are missing; run the same command again and it"
            " makes them."
        ) from error
    finally:
        # On a full disk the error on its way is the one to show.
        with contextlib.suppress(OSError):
            manifest.save(output_dir)


def _check_skipped(
    manifest: records.Manifest, output_dir: Path, max_skipped: float
) -> None:
    planned = sum(manifest.planned.values())
    if len(manifest.skipped) > max_skipped * planned:
        first = manifest.skipped[0]
        raise ValueError(
            f"{len(manifest.skipped)} of {planned} clips were skipped, more than"
            f" --max-skipped {max_skipped:g} allows; the first is {first['path']!r}:"
            f" {first['reason']}. All are listed in"
            f" {output_dir / records.MANIFEST_NAME}; the other clips are written and"
            " can be used."
        )
