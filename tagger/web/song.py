"""A song on the page: what the model heard, in the order in which it is read."""

import contextlib
import csv
import dataclasses
import functools
import io
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from starlette.exceptions import HTTPException

from tagger.audio import AudioDecodeError, stream_audio
from tagger.inference.results import Result, ScoringError
from tagger.inference.streaming import stream_files
from tagger.inference.tagger import Tagger, Taggram
from tagger.library import mapping
from tagger.models.metadata import OUTPUTS
from tagger.text import TaggerError
from tagger.web.decoding import LIBRARY_SECONDS, decode
from tagger.weights import pretrained

NUM_COLUMNS = 600  # of the waveform
NUM_DECODERS = 4  # songs that are decoded at the same time, each in a process
MAX_TURNS = 24  # songs that are heard or wait; the server has 40 threads for all
NUM_ROWS = 5  # that are shown even if no tag reaches its threshold
NUM_NAMED = 6  # tags in the verdict
LONG_SECONDS = 180.0  # from which the verdict names the best moment
SILENCE = 1e-4  # root mean square of a silent file


@dataclasses.dataclass(frozen=True)
class Song:
    """A file that was heard.

    Attributes:
        name: Name of the file, as uploaded.
        wav: WAV file with the same samples at the rate of the model.
        sound: File with the same music that browsers can play.
        loudness: Root mean square per column [NUM_COLUMNS].
        taggram: Scores over time.
        embedding: float32 [channels].
        digest: Digest of the model that heard it; None if it has no file.
    """

    name: str
    wav: Path
    sound: Path
    loudness: np.ndarray
    taggram: Taggram
    embedding: np.ndarray
    digest: str | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A tag of a song.

    Attributes:
        tag: Name of the tag.
        group: One of `mapping.GROUPS`.
        score: Mean score.
        threshold: Threshold of the tag; None if the model holds none.
        strength: Score over threshold; the score itself if there is no threshold.
        scores: Score of each segment [num_segments].
        spoken: The scores in words, for screen readers.
        is_shown: Whether it is seen before all tags are unfolded.
    """

    tag: str
    group: str
    score: float
    threshold: float | None
    strength: float
    scores: np.ndarray
    spoken: str
    is_shown: bool = False

    @property
    def is_reached(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.threshold is not None and self.strength >= 1


class Listener:
    """Hears and explains uploads, one at a time, because one song uses all cores.

    Args:
        tagger: Tagger that scores.
        open_explainer: Function that returns the same model in Keras, whose layers are
            known; it is called once, when a song is explained.
        max_minutes: Maximum length of a song in minutes.
    """

    def __init__(
        self, tagger: Tagger, open_explainer: Callable[[], Tagger], max_minutes: float
    ):
        self.tagger, self._max_minutes = tagger, max_minutes
        self._opening, self._opened = threading.Lock(), functools.cache(open_explainer)
        self._table = mapping.read_mapping()
        self._turns = threading.Semaphore(MAX_TURNS)
        self._decoders = threading.Semaphore(NUM_DECODERS)
        self._one = threading.Lock()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Takes one of the turns to be heard, of which there are MAX_TURNS.

        Raises:
            HTTPException: all are taken (503).
        """
        if not self._turns.acquire(blocking=False):
            raise HTTPException(
                503, f"{MAX_TURNS} songs are waiting here already. Try again later."
            )
        try:
            yield
        finally:
            self._turns.release()

    def make_playable(self, path: Path, flac: Path) -> None:
        """Writes a file of the library as browsers can play it, however long it is.

        Raises:
            AudioDecodeError: it cannot be decoded, or not within LIBRARY_SECONDS.
        """
        rate = self.tagger.info.sample_rate
        with self._decoders:
            decode(path, None, rate, math.inf, flac, LIBRARY_SECONDS)

    def hear(self, path: Path, tell: Callable | None = None) -> Song:
        """Tags an upload.

        Args:
            path: The upload, as `Uploads.save` returns it; files are written to the
                folder above its own.
            tell: Function that is called with the share of the song that is scored, or
                None.

        Raises:
            AudioDecodeError: it cannot be decoded.
            ValueError: it is longer than allowed, or the model gives NaN.
        """
        try:
            return self._heard(path, tell)
        except AudioDecodeError as error:  # of a path that the sender does not know
            raise AudioDecodeError(path.name, error.reason) from error
        except ScoringError as error:
            raise ScoringError(path.name) from error

    def _heard(self, path: Path, tell: Callable | None) -> Song:
        rate, engine = self.tagger.info.sample_rate, self.tagger.engine
        # Messages and pictures name a file by its name, so the WAV file has the same.
        folder = path.parent.parent
        wav, flac = folder / "wav" / path.name, folder / "player.flac"
        wav.parent.mkdir()
        with self._decoders:
            decode(path, wav, rate, self._max_minutes, flac)
        power = [_power(block, rate) for block in stream_audio(wav, rate)]
        with self._one:
            bar = tell and _Bar(tell)
            (found,) = stream_files(engine, [wav], None, OUTPUTS, bar=bar)
        heard = found.get()
        scores, embeddings = np.split(heard.rows, [len(self.tagger.tags)], axis=1)
        taggram = Taggram(
            heard.seconds, self.tagger.segment_seconds, scores, heard.length_seconds
        )
        return Song(
            path.name,
            wav,
            flac if flac.exists() else path,
            _loudness(np.concatenate(power)),
            taggram,
            embeddings.mean(axis=0),
            self._digest,
        )

    @functools.cached_property
    def _digest(self) -> str | None:
        source = self.tagger.engine.source or self.tagger.name
        with contextlib.suppress(OSError, TaggerError):
            return pretrained.digest(source)
        return None

    def rows(self, song: Song) -> list[Row]:
        """Returns the tags of a song, those far above their thresholds first."""
        tagger, means = self.tagger, song.taggram.aggregated()
        thresholds = tagger.info.thresholds
        strengths = means / np.maximum(thresholds or 1.0, 1e-12)
        num_shown = max(int((strengths >= 1).sum() if thresholds else 0), NUM_ROWS)
        return [
            Row(
                tagger.tags[number],
                self._table.group_of(tagger.tags[number]),
                float(means[number]),
                thresholds and thresholds[number],
                float(strengths[number]),
                song.taggram.scores[:, number],
                _spoken(tagger.tags[number], song.taggram, number),
                place < num_shown,
            )
            for place, number in enumerate(np.argsort(-strengths, kind="stable"))
        ]

    def verdict(self, song: Song, rows: list[Row]) -> dict:
        """Returns what the page says of a song in a sentence.

        Returns:
            {"is_silent", "reached": tags, "num_more": further ones, "others": the
            next tags, "best": (row, score, second) or None}.
        """
        values = {}  # "female" and "woman" are one thing
        for row in rows:
            _, value = self._table.target_of(row.tag) or ("", row.tag)
            values.setdefault(value.casefold(), row)
        reached = [row for row in values.values() if row.is_reached]
        return {
            "is_silent": song.loudness.max() < SILENCE,
            "reached": [row.tag for row in reached[:NUM_NAMED]],
            "num_more": max(len(reached) - NUM_NAMED, 0),
            "others": [row.tag for row in values.values() if not row.is_reached][:3],
            "best": self._best(song, rows),
        }

    def _best(self, song: Song, rows: list[Row]) -> tuple[Row, float, float] | None:
        """Returns the tag with the highest score in a long song: row, score, second."""
        peaks = [x for x in rows if x.threshold and x.scores.max() >= x.threshold]
        if song.taggram.length_seconds < LONG_SECONDS or not peaks:
            return None
        row = max(peaks, key=lambda row: row.scores.max())
        second = max(float(song.taggram.seconds[row.scores.argmax()]), 0.0)
        return row, float(row.scores.max()), second

    def why(self, song: Song, tag: str) -> dict:
        """Explains the score of a tag where it is highest.

        Returns:
            See `report.why`.

        Raises:
            ValueError: there is no such tag, or Keras is not installed.
            HTTPException: too many songs wait (503).
        """
        with self.turn():
            explainer, report = self._explainer()
            with self._one:
                return report.why(explainer, str(song.wav), tag, song.taggram)

    def report(self, song: Song, folder: Path) -> Path:
        """Writes the report of `tagger explain`; returns the path of its page.

        Raises:
            ValueError, HTTPException: see `why`.
        """
        tags = [row.tag for row in self.rows(song)[:3]]
        with self.turn():
            explainer, report = self._explainer()
            with self._one:
                page, *_ = report.explain(
                    explainer, str(song.wav), folder, tags, taggram=song.taggram
                )
        return page

    def prepare(self) -> None:
        """Opens the explainer in a thread: a visitor who has a song may ask why."""

        def opened() -> None:
            with contextlib.suppress(TaggerError, OSError):
                self._explainer()

        threading.Thread(target=opened, daemon=True).start()

    def _explainer(self) -> tuple[Tagger, ModuleType]:
        with self._opening:
            try:
                from tagger.interpretation import report

                return self._opened(), report
            except ModuleNotFoundError as error:
                raise TaggerError(
                    f"Explaining needs {error.name}, which this server lacks. In the"
                    " folder of tagger: pip install '.[train]'."
                ) from error

    def as_json(self, song: Song) -> dict:
        """Returns all scores of a song, overall and over time."""
        return self.tagger.described(Result(song.name, song.taggram), over_time=True)

    def as_csv(self, song: Song) -> str:
        """Returns the scores of each segment as a table with a column per tag."""
        held = io.StringIO()
        table = csv.writer(held, lineterminator="\n")
        table.writerow(["second", *self.tagger.tags])
        starts = song.taggram.seconds.round(3).tolist()
        for second, scores in zip(starts, song.taggram.scores, strict=True):
            table.writerow([second, *(f"{score:.5f}" for score in scores)])
        return held.getvalue()


