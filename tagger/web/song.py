"""An uploaded song: its analysis, and its HTML and JSON."""

import base64
import dataclasses
import io
import json
import os
import tempfile
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import jinja2
import numpy as np
from matplotlib import colormaps, image

from tagger import audio
from tagger.inference.results import Result
from tagger.inference.tagger import Tagger, Taggram
from tagger.interpretation import report
from tagger.text import TaggerError
from tagger.web.decoding import decoded, temporary_folder

NUM_COLUMNS = 600  # columns of the waveform and the taggram
# One song at a time is scored, because a batch of one song uses all cores.
_scoring = threading.Lock()
_TEMPLATE = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
).get_template("song.html.jinja")


@dataclasses.dataclass(frozen=True)
class Song:
    """A tagged file.

    Attributes:
        path: Path of the visitor's uploaded file.
        sound: Path of a file with the same music that browsers can play.
        loudness: Root mean square per column [NUM_COLUMNS], scaled to a maximum of 1.
        taggram: Scores over time.
    """

    path: str
    sound: str
    loudness: np.ndarray
    taggram: Taggram

    @property
    def name(self) -> str:
        """Name of the file, as uploaded."""
        return Path(self.path).name


def analyse(tagger: Tagger, path: str, max_minutes: float, bar=None) -> Song:
    """Tags a file.

    Args:
        tagger: Tagger to use.
        path: Path of an audio file.
        max_minutes: Maximum length in minutes.
        bar: Function called with the share of the work that is done, and with `desc`,
            the current activity; or None.

    Raises:
        AudioDecodeError, ValueError: see `decoding.decoded`.
    """
    rate, sound = tagger.info.sample_rate, f"{path}.flac"
    with decoded(path, rate, max_minutes, sound) as wav:
        blocks = audio.stream_audio(wav, rate)
        power = np.concatenate([_power(block, rate) for block in blocks])
        with _scoring:
            (found,) = tagger.taggrams([wav], bar=None if bar is None else _Bar(bar))
    if found.error:
        raise TaggerError(str(found.error).replace(str(wav), path))
    played = sound if os.path.exists(sound) else path
    return Song(path, played, _loudness(power), found.value)


def _power(block: np.ndarray, sample_rate: int) -> np.ndarray:
    """Returns the mean power of every 10 ms, which takes less memory than samples."""
    step = max(sample_rate // 100, 1)
    whole = len(block) // step * step
    return np.square(block[:whole]).reshape(-1, step).mean(axis=1)


def _loudness(power: np.ndarray) -> np.ndarray:
    """Returns the root mean square of power over time, per column [NUM_COLUMNS].

    The maximum is scaled to 1.
    """
    power = power if len(power) else np.zeros(1)
    edges = np.linspace(0, len(power), NUM_COLUMNS + 1)
    sums = np.interp(edges, np.arange(len(power) + 1), np.cumsum([0.0, *power]))
    columns = np.sqrt(np.diff(sums) / np.diff(edges))
    return columns / max(columns.max(), 1e-9)


class _Bar:
    """A progress bar for `streaming` that Gradio shows."""

    disable = False

    def __init__(self, show: Callable):
        self.n, self._show = 0.0, show

    def update(self, share: float) -> None:
        """Advances the bar by a share of the work."""
        self.n += share
        self._show(self.n, desc="Listening")


def player_html(song: Song) -> str:
    """Returns the HTML of a song's player and waveform, with a cursor."""
    heights = 50 * np.maximum(song.loudness, 0.01)
    top = [f"{x},{50 - h:.1f}" for x, h in enumerate(heights)]
    bottom = [f"{x},{50 + h:.1f}" for x, h in enumerate(heights)]
    return html(
        "player",
        name=song.name,
        url=file_url(song.sound),
        outline=" ".join(top + bottom[::-1]),
        num_columns=NUM_COLUMNS,
        times=[_clock(share / 4 * song.taggram.length_seconds) for share in range(5)],
    )


def file_url(path: str | os.PathLike) -> str:
    """Returns the URL under which the page serves one of its temporary files."""
    return f"gradio_api/file={urllib.parse.quote(str(path))}"


def rows_html(tagger: Tagger, song: Song, tags: list[str]) -> str:
    """Returns the HTML of the taggram of some tags, with a cursor."""
    taggram = song.taggram
    seconds = (np.arange(NUM_COLUMNS) + 0.5) / NUM_COLUMNS * taggram.length_seconds
    # Each column shows the segment whose middle is nearest.
    middles = taggram.seconds + taggram.segment_seconds / 2
    borders = (middles[1:] + middles[:-1]) / 2
    segments = np.searchsorted(borders, seconds)
    scores = taggram.scores[segments][:, tagger.tag_numbers(tags)].T
    highest = max(scores.max(), 0.01)
    colours = colormaps["magma"](scores / highest)
    # The rest after the last segment was not scored.
    colours[:, seconds > taggram.seconds[-1] + taggram.segment_seconds, 3] = 0
    rows = [
        (*numbers, _png(colour[None]))
        for numbers, colour in zip(
            _mean_scores(tagger, song, tags), colours, strict=True
        )
    ]
    has_thresholds = tagger.info.thresholds is not None
    return html("rows", rows=rows, highest=highest, has_thresholds=has_thresholds)


def _mean_scores(
    tagger: Tagger, song: Song, tags: list[str]
) -> list[tuple[str, float, bool]]:
    """Returns each tag with its mean score, and whether that reaches the threshold."""
    means, thresholds = song.taggram.aggregated(), tagger.info.thresholds
    return [
        (tag, means[number], bool(thresholds) and means[number] >= thresholds[number])
        for tag, number in zip(tags, tagger.tag_numbers(tags), strict=True)
    ]


def report_html(tagger: Tagger, song: Song, tags: list[str], max_minutes: float) -> str:
    """Returns the HTML page of `interpretation.report` for a song.

    Args:
        tagger: Tagger to explain.
        song: Song to explain.
        tags: Tags to explain; empty: the highest ones.
        max_minutes: Maximum length in minutes.

    Raises:
        AudioDecodeError, ValueError: see `decoding.decoded`.
    """
    with (
        decoded(song.path, tagger.info.sample_rate, max_minutes) as wav,
        temporary_folder() as folder,
        _scoring,
    ):
        report.explain(tagger, wav, folder, tags or None, taggram=song.taggram)
        return (Path(folder) / "report.html").read_text(encoding="utf-8")


def json_file(tagger: Tagger, song: Song) -> str:
    """Writes a JSON file with all scores, overall and over time; returns its path."""
    found = Result(song.name, song.taggram)
    result = tagger.described(found, over_time=True)
    folder = tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))
    path = Path(folder) / f"{Path(song.path).stem}.json"
    path.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    return str(path)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _png(pixels: np.ndarray) -> str:
    """Returns colours [height, width, 4] as the data URL of a PNG image."""
    held = io.BytesIO()
    image.imsave(held, pixels, format="png")
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"


def html(part: str, **values) -> str:
    """Returns a rendered block of `song.html.jinja`."""
    context = _TEMPLATE.new_context(values)
    return "".join(_TEMPLATE.blocks[part](context))
