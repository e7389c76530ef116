"""Measures how building and tagging grow with workers when computing is not the limit.

    python benchmarks/scaling.py --data-dir dataset --num-workers 1 2 4 8 16
    python benchmarks/scaling.py --what tag --sleep 2 --num-workers 2 8 32 64

A machine with few cores cannot run many decoders. So the decoder is replaced by a sleep
as long as decoding one clip takes on one core (measured first); everything else is the
real builder: its plan, worker processes, encoding, checksums, writing and manifest.
Each measurement builds N clips and then 2 N; the rate follows from the difference,
which leaves out the start of the processes (printed separately). Efficiency is the rate
per worker, relative to that of one worker. The last column is the builder's own work:
CPU time per clip without decoding. A machine is full when rate x CPU time reaches its
number of cores.

Prints a table, and from it the hours and bytes for whole datasets; writes scaling.json.

With `--what tag`, what a worker process does with a file, decoding and scoring, is
replaced by the sleep; the tasks, the processes, and the results in order are real. It
takes two workers or more: one would be this process.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from tagger import audio, cli
from tagger.data import building, records
from tagger.datasets import magnatagatune, million_song
from tagger.datasets.annotations import Annotations
from tagger.inference import streaming
from tagger.inference.engines import Engine, EngineSpec
from tagger.inference.results import Result
from tagger.models.metadata import ModelInfo
from tagger.segmentation import Segmentation, to_int16

CLIP_SECONDS = 29.1
SLEEP = "TAGGER_BENCHMARK_SLEEP"  # seconds; workers inherit the variable
CLIPS = {
    "MTT": magnatagatune.NUM_CLIPS,
    "MSD classic": sum(million_song.PUBLISHED_COUNTS["classic"].values()),
    "CALS": 1_000_000,
}
CORES = (1, 16, 256)
NUM_TAGS = 50


def sleep_instead(path, sample_rate):
    """Yields a clip of silence after a pause; int16, as the builder stores it."""
    time.sleep(float(os.environ[SLEEP]))
    yield np.zeros(int(CLIP_SECONDS * sample_rate), np.int16)


def score_instead(task):
    """Returns the scores of a file of ten segments after a pause."""
    time.sleep(float(os.environ[SLEEP]))
    scores = np.zeros((10, NUM_TAGS), np.float32)
    return Result("", streaming.Outputs(scores, np.arange(10.0), CLIP_SECONDS))


# Worker processes import this script too, but not as __main__.
if SLEEP in os.environ:
    building.stream_audio = sleep_instead


class SleepingEngine(Engine):
    """Stands for an engine that worker processes open."""

    name = "onnx"
    info = ModelInfo("simulated", 16000, Segmentation(48000), NUM_TAGS, None)
    embedding_size = 1
    spec = EngineSpec("onnx", "simulated.onnx", "float32")

    def run(self, waveforms, outputs=("scores",)):
        raise AssertionError("Worker processes stand in for this engine.")


def tag(num_clips: int, num_workers: int, scratch: str) -> dict:
    """Tags files that do not exist; returns the seconds."""
    paths = [f"{clip}.mp3" for clip in range(num_clips)]
    options = streaming.StreamOptions(num_workers=num_workers)
    streaming._run = score_instead  # a worker finds this script's function by its name
    cpu, started = _cpu_seconds(), time.perf_counter()
    found = list(streaming.stream_files(SleepingEngine(), paths, options=options))
    seconds = time.perf_counter() - started
    assert [one.path for one in found] == paths
    return {"seconds": seconds, "cpu": _cpu_seconds() - cpu, "bytes": 0}


def seconds_to_decode(data_dir: str, num_clips: int = 60) -> float:
    """Returns the median seconds that one clip takes on one core."""
    annotations = magnatagatune.load_annotations(data_dir)
    times = []
    for path in annotations.paths[:num_clips]:
        started = time.perf_counter()
        for block in audio.stream_audio(
            annotations.audio_dir / path, records.SAMPLE_RATE
        ):
            to_int16(block)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure(what: str, num_clips: int, num_workers: int, scratch: str) -> dict:
    work = {"build": build, "tag": tag}[what]
    once = work(num_clips, num_workers, scratch)
    twice = work(2 * num_clips, num_workers, scratch)
    seconds = twice["seconds"] - once["seconds"]
    return {
        "workers": num_workers,
        "clips_per_second": num_clips / seconds,
        "start_seconds": max(0.0, once["seconds"] - seconds),
        "cpu_ms_per_clip": 1000 * (twice["cpu"] - once["cpu"]) / num_clips,
        "bytes_per_clip": once["bytes"] / num_clips,
    }


def build(num_clips: int, num_workers: int, scratch: str) -> dict:
    names = np.array([f"{clip}.mp3" for clip in range(num_clips)])
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for name in names:
            Path(folder, name).touch()
        annotations = Annotations(
            "csv", "simulated", ("tag",), names, Path(folder), names,
            np.ones((num_clips, 1), np.uint8), np.full(num_clips, "train"),
        )  # fmt: skip
        cpu = _cpu_seconds()
        started = time.perf_counter()
        manifest = building.build(
            annotations,
            Path(folder) / "shards",
            num_audios_per_shard=10,
            num_workers=num_workers,
        )
        seconds = time.perf_counter() - started
        num_bytes = sum(shard.num_bytes for shard in manifest.shards.values())
    return {"seconds": seconds, "cpu": _cpu_seconds() - cpu, "bytes": num_bytes}


def _cpu_seconds() -> float:
    used = [resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN]
    return sum(sum(resource.getrusage(who)[:2]) for who in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--what", choices=("build", "tag"), default="build")
    add("--data-dir", default="./dataset", help="clips to time decoding on")
    add("--num-workers", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    add("--seconds", type=float, default=20, help="approximate duration of one build")
    add("--sleep", type=float, help="seconds to sleep instead of the measured time")
    add("--scratch", default=tempfile.gettempdir(), help="where shards are written")
    add("--output", default="scaling.json")
    args = parser.parse_args()

    if args.what == "tag" and min(args.num_workers) < 2:
        raise ValueError("Tagging with one worker needs no processes. Give 2 or more.")
    sleep = args.sleep or seconds_to_decode(args.data_dir)
    print(f"decoding takes {1000 * sleep:.1f} ms per clip of {CLIP_SECONDS} s")
    os.environ[SLEEP] = str(sleep)
    runs = []
    print(f"{'workers':>8}{'clips/s':>9}{'efficiency':>12}", end="")
    print(f"{'start s':>9}{'CPU ms/clip':>13}")
    for num_workers in args.num_workers:
        num_clips = max(20, int(args.seconds / 2 * num_workers / sleep) // 10 * 10)
        run = measure(args.what, num_clips, num_workers, args.scratch)
        runs.append(run)
        alone = runs[0]["clips_per_second"] / runs[0]["workers"]
        run["efficiency"] = run["clips_per_second"] / num_workers / alone
        print(
            f"{num_workers:8}{run['clips_per_second']:9.1f}{run['efficiency']:12.2f}"
            f"{run['start_seconds']:9.1f}{run['cpu_ms_per_clip']:13.1f}"
        )
    rate = runs[0]["clips_per_second"] / runs[0]["workers"]
    plan = {}
    if args.what == "build":
        print(f"\nat {rate:.1f} clips per second and core:")
    for name, num_clips in CLIPS.items() if args.what == "build" else ():
        hours = {cores: num_clips / rate / cores / 3600 for cores in CORES}
        gigabytes = num_clips * runs[0]["bytes_per_clip"] / 1e9
        plan[name] = {"hours": hours, "gigabytes": gigabytes}
        times = ", ".join(f"{h:.2f} h on {cores}" for cores, h in hours.items())
        print(f"{name:12}{num_clips:10,} clips{gigabytes:8.0f} GB: {times} cores")
    content = {"sleep_seconds": sleep, "runs": runs, "plan": plan}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
