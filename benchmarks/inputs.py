"""Compares reading segments for training with raw reads and PyTorch's DataLoader.

    python benchmarks/inputs.py --data-dir dataset
    KERAS_BACKEND=jax python benchmarks/inputs.py --data-dir dataset

raw         reads every train shard with read(), nothing else
segments    batches of all whole segments (int16), read ahead by threads
crops       the same with random crops, as many per clip as it has whole segments
one crop    the same with one random crop per clip, as Won's recipes take
evaluation  every segment of every clip, in order
fit         whole segments inside `fit` of a tiny model, on the backend of Keras
fit crops   the same with random crops
            (our segments stay int16; the device converts them to float32)
torch N     as the originals read: one float32 .npy per clip, opened with mmap_mode, one
            random crop per item, torch.utils.data.DataLoader with N workers (one per
            core, and 8); skipped without torch

All read the same clips, segments and batches. They run in turn in one process,
`--repeats` times: one epoch that fills the page cache and buffers and starts workers,
then two that are timed. Prints a table of medians and writes inputs.json. First it
prints how long the index takes, made and kept, and the memory of one of 25,863 clips.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tagger import cli, storage
from tagger.segmentation import INT16_SCALE, Segmentation


class RandomCrops:
    """The originals' dataset: each item is a random crop of an .npy file."""

    def __init__(self, paths: list[Path], num_samples: int, num_tags: int):
        self.paths, self.num_samples = paths, num_samples
        self.labels = np.zeros(num_tags, np.float32)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, item):
        waveform = np.load(self.paths[item], mmap_mode="r")
        start = np.random.randint(len(waveform) - self.num_samples)
        return np.array(waveform[start : start + self.num_samples]), self.labels


def write_npy(clips, folder: Path) -> list[Path]:
    paths = []
    for number in range(len(clips)):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], clips.content(number).astype(np.float32) / INT16_SCALE)
    return paths


def print_index(shards) -> None:
    """Prints seconds to make and to load the index, and the memory that it takes."""
    from tagger.data.clips import INDEX_NAME

    folder = shards.paths("train")[0].parent
    for what in ("made", "loaded"):
        if what == "made":
            (folder / INDEX_NAME).unlink(missing_ok=True)
        started = time.perf_counter()
        found = shards.clips("train")
        seconds = time.perf_counter() - started
        print(f"index {what} in {seconds:.3f} s, {len(found)} clips", end="; ")
    times = -(-25863 // len(found))
    many = found.chosen(np.tile(np.arange(len(found)), times)[:25863])
    num_bytes = many.rows.nbytes + many.labels.nbytes + many.ids.nbytes
    print(f"25,863 clips take {num_bytes / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", default="./dataset", help="folder of the shards, or its parent")
    add("--batch-size", type=int, default=23)
    add("--num-read-threads", type=int, help="default: one per core, at most 8")
    add("--repeats", type=int, default=5)
    add("--scratch", default=tempfile.gettempdir(), help="where .npy files are written")
    add("--output", default="inputs.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        run(args, Path(folder))


def run(args, folder: Path) -> None:
    storage.load_tensorflow()
    import keras

    from tagger.data.batches import Batches, ReadOptions, ahead, feed
    from tagger.data.clips import open_shards, outputs_of

    shards = open_shards(args.data_dir)
    print_index(shards)
    clips = shards.clips("train")
    num_samples = shards.manifest.segment_samples
    segmentation = Segmentation(num_samples)
    num_segments = int(clips.num_segments(segmentation).sum())
    per_clip = num_segments // len(clips)

    def source(crops_per_clip: int = 0) -> Batches:
        options = ReadOptions(crops_per_clip=crops_per_clip)
        return Batches(clips, segmentation, args.batch_size, options)

    def raw() -> Iterator[int]:
        for path in shards.paths("train"):
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass
        yield num_segments

    def segments(crops_per_clip: int = 0) -> Iterator[int]:
        read = source(crops_per_clip).batch
        for batch, _ in ahead(read, itertools.count(), args.num_read_threads):
            yield len(batch)

    def crops() -> Iterator[int]:
        return segments(per_clip)

    def one_crop() -> Iterator[int]:
        return segments(1)

    def evaluation() -> Iterator[int]:
        rows = outputs_of(
            lambda batch: [batch[:, 0]], clips, segmentation, args.batch_size
        )
        for (of_clip,) in rows:
            yield len(of_clip)

    def fit(crops_per_clip: int = 0) -> Iterator[int]:
        heard = keras.Input((num_samples,), dtype="int16")
        x = keras.ops.cast(heard[:, ::1000], "float32")
        x = keras.layers.Dense(clips.labels.shape[1], activation="sigmoid")(x)
        model = keras.Model(heard, x)
        model.compile("sgd", "binary_crossentropy")
        read = source(crops_per_clip)
        given = {"steps_per_epoch": len(read), "shuffle": False, "verbose": 0}
        with feed(read.batch, 0, args.num_read_threads) as fed:
            while True:
                model.fit(fed, **given)
                yield len(read) * args.batch_size

    def fit_crops() -> Iterator[int]:
        return fit(per_clip)

    def torch_way(num_workers: int):
        from torch.utils.data import DataLoader

        def read() -> Iterator[int]:
            loader = DataLoader(
                RandomCrops(paths, num_samples, clips.labels.shape[1]),
                batch_size=args.batch_size,
                shuffle=True,
                num_workers=num_workers,
                persistent_workers=True,
                # TensorFlow's threads make forked workers hang or crash.
                multiprocessing_context="spawn",
            )
            while True:
                for batch, _ in loader:
                    yield len(batch)

        return read

    def rate_of(way) -> float:
        """Returns segments per second over two epochs, after one that fills buffers."""
        batches = itertools.chain.from_iterable(way() for _ in itertools.count())
        seconds = None
        for num_epochs in (1, 2):
            started, read = time.perf_counter(), 0
            while read < num_epochs * num_segments:
                read += next(batches)
            seconds = time.perf_counter() - started
        return read / seconds

    every = (raw, segments, crops, one_crop, evaluation, fit, fit_crops)
    ways = {way.__name__.replace("_", " "): way for way in every}
    if importlib.util.find_spec("torch"):
        paths = write_npy(clips, folder)
        for num_workers in sorted({os.cpu_count(), 8}):
            ways[f"torch {num_workers}"] = torch_way(num_workers)
    rates = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            rates[name].append(rate_of(way))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    torch = max(
        (rate for name, rate in middle.items() if "torch" in name), default=None
    )
    print(f"{'':12}{'segments/s':>12}{'per core':>10}{'of raw':>8}{'of torch':>10}")
    for name, rate in middle.items():
        beside = f"{rate / torch:10.2f}" if torch else f"{'–':>10}"
        print(
            f"{name:12}{rate:12.0f}{rate / os.cpu_count():10.0f}"
            f"{rate / middle['raw']:8.2f}{beside}"
        )
    content = {"segments": num_segments, "runs": rates, "median": middle}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
