"""Random metadata and damaged audio, thousands of each: `pytest -m nightly`.

TAGGER_FIRST_TRIAL chooses other trials than the last run's.
"""

import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import REFERENCES, REPOSITORY

from tagger import audio
from tagger.data.manifest import Manifest
from tagger.models.metadata import ModelInfo
from tagger.training.runs import StageState
from tagger.validation import parse

pytestmark = pytest.mark.nightly

NUM_TRIALS = 2000
FIRST = int(os.environ.get("TAGGER_FIRST_TRIAL", "0"))
SECONDS = 60  # a case may take so much longer than its music
MEMORY = 2 << 30


def encode(path, codec, rate=48000):
    """Writes three seconds of noise with any of FFmpeg's encoders."""
    noise = np.random.RandomState(0).uniform(-0.3, 0.3, (1, 3 * rate)).astype("f4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64000
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or 4096
        cutter = av.AudioResampler(stream.format.name, "mono", rate, size)
        for number, piece in enumerate(cutter.resample(frame) + cutter.resample(None)):
            piece.pts = number * size
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Returns a folder with a short file of each format."""
    folder = tmp_path_factory.mktemp("originals")
    noise = np.random.RandomState(0).uniform(-0.3, 0.3, 3 * 16000).astype(np.float32)
    for ending in ("wav", "flac", "mp3", "aiff"):
        audio.write_audio(folder / f"a.{ending}", noise, 16000)
    for name, codec in (
        *(("a.m4a", "aac"), ("b.m4a", "alac"), ("a.opus", "libopus")),
        *(("a.webm", "libopus"), ("a.wma", "wmav2"), ("a.wv", "wavpack")),
        *(("a.tta", "tta"), ("a.ac3", "ac3"), ("a.caf", "pcm_s16le")),
        *(("a.au", "pcm_s16be"), ("a.w64", "pcm_s24le"), ("a.mp2", "mp2")),
    ):
        encode(folder / name, codec)
    (folder / "b.mp3").write_bytes((REFERENCES / "stereo.mp3").read_bytes())
    return folder


def test_damaged_audio_is_decoded_or_refused_in_time_and_memory(originals, capsys):
    script = Path(__file__).with_name("decode_mutants.py")
    case, last, counts, failures = FIRST, FIRST + NUM_TRIALS, collections.Counter(), []
    while case < last:
        # A new process after each that dies; it goes on behind the case it died of.
        process = subprocess.Popen(
            [sys.executable, script, originals, str(case), str(last)],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_limit_memory,
        )
        lines = process.communicate(timeout=1800)[0].splitlines()
        for line in lines:
            number, ending, *result = line.split()
            case = int(number) + 1
            outcome = result[0] if result else f"FAILED:exit {process.returncode}"
            is_slow = bool(result) and float(result[1]) > SECONDS
            counts[ending, "slow" if is_slow else outcome] += 1
            if is_slow or outcome.startswith("FAILED"):
                failures.append((number, ending, outcome))
        assert lines, process.returncode
    with capsys.disabled():
        _print(counts)
    assert not failures


def _limit_memory():
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def _print(counts):
    print("\ncategory  result     trials")
    for (category, outcome), number in sorted(counts.items()):
        print(f"{category:9} {outcome:10} {number:6}")


def json_values():
    from hypothesis import strategies

    leaves = (
        strategies.none()
        | strategies.booleans()
        | strategies.integers()
        | strategies.floats()
        | strategies.text()
    )
    return strategies.recursive(
        leaves,
        lambda inner: (
            strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner)
        ),
        max_leaves=8,
    )


RIGHT = {
    ModelInfo: {
        "name": "m", "sample_rate": 16000, "num_samples": 4000, "remainder": "drop",
        "hop_samples": 1000, "edge_samples": 0, "num_tags": 2, "tags": ["a", "b"],
        "thresholds": [0.1, 0.2],
    },
    Manifest: {
        "dataset": "csv", "split_rule": "x", "tags": ["a"], "sample_rate": 22050,
        "segment_samples": 59049, "num_audios_per_shard": 4, "segment_shape": [59049],
        "shards": {}, "skipped": [], "complete": True, "planned": {"train": 3},
    },
    StageState: {"epoch": 1, "step": 2, "epochs_without_gain": 0, "history": []},
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT, ids=lambda kind: kind.__name__)
def test_random_metadata_is_right_or_refused(kind, capsys):
    import hypothesis
    from hypothesis import strategies

    counts, started = collections.Counter(), time.monotonic()
    fields = strategies.sampled_from(list(RIGHT[kind]))
    changes = strategies.dictionaries(fields, json_values(), min_size=1, max_size=3)

    @hypothesis.settings(
        max_examples=NUM_TRIALS, deadline=SECONDS * 1000, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.seed(FIRST)
    @hypothesis.given(changes)
    def trial(change):
        document = RIGHT[kind] | change
        try:
            if kind is ModelInfo:
                ModelInfo.from_dict(document, "model.onnx")
            else:
                parse(json.dumps(document), kind, "file.json", "Delete it.")
            counts[kind.__name__, "accepted"] += 1
        except ValueError as error:
            counts[kind.__name__, "refused"] += 1
            assert len(str(error)) < 2000

    trial()
    with capsys.disabled():
        _print(counts)
    assert sum(counts.values()) >= NUM_TRIALS and time.monotonic() - started < 600
