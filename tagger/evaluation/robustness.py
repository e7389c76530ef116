"""Robustness of scores to modified audio (Won et al., SMC 2020, section 4).

https://arxiv.org/abs/2006.00751. As in the paper's code, every test clip is
time-stretched, pitch-shifted, compressed or mixed with noise. FFmpeg's filters do all
of this but the noise.
"""

from collections.abc import Callable, Mapping

import av
import numpy as np
import pandas as pd

from tagger import models
from tagger.data.clips import Shards
from tagger.evaluation import bootstrap, scoring
from tagger.text import TaggerError

# Points of the compression curve: input / output level in dB.
COMPRESSION = {
    "music standard": "-90/-90|-70/-58|-55/-43|-31/-31|-21/-21|0/-20",
    "speech": "-90/-90|-70/-55|-50/-35|-31/-31|-21/-21|0/-20",
}


def apply_filters(waveform: np.ndarray, sample_rate: int, filters: str) -> np.ndarray:
    """Runs a waveform through FFmpeg's audio filters.

    Args:
        waveform: float32 [num_samples].
        sample_rate: Sample rate of the input and the output in Hz.
        filters: Filter chain in FFmpeg's syntax, such as "atempo=1.5,volume=0.5".

    Returns:
        float32 [num_samples of the filters' output].
    """
    graph = av.filter.Graph()
    nodes = [graph.add_abuffer(format="flt", sample_rate=sample_rate, layout="mono")]
    end = f"{filters},aformat=flt:{sample_rate}:mono"
    for text in end.split(","):
        name, _, arguments = text.partition("=")
        nodes.append(graph.add(name, arguments))
    nodes.append(graph.add("abuffersink"))
    graph.link_nodes(*nodes).configure()
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(waveform[None], np.float32), format="flt", layout="mono"
    )
    frame.sample_rate = sample_rate
    graph.push(frame)
    graph.push(None)
    pieces = []
    while True:
        try:
            pieces.append(graph.pull().to_ndarray()[0])
        except (BlockingIOError, EOFError):  # PyAV's errors are subclasses
            break
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def stretch_time(waveform: np.ndarray, sample_rate: int, speed: float) -> np.ndarray:
    """Changes the speed without changing the pitch; 2 is twice as fast."""
    return apply_filters(waveform, sample_rate, f"atempo={speed:.6f}")


def shift_pitch(waveform: np.ndarray, sample_rate: int, semitones: float) -> np.ndarray:
    """Shifts the pitch without changing the tempo."""
    ratio = 2 ** (semitones / 12)
    filters = f"asetrate={round(sample_rate * ratio)},aresample={sample_rate}"
    return apply_filters(waveform, sample_rate, f"{filters},atempo={1 / ratio:.6f}")


def compress(waveform: np.ndarray, sample_rate: int, preset: str) -> np.ndarray:
    """Compresses the dynamic range; `preset` is a key of COMPRESSION."""
    times = "attacks=0.1:decays=0.3:delay=0.1"  # seconds
    filters = f"compand={times}:points={COMPRESSION[preset]}"
    return apply_filters(waveform, sample_rate, filters)


def add_noise(waveform: np.ndarray, sample_rate: int, level: float) -> np.ndarray:
    """Adds white noise whose peak is `level` times the waveform's."""
    noise = np.random.default_rng(len(waveform)).standard_normal(len(waveform))
    noise *= (
        level * np.max(np.abs(waveform), initial=0) / np.abs(noise).max(initial=1e-12)
    )
    return waveform + noise.astype(np.float32)


MODIFICATIONS: dict[str, tuple[Callable, dict[str, object]]] = {
    "time stretch": (
        stretch_time,
        {f"x {speed:.2f}": speed for speed in 2 ** np.array([-0.5, -0.25, 0.25, 0.5])},
    ),
    "pitch shift": (
        shift_pitch,
        {f"{shift:+g} semitones": shift for shift in (-1.0, -0.5, 0.5, 1.0)},
    ),
    "dynamic range": (compress, {name: name for name in COMPRESSION}),
    "white noise": (add_noise, {f"{level:g} of peak": level for level in (0.1, 0.4)}),
}


def check(shards: Shards) -> None:
    """Checks that the shards contain waveforms.

    Raises:
        ValueError: they contain log-mel spectrograms, which cannot be modified.
    """
    if shards.manifest.features:
        raise TaggerError(
            f"{shards.directory} holds log-mel spectrograms, but the robustness test"
            " needs waveforms. Build without `features=`."
        )


def measure(
    predict: scoring.Predict,
    shards: Shards,
    info: models.ModelInfo,
    split: str = "test",
    tag_map: Mapping[str, str] | None = None,
    num_resamples: int = 1000,
) -> pd.DataFrame:
    """Scores a split once for every modification of its clips.

    Args:
        predict: Predict function, see `scoring.evaluate`.
        shards: Shards of waveforms.
        info: Metadata of the model behind `predict`.
        split: "train", "val" or "test".
        tag_map: See `scoring.evaluate`.
        num_resamples: See `bootstrap.bootstrap`.

    Returns:
        One row per modification; columns kind, setting, roc_auc and pr_auc, and the
        ends of their 95 % intervals: roc_auc_low, roc_auc_high …

    Raises:
        ValueError: the shards contain log-mel spectrograms, or see `scoring.evaluate`.
    """
    check(shards)
    rows = []
    for kind, (function, settings) in MODIFICATIONS.items():
        for setting, value in settings.items():

            def modify(waveform, function=function, value=value):
                return function(waveform, info.sample_rate, value)

            scored = scoring.evaluate(
                predict, shards, info, split, modify=modify, tag_map=tag_map
            )
            row = {"kind": kind, "setting": setting}
            for name, one in bootstrap.bootstrap(scored, num_resamples).items():
                row |= {name: one.value, f"{name}_low": one.low}
                row[f"{name}_high"] = one.high
            rows.append(row)
    return pd.DataFrame(rows)