class _Bar:
    """A progress bar for `streaming` that tells somebody else."""

    disable = False

    def __init__(self, tell: Callable):
        self.n, self._tell = 0.0, tell

    def update(self, share: float) -> None:
        """Advances the bar by a share of the work."""
        self.n += share
        self._tell(self.n)


def _power(block: np.ndarray, sample_rate: int) -> np.ndarray:
    """Returns the mean power of every 10 ms, which takes less memory than samples."""
    step = max(sample_rate // 100, 1)
    whole = len(block) // step * step
    return np.square(block[:whole]).reshape(-1, step).mean(axis=1)


def _loudness(power: np.ndarray) -> np.ndarray:
    """Returns the root mean square of power over time, per column [NUM_COLUMNS]."""
    power = power if len(power) else np.zeros(1)
    edges = np.linspace(0, len(power), NUM_COLUMNS + 1)
    sums = np.interp(edges, np.arange(len(power) + 1), np.cumsum([0.0, *power]))
    return np.sqrt(np.maximum(np.diff(sums), 0) / np.diff(edges))


def _spoken(tag: str, taggram: Taggram, number: int) -> str:
    scores = taggram.scores[:, number]
    places = dict.fromkeys([0, int(scores.argmin()), int(scores.argmax())])
    said = [
        f"{scores[place]:.2f} at {clock(taggram.seconds[place])}"
        for place in sorted(places)
    ]
    return f"{tag}: {', '.join(said)}"


def clock(seconds: float) -> str:
    """Returns a time as players show it: `1:45`."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes}:{rest:02d}"
