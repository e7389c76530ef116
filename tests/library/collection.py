"""A music collection in every format, and an engine that takes no time."""

import av
import numpy as np

from tagger.inference.engines import Engine
from tagger.library import database, scanning
from tagger.models.metadata import ModelInfo
from tagger.segmentation import Segmentation

RATE = 44100
TAGS = ("rock", "sad", "no vocals", "guitar; loud / 🎸")
# Ending -> codec of a format whose metadata we write.
CODECS = {
    ".mp3": "mp3",
    ".flac": "flac",
    ".ogg": "vorbis",
    ".opus": "libopus",
    ".m4a": "aac",
    ".wav": "pcm_s16le",
    ".aiff": "pcm_s16be",
    ".wma": "wmav2",
    ".wv": "wavpack",
}


def make_song(path, seed=0, seconds=3, codec=None, **fields):
    """Writes an audio file: two tones that depend on the seed, and metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 48000 if path.suffix == ".opus" else RATE
    times = np.arange(int(seconds * rate)) / rate
    pitch = 110 * (1 + seed % 40)
    wave = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.1 * np.sin(999 * times)
    samples = np.stack([wave, wave]).astype(np.float32)
    arguments = {"container_options": {"strict": "-2"}}
    with av.open(str(path), "w", **arguments) as container:
        container.metadata.update(fields)
        options = {"strict": "-2"}
        stream = container.add_stream(
            codec or CODECS[path.suffix], rate=rate, layout="stereo", options=options
        )
        stream.bit_rate = 128000
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        context = stream.codec_context
        resampler = av.AudioResampler(
            context.format, "stereo", rate, frame_size=context.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


class StubEngine(Engine):
    """Scores that follow the loudness and the pitch of each segment."""

    name = "stub"
    info = ModelInfo("stub", 16000, Segmentation(16000), len(TAGS), TAGS)
    embedding_size = 8

    def __init__(self):
        self.num_segments = 0

    def run(self, waveforms, outputs=("scores",)):
        self.num_segments += len(waveforms)
        spectrum = np.abs(np.fft.rfft(waveforms))[:, 1:]
        bands = np.stack([b.sum(1) for b in np.array_split(spectrum, 8, 1)], 1)
        shares = (bands / np.maximum(bands.sum(1, keepdims=True), 1e-9)) ** 0.5
        given = {"scores": shares[:, : len(TAGS)], "embedding": shares}
        return [given[name].astype(np.float32) for name in outputs]


class Scanner:
    """Scans with an engine that counts what it hears.

    Attributes:
        path: Path of the library.
        engine: The engine.
    """

    def __init__(self, path):
        self.path, self.engine, self.num_opened = path, StubEngine(), 0

    def analysis(self, digest="stub", **settings):
        def open_engine():
            self.num_opened += 1
            return self.engine

        options = scanning.StreamOptions(num_workers=1)
        return scanning.Analysis(digest, digest, open_engine, settings, options)

    def scan(self, *names, digest="stub"):
        with database.writer(self.path) as library:
            return scanning.scan(
                library, [str(name) for name in names], self.analysis(digest)
            )

    def songs(self, model=None):
        with database.reader(self.path) as library:
            return library.analysed(library.model(model))
