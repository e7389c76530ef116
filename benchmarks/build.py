"""Compares the builder's speed and output size with its limit and with resemul's.

    python benchmarks/build.py --data-dir dataset --num-workers 2

limit   decodes and resamples every clip with our decoder, and writes nothing
ours    building.build
seed    builds as resemul did: one process per core, one ffmpeg process per clip (madmom
        starts one too), one float32 Example per segment, written by TensorFlow

The three run in turn, each in its own process, on the same clips, `--repeats` times.
Times include the start of the workers; ratios are those of the medians. Then `ours`
builds `--growth` clips (the same ones repeatedly, under new names), which shows whether
time per clip and memory stay constant. Prints tables and writes build.json. `seed`
needs the ffmpeg program and is skipped without it.
"""

import argparse
import dataclasses
import json
import multiprocessing
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tagger import cli, storage
from tagger.audio import stream_audio
from tagger.data import building
from tagger.datasets import magnatagatune
from tagger.datasets.annotations import Annotations

SAMPLE_RATE, SEGMENT_SAMPLES = 22050, 59049


def clips_of(data_dir: str, num_clips: int | None) -> Annotations:
    """Returns the first clips; beyond the last, the first again under new names."""
    annotations = magnatagatune.load_annotations(data_dir, "won")  # no broken files
    rows = np.arange(num_clips or len(annotations))
    taken = rows % len(annotations)
    return dataclasses.replace(
        annotations,
        clip_ids=np.array([f"{row}" for row in rows]),
        paths=annotations.paths[taken],
        labels=annotations.labels[taken],
        splits=annotations.splits[taken],
    )


def files_of(annotations: Annotations) -> list[Path]:
    return [annotations.audio_dir / path for path in annotations.paths]


def decode(path: Path) -> int:
    return sum(map(len, stream_audio(path, SAMPLE_RATE)))


def run_limit(args, annotations: Annotations, output_dir: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(args.num_workers) as pool:
        # Four at a time: the overhead of the queue must not count as the limit.
        for _ in pool.imap_unordered(decode, files_of(annotations), chunksize=4):
            pass


def run_ours(args, annotations: Annotations, output_dir: Path) -> None:
    building.build(
        annotations,
        output_dir,
        SAMPLE_RATE,
        SEGMENT_SAMPLES,
        num_audios_per_shard=100,
        num_workers=args.num_workers,
    )


def seed_worker(queue, output_dir: str) -> None:
    storage.load_tensorflow()
    import numpy as np
    import tensorflow as tf

    def feature(data: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))

    while (shard := queue.get()) is not None:
        number, clips = shard
        with tf.io.TFRecordWriter(f"{output_dir}/{number:04d}.tfrecord") as writer:
            for path, labels in clips:
                command = ["ffmpeg", "-v", "error", "-i", str(path), "-t", "29"]
                command += ["-f", "f32le", "-ac", "1", "-ar", str(SAMPLE_RATE), "-"]
                done = subprocess.run(command, capture_output=True, check=True)
                waveform = np.frombuffer(done.stdout, np.float32)
                for at in range(
                    0, len(waveform) - SEGMENT_SAMPLES + 1, SEGMENT_SAMPLES
                ):
                    segment = waveform[at : at + SEGMENT_SAMPLES]
                    features = {
                        "raw_segment": feature(segment.tobytes()),
                        "raw_labels": feature(labels.tobytes()),
                    }
                    example = tf.train.Example(
                        features=tf.train.Features(feature=features)
                    )
                    writer.write(example.SerializeToString())


def run_seed(args, annotations: Annotations, output_dir: Path) -> None:
    output_dir.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    clips = list(zip(files_of(annotations), annotations.labels, strict=True))
    for number, start in enumerate(range(0, len(clips), 100)):
        queue.put((number, clips[start : start + 100]))
    workers = [
        context.Process(target=seed_worker, args=(queue, str(output_dir)))
        for _ in range(args.num_workers)
    ]
    for worker in workers:
        queue.put(None)
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise ValueError("A worker of `seed` died; its rate means nothing.")


WAYS = {"limit": run_limit, "ours": run_ours, "seed": run_seed}


def run_one(args) -> None:
    """Runs one way in this process and prints its figures as JSON."""
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        output_dir = Path(folder) / "shards"
        annotations = clips_of(args.data_dir, args.num_clips)
        num_clips = len(annotations)
        started = time.perf_counter()
        WAYS[args.only](args, annotations, output_dir)
        seconds = time.perf_counter() - started
        written = sum(path.stat().st_size for path in output_dir.glob("*.tfrecord"))
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    figures = {
        "clips": num_clips,
        "seconds": seconds,
        "clips_per_second": num_clips / seconds,
        "mb_per_clip": written / num_clips / 1e6,
        "peak_mb": peak / 1024,  # of the largest process
    }
    print(json.dumps(figures))


def measure(args, way: str, num_clips: int | None) -> dict:
    command = [sys.executable, __file__, "--only", way, "--data-dir", args.data_dir]
    command += ["--num-workers", str(args.num_workers), "--scratch", args.scratch]
    command += ["--num-clips", str(num_clips)] if num_clips else []
    return json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", default="./dataset")
    add("--num-workers", type=int, default=2)
    add("--num-clips", type=int, help="take only the first N clips")
    add("--growth", type=int, nargs="*", default=[100, 1000, 10000], metavar="CLIPS")
    add("--repeats", type=int, default=3)
    add("--scratch", default=tempfile.gettempdir(), help="where shards are written")
    add("--output", default="build.json")
    add("--only", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        return run_one(args)

    ways = [way for way in WAYS if way != "seed" or shutil.which("ffmpeg")]
    runs = {way: [] for way in ways}
    for _ in range(args.repeats):
        for way in ways:
            runs[way].append(measure(args, way, args.num_clips))
    middle = {
        way: {
            key: statistics.median(run[key] for run in runs[way])
            for key in runs[way][0]
        }
        for way in ways
    }
    print(f"{'':8}{'clips/s':>9}{'of limit':>10}{'MB/clip':>9}{'peak MB':>9}")
    for way, figures in middle.items():
        share = figures["clips_per_second"] / middle["limit"]["clips_per_second"]
        print(
            f"{way:8}{figures['clips_per_second']:9.1f}{share:10.2f}"
            f"{figures['mb_per_clip']:9.2f}{figures['peak_mb']:9.0f}"
        )
    ratios = {
        "ours/limit": middle["ours"]["clips_per_second"]
        / middle["limit"]["clips_per_second"]
    }
    if "seed" in middle:
        ratios["ours/seed"] = (
            middle["ours"]["clips_per_second"] / middle["seed"]["clips_per_second"]
        )
        ratios["bytes ours/seed"] = (
            middle["ours"]["mb_per_clip"] / middle["seed"]["mb_per_clip"]
        )
    print(*(f"{name} {ratio:.2f}" for name, ratio in ratios.items()), sep="   ")
    growth = [measure(args, "ours", num_clips) for num_clips in args.growth]
    for run in growth:
        per_clip = 1000 * run["seconds"] / run["clips"]
        print(
            f"{run['clips']:6,} clips: {per_clip:.1f} ms per clip,"
            f" peak {run['peak_mb']:.0f} MB"
        )
    content = {"runs": runs, "median": middle, "ratios": ratios, "growth": growth}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
