"""What do smaller numbers cost? Compares a model in float32 and int8.

    python benchmarks/precision.py --model student --audio-dir docs/gallery/music

float32  the export to ONNX
int8     the convolutions behind the spectrogram in int8, calibrated on 16 segments

Prints the size of each file, CPU milliseconds of one thread per segment, the
differences of the songs' scores from those in float32, and their rank correlation with
them, mean over the tags.
"""

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from onnxruntime import quantization
from student import cpu_ms

from tagger import listing, storage
from tagger.evaluation.agreement import rank_correlations
from tagger.inference.engines import OnnxEngine
from tagger.inference.tagger import Tagger
from tagger.models import export
from tagger.weights import pretrained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="student", help="default: student")
    add("--audio-dir", required=True, metavar="DIR", help="songs to score")
    args = parser.parse_args()
    storage.load_tensorflow()
    songs = listing.list_audio([args.audio_dir])
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.onnx" for name in ("float32", "int8")}
        whole = paths["float32"]
        export.export(pretrained.load(args.model), whole, "onnx")
        tagger = Tagger(OnnxEngine(whole))
        every = max(1, len(songs) // 16)
        segments = [tagger.segment(song)[0][None] for song in songs[::every][:16]]
        quantize_to_int8(whole, paths["int8"], segments)
        scores = {name: scores_of(path, songs) for name, path in paths.items()}
        names = "MB", "CPU ms", "mean difference", "largest", "rank correlation"
        print(f"| {len(songs)} songs | {' | '.join(names)} |")
        print("|---|---|---|---|---|---|")
        for name, path in paths.items():
            difference = np.abs(scores[name] - scores["float32"])
            rho = np.nanmean(rank_correlations(scores["float32"], scores[name]))
            cells = f"{path.stat().st_size / 1e6:.1f} | {cpu_ms(path):.1f}"
            cells += f" | {difference.mean():.5f} | {difference.max():.4f} | {rho:.4f}"
            print(f"| {name} | {cells} |")


def scores_of(path: Path, songs: list[str]) -> np.ndarray:
    """Returns the scores of songs: [num_songs, num_tags]."""
    found = Tagger(OnnxEngine(path)).taggrams(songs)
    return np.stack([one.get().aggregated() for one in found])


def quantize_to_int8(source: Path, path: Path, segments: list[np.ndarray]) -> None:
    """Writes a copy of a model whose convolutions compute in int8."""
    graph = onnx.load(source).graph
    dims = {held.name: held.dims for held in graph.initializer}
    convolutions = [
        node.name
        for node in graph.node
        if node.op_type == "Conv" and not is_transform(dims[node.input[1]])
    ]
    inputs = iter([{"waveform": segment} for segment in segments])
    quantization.quantize_static(
        source,
        path,
        SimpleNamespace(get_next=lambda: next(inputs, None)),
        nodes_to_quantize=convolutions,
        per_channel=True,
    )


def is_transform(dims: list[int]) -> bool:
    """Returns whether weights are the waves of the Fourier transform."""
    return len(dims) == 4 and max(dims[2:]) > 256


if __name__ == "__main__":
    main()
