r"""Compares the time to tag an hour of songs with the original's and with decoding.

    git clone https://github.com/ethman/sota-music-tagging-models original
    python benchmarks/tag.py --audio-dir demo/mp3 \
        --original original --original-python VENV/bin/python

Makes songs of three minutes (stereo mp3, 44.1 kHz, 192 kbit/s) from the audio of a
folder, converts the original's MagnaTagATune weights and times whole commands in turn:

keras     `tagger tag` with TAGGER_ENGINE=keras
onnx      the same with onnx, the model's export
openvino  the same with openvino, the same export
bfloat16  the same with `--precision bfloat16`; the CPU must have it
original  its `MusicTagger` on audio loaded by librosa, as in its own example
decode    only decoding with PyAV in one thread, at the model's rate

Then `--excerpts` N of the first model: how scores differ from those of whole files,
and the time. The original's environment needs torch, torchaudio, librosa, fire, pandas
and tensorboard; ours also needs torch, to read the weights, and openvino.
short_chunk_resnet has random weights, because its published ones are too large to be
stored with the code.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tagger import storage

SECONDS = 180
SAMPLE_RATE = 44100
ORIGINAL_NAMES = {"short_chunk_resnet": "short_res"}  # where they differ from ours
EXCERPTS = (1, 3, 10)
RANDOM_WEIGHTS = """
import os, sys, torch
from sota_music_taggers import model
os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)
torch.manual_seed(0)
torch.save(model.ShortChunkCNN_Res().state_dict(), sys.argv[1])
"""
ORIGINAL = """
import sys, warnings
warnings.simplefilter("ignore")
import librosa
from sota_music_taggers.predict import MusicTagger
tagger = MusicTagger(sys.argv[1], "mtat")
for path in sys.argv[2:]:
    waveform, _ = librosa.load(path, sr=16000)
    print(path, tagger(waveform).detach().numpy().mean(axis=0).argmax())
