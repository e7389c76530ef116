"""A dropped song: what the page knows of it, as HTML and as JSON."""

import base64
import dataclasses
import io
import json
import os
import tempfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import av
import jinja2
import numpy as np
from matplotlib import colormaps, image

from tagger.audio import AudioDecodeError, load_audio, stream_audio, write_audio
from tagger.inference.tagger import Tagger, Taggram

NUM_COLUMNS = 600  # of the waveform and the taggram
PLAYABLE = (".aac", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".wav")
CODECS = ("aac", "flac", "mp3", "opus", "pcm", "vorbis")
_TEMPLATE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
).get_template("song.html.jinja")


@dataclasses.dataclass(frozen=True)
class Song:
    """A tagged file.

    Attributes:
        path: Where it is kept for this visitor.
        sound: A file of the same music that browsers play.
        loudness: Root mean square by column [NUM_COLUMNS], the loudest 1.
        taggram: Scores over time.
    """

    path: str
    sound: str
    loudness: np.ndarray
    taggram: Taggram

    @property
    def name(self) -> str:
        """Of the file, as its owner has it."""
        return Path(self.path).name


def analyse(tagger: Tagger, path: str, max_minutes: float, bar=None) -> Song:
    """Tags a file.

    Args:
        tagger: The model.
        path: Audio.
        max_minutes: Longer files are refused, whatever their header says.
        bar: Called with a share of the work done and what is being done.

    Raises:
        AudioDecodeError: it is none.
        ValueError: it is too long.
    """
    rate, pieces, num_samples = tagger.info.sample_rate, [], 0
    for block in stream_audio(path, rate):
        num_samples += len(block)
        if num_samples > 60 * max_minutes * rate:
            raise ValueError(
                f"The song is longer than the {max_minutes:g} minutes that this page"
                " takes. python -m tagger tag takes any length."
            )
        # A mean per 10 ms stands for its samples: memory stays small.
        whole = len(block) // (rate // 100) * (rate // 100)
        pieces.append(np.square(block[:whole]).reshape(-1, rate // 100).mean(axis=1))
    ((_, found),) = tagger.taggrams([path], bar=None if bar is None else _Bar(bar))
    if isinstance(found, AudioDecodeError):
        raise found
    sound = path
    if not _is_playable(path):
        sound = f"{path}.flac"
        write_audio(sound, load_audio(path, 22050), 22050)
    return Song(path, sound, _loudness(np.concatenate(pieces)), found)


def _is_playable(path: str) -> bool:
    """Whether browsers play a file, by its ending and what is in it."""
    with av.open(path) as container:
        codec = container.streams.audio[0].codec_context.name
    return Path(path).suffix.lower() in PLAYABLE and codec.startswith(CODECS)


def _loudness(power: np.ndarray) -> np.ndarray:
    """Root mean square by column [NUM_COLUMNS], the loudest 1, of power over time."""
    power = power if len(power) else np.zeros(1)
    edges = np.linspace(0, len(power), NUM_COLUMNS + 1)
    sums = np.interp(edges, np.arange(len(power) + 1), np.cumsum([0.0, *power]))
    columns = np.sqrt(np.diff(sums) / np.diff(edges))
    return columns / max(columns.max(), 1e-9)


class _Bar:
    """What `streaming` moves on, shown by Gradio."""

    disable = False

    def __init__(self, show: Callable):
        self.n, self._show = 0.0, show

    def update(self, share: float) -> None:
        self.n += share
        self._show(self.n, desc="Listening")


def player_html(song: Song) -> str:
    """The song's sound and waveform, with a cursor."""
    heights = 50 * np.maximum(song.loudness, 0.01)
    top = [f"{x},{50 - h:.1f}" for x, h in enumerate(heights)]
    bottom = [f"{x},{50 + h:.1f}" for x, h in enumerate(heights)]
    return html(
        "player",
        name=song.name,
        url=f"gradio_api/file={urllib.parse.quote(song.sound)}",
        outline=" ".join(top + bottom[::-1]),
        num_columns=NUM_COLUMNS,
        times=[_clock(share / 4 * song.taggram.length_seconds) for share in range(5)],
    )


def rows_html(tagger: Tagger, song: Song, tags: list[str]) -> str:
    """The taggram of some tags, with a cursor."""
    taggram = song.taggram
    seconds = (np.arange(NUM_COLUMNS) + 0.5) / NUM_COLUMNS * taggram.length_seconds
    # Each column shows the segment whose middle is nearest.
    middles = taggram.seconds + taggram.segment_seconds / 2
    borders = (middles[1:] + middles[:-1]) / 2
    segments = np.searchsorted(borders, seconds)
    scores = taggram.scores[segments][:, tagger.tag_numbers(tags)].T
    highest = max(scores.max(), 0.01)
    colours = colormaps["magma"](scores / highest)
    # What follows the last segment was not scored.
    colours[:, seconds > taggram.seconds[-1] + taggram.segment_seconds, 3] = 0
    means = taggram.aggregated()
    rows = [
        (tag, means[tagger.tags.index(tag)], _png(colour[None]))
        for tag, colour in zip(tags, colours, strict=True)
    ]
    return html("rows", rows=rows, highest=highest)


def json_file(tagger: Tagger, song: Song) -> str:
    """Path of a JSON file with all scores, of the whole and over time."""
    taggram = song.taggram
    result = {
        "file": song.name,
        "model": tagger.info.name,
        "seconds": round(taggram.length_seconds, 3),
        "tags": tagger.named(taggram.aggregated()),
        "segment_seconds": taggram.segment_seconds,
        "segment_starts": taggram.seconds.round(3).tolist(),
        "scores": {
            tag: taggram.scores[:, number].round(5).tolist()
            for number, tag in enumerate(tagger.tags)
        },
    }
    folder = tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))
    path = Path(folder) / f"{Path(song.path).stem}.json"
    path.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    return str(path)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _png(pixels: np.ndarray) -> str:
    """Colours [height, width, 4] as a URL that holds the picture."""
    held = io.BytesIO()
    image.imsave(held, pixels, format="png")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def html(part: str, **values) -> str:
    """A block of `song.html.jinja`."""
    context = _TEMPLATE.new_context(values)
    return "".join(_TEMPLATE.blocks[part](context))
