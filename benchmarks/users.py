"""Times what users do, as whole commands in turn: the first table of docs/facts.md.

    make benchmark
    python benchmarks/users.py --data-dir DIR --originals DIR

Makes an hour of songs (20 stereo mp3 files of three minutes, 44.1 kHz, 192 kbit/s) from
the audio of a folder. Prints the processor, and a row per command: seconds (the median
of the repeats, with the start of the interpreter), and how many times as long decoding
the hour takes in one thread. A first run of `fit` computes embeddings, further ones
find them in the cache.

With `--data-dir` it then runs benchmarks/inputs.py (reading shards, against PyTorch's
DataLoader), with `--originals` benchmarks/models.py (a training step, against the
originals in PyTorch).
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tag as tag_benchmark

MINUTES = 60


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--audio-dir", default="docs/gallery/music", help="audio to make songs of")
    add("--excerpts", default="docs/gallery/music", help="a folder per tag, for fit")
    add("--repeats", type=int, default=2)
    add("--work-dir", default="demo/users", help="for the songs")
    add("--data-dir", help="shards to read")
    add("--originals", help="checkouts of the originals, see benchmarks/models.py")
    add("--models", default="short_chunk_resnet,musicnn", help="those to train a step")
    args = parser.parse_args()
    folder = Path(args.work_dir) / "songs"
    folder.mkdir(parents=True, exist_ok=True)
    number = MINUTES * 60 // tag_benchmark.SECONDS
    songs = tag_benchmark.make_songs(folder, args.audio_dir, number)
    print(
        f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}\n"
    )
    print("| | seconds | of decoding |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        measured = measure(args, str(folder), songs, Path(place))
    decoding = measured["decode an hour, in one thread"]
    for name, seconds in measured.items():
        print(f"| {name} | {seconds:.1f} | {seconds / decoding:.2f} |", flush=True)
    inputs = ("inputs.py", "--data-dir", args.data_dir, "--repeats", "3")
    models = ("models.py", "--originals", args.originals, "--models", args.models)
    for given, (script, *words) in ((args.data_dir, inputs), (args.originals, models)):
        if given:
            output = str(Path(args.work_dir) / script.replace(".py", ".json"))
            path = str(Path(__file__).with_name(script))
            command = [sys.executable, path, *words, "--output", output]
            subprocess.run(command, check=True)


def measure(
    args: argparse.Namespace, folder: str, songs: list[str], place: Path
) -> dict[str, float]:
    """Returns the median seconds of each command, by what it does."""
    library = ("--library", place / "library.sqlite")
    model = place / "mine.onnx"
    fit = ("fit", args.excerpts, "--output", model, "--force")
    commands = {
        "decode an hour, in one thread": None,
        "tag an hour, `student`": ("tag", folder, "--json"),
        "tag an hour, `musicnn_mtt`": (
            *("tag", folder, "--json"),
            *("--model", "musicnn_mtt"),
        ),
        "tag one song of 3 minutes, `student`": ("tag", songs[0]),
        "scan an hour": ("scan", folder, *library),
        "scan it again": ("scan", folder, *library),
        "`find`": ("find", "rock > .1", *library),
        "`similar`": ("similar", songs[0], *library),
        "`fit` of 40 excerpts, the first time": fit,
        "`fit` again": fit,
    }
    seconds = {name: [] for name in commands}
    for repeat in range(args.repeats):
        caches = {"XDG_CACHE_HOME": str(place / f"cache {repeat}")}
        library[1].unlink(missing_ok=True)
        for name, command in commands.items():
            is_first = name.startswith("`fit`")
            taken = run(command, songs, caches if is_first else {})
            seconds[name].append(taken)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def run(command: tuple | None, songs: list[str], environment: dict[str, str]) -> float:
    """Returns the seconds of a command of tagger, or of decoding songs."""
    given = [sys.executable, "-c", tag_benchmark.DECODE, *songs]
    if command:
        given = [sys.executable, "-m", "tagger", *map(str, command)]
    started = time.perf_counter()
    done = subprocess.run(
        given, env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{given[2:5]} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def processor() -> str:
    """Returns the name of the processor."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