"""
DECODE = """
import sys
from tagger.audio import stream_audio
for path in sys.argv[1:]:
    print(path, sum(len(block) for block in stream_audio(path, 16000)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--original", required=True, metavar="DIR", help="checkout of the original")
    add("--original-python", default=sys.executable, metavar="PYTHON")
    add("--audio-dir", required=True, metavar="DIR", help="audio to make songs of")
    add(
        "--models",
        nargs="+",
        default=["musicnn", "fcn", "crnn", "short_chunk_resnet"],
    )
    add("--long-dir", metavar="DIR", help="long files for --excerpts (default: songs)")
    add("--minutes", type=int, default=60)
    add("--repeats", type=int, default=3)
    add("--work-dir", default="tag_benchmark", metavar="DIR")
    add("--output", default="tag.json")
    args = parser.parse_args()

    folder = Path(args.work_dir)
    (folder / "songs").mkdir(parents=True, exist_ok=True)
    songs = make_songs(
        folder / "songs", args.audio_dir, max(args.minutes * 60 // SECONDS, 1)
    )
    original = str(Path(args.original).resolve())
    results = {}
    for name in args.models:
        model = convert(name, args, folder)
        commands = {
            "decode": [sys.executable, "-c", DECODE, *songs],
            "original": [
                *(args.original_python, "-c", ORIGINAL),
                *(ORIGINAL_NAMES.get(name, name), *songs),
            ],
        }
        for what, start in ENGINES.items():
            suffix = ".keras" if what == "keras" else ".onnx"
            command = tag_command(f"{model}{suffix}", songs)
            commands[what] = [*start, *command]
        commands["bfloat16"] += ["--precision", "bfloat16"]
        seconds = {what: [] for what in commands}
        for _ in range(args.repeats):
            for what, command in commands.items():
                seconds[what].append(run(command, original)[0])
        medians = {what: statistics.median(taken) for what, taken in seconds.items()}
        results[name] = seconds
        print(
            f"{name:8} original {medians['original']:6.1f} s  decoding"
            f" {medians['decode']:6.1f} s",
            flush=True,
        )
        for what in ENGINES:
            print(
                f"  {what:8} {medians[what]:6.1f} s"
                f"  ratio {medians['original'] / medians[what]:5.2f}"
                f"  share {medians['decode'] / medians[what]:5.2f}",
                flush=True,
            )
    model = f"{(folder / args.models[0]).resolve()}.onnx"
    for what, files in {
        "clips": [args.audio_dir],
        "long files": [args.long_dir or str(folder / "songs")],
    }.items():
        results[f"excerpts, {what}"] = compare_excerpts(what, model, files, original)
    content = {"arguments": vars(args), "seconds": results}
    Path(args.output).write_text(json.dumps(content, indent=1) + "\n")


ENGINES = {
    name: ["env", f"TAGGER_ENGINE={name}"] for name in ("keras", "onnx", "openvino")
} | {"bfloat16": []}


def tag_command(model: str, files: list[str]) -> list[str]:
    return [sys.executable, "-m", "tagger", "tag", *files, "--model", model, "--json"]


def compare_excerpts(what: str, model: str, files: list[str], original: str) -> dict:
    """Prints and returns what excerpts do to scores, the five highest and the time."""
    command = tag_command(model, files)
    seconds, lines = run(command, original)
    whole = scores_of(lines)
    found = {"whole": {"seconds": seconds}}
    for number in EXCERPTS:
        taken, lines = run([*command, "--excerpts", str(number)], original)
        scores = scores_of(lines)
        difference = np.mean([np.abs(scores[p] - whole[p]).mean() for p in whole])
        overlap = np.mean(
            [
                len({*scores[p].argsort()[-5:]} & {*whole[p].argsort()[-5:]}) / 5
                for p in whole
            ]
        )
        found[str(number)] = {
            "seconds": taken,
            "mean difference": float(difference),
            "top-5 overlap": float(overlap),
        }
        print(
            f"{what}, {number:2} excerpts  mean difference {difference:.4f}  top-5"
            f" overlap {overlap:.2f}  {taken:6.1f} s, whole {seconds:6.1f} s",
            flush=True,
        )
    return found


def scores_of(lines: str) -> dict[str, np.ndarray]:
    """Returns the scores of each file, in the order of the tags' names."""
    rows = [json.loads(line) for line in lines.splitlines()]
    return {
        row["path"]: np.array([row["tags"][tag] for tag in sorted(row["tags"])])
        for row in rows
    }


def make_songs(folder: Path, audio_dir: str, number: int) -> list[str]:
    """Encodes the songs that do not exist yet; returns the paths of all."""
    import av

    from tagger import audio, listing

    files = itertools.cycle(listing.list_audio([audio_dir]))
    paths = [folder / f"{n:02d}.mp3" for n in range(number)]
    for place, path in enumerate(paths):
        if path.exists():
            continue
        clips, length = [], 0
        while length < SECONDS * SAMPLE_RATE:
            clips.append(audio.load_audio(next(files), SAMPLE_RATE))
            length += len(clips[-1])
        mono = np.concatenate(clips)[: SECONDS * SAMPLE_RATE]
        mono *= 1 - place / 200  # no two recordings are the same
        samples = np.clip(32767 * np.stack([mono, 0.8 * mono], 1), -32768, 32767)
        unfinished = path.with_suffix(".unfinished.mp3")
        with av.open(str(unfinished), "w") as container:
            stream = container.add_stream("mp3", rate=SAMPLE_RATE, layout="stereo")
            stream.bit_rate = 192_000
            frame = av.AudioFrame.from_ndarray(
                samples.astype(np.int16).reshape(1, -1), format="s16", layout="stereo"
            )
            frame.sample_rate = SAMPLE_RATE
            size = stream.codec_context.frame_size
            cutter = av.AudioResampler(stream.format.name, "stereo", SAMPLE_RATE, size)
            for piece in cutter.resample(frame) + cutter.resample(None):
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
        unfinished.rename(path)
    return [str(path.resolve()) for path in paths]


def convert(name: str, args: argparse.Namespace, folder: Path) -> str:
    """Converts the original's weights to .keras and .onnx; returns the common path."""
    storage.load_tensorflow()
    from tagger import models
    from tagger.datasets.magnatagatune import TOP_50_TAGS
    from tagger.models import export
    from tagger.weights import conversion, readers

    original = Path(args.original).resolve()
    weights = original / "sota_music_taggers/models/mtat"
    weights = weights / ORIGINAL_NAMES.get(name, name) / "best_model.pth"
    if name == "short_chunk_resnet" and not weights.exists():
        command = [args.original_python, "-c", RANDOM_WEIGHTS, str(weights)]
        run(command, str(original))
    model = conversion.convert(readers.read_weights(weights), name, tags=TOP_50_TAGS)
    path = (folder / name).resolve()
    models.save_model(model, path.with_suffix(".keras"))
    export.export(model, path.with_suffix(".onnx"), "onnx", force=True)
    return str(path)


def run(command: list[str], original: str) -> tuple[float, str]:
    """Returns the seconds of a whole command, and what it printed."""
    ours = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([ours, original])}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[:3]} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started, done.stdout


if __name__ == "__main__":
    main()
