"""Measures a library of synthetic songs: its size, and how long each question takes.

    python benchmarks/library.py --num-songs 100000

The songs have scores and embeddings of musicnn's size (50 tags, 200 channels) and no
audio. Each question is a whole command, the start of Python included. Writes
library_benchmark.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tagger.datasets.magnatagatune import TOP_50_TAGS
from tagger.library import database
from tagger.library.songs import Song

NUM_CHANNELS = 200
NUM_ARTISTS = 5000


def main() -> None:
    """Fills a library, asks it, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--num-songs", type=int, default=100_000)
    add("--repeats", type=int, default=3)
    add("--output", default="library_benchmark.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library.sqlite"
        started = time.perf_counter()
        fill(path, args.num_songs)
        results = {
            "seconds to fill": time.perf_counter() - started,
            "MB": path.stat().st_size / 1e6,
        }
        for name, arguments in questions(folder).items():
            command = [sys.executable, "-m", "tagger", *arguments]
            command += ["--library", str(path)]
            results[name] = min(timed(command) for _ in range(args.repeats))
    for name, value in results.items():
        print(f"{name:45}{value:10.2f}")
    content = {"arguments": vars(args), "results": results}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


def questions(folder: str) -> dict[str, list[str]]:
    """Returns the arguments of each command by its name."""
    return {
        "find 'rock > .5 and not vocals and slow > .3'": [
            "find", "rock > .5 and not vocals and slow > .3"
        ],
        "find … --playlist": [
            "find", "rock > .5", "--top", "500", "--force",
            "--playlist", f"{folder}/found.m3u8",
        ],
        "similar A": ["similar", "/music/7.mp3"],
        "similar A B C --max-per-artist 2": [
            "similar", "/music/7.mp3", "/music/8.mp3", "/music/9.mp3",
            "--max-per-artist", "2",
        ],
        "similar --path A B": ["similar", "--path", "/music/7.mp3", "/music/8.mp3"],
    }  # fmt: skip


def fill(path: Path, num_songs: int) -> None:
    """Writes synthetic songs into a new library."""
    random = np.random.default_rng(0)
    with database.writer(path) as library:
        model = library.add_model(
            database.Model("synthetic", "musicnn_mtt", TOP_50_TAGS)
        )
        for number in tqdm(range(num_songs), "Filling", disable=None):
            song = Song(
                f"/music/{number}.mp3",
                5_000_000,
                number,
                number.to_bytes(32, "big"),
                200.0,
                f"Artist {random.integers(NUM_ARTISTS)}",
                f"Album {number // 12}",
                f"Song {number}",
            )
            recording = library.add_song(song)
            scores = random.beta(0.5, 3, len(TOP_50_TAGS))
            library.add_analysis(
                model, recording, scores, random.standard_normal(NUM_CHANNELS)
            )


def timed(command: list[str]) -> float:
    """Returns the seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
