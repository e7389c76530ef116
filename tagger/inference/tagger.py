"""Tags audio files of any length and format.

audio file -> segments -> scores [num_tags], averaged over the segments.
"""

import dataclasses
import os
import typing
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from tqdm import tqdm

from tagger.audio import Source, name_of, stream_audio
from tagger.inference.engines import Engine
from tagger.inference.results import Result
from tagger.inference.selection import as_engine
from tagger.inference.streaming import StreamOptions, progress, stream_files
from tagger.models.metadata import DEFAULT_MODEL
from tagger.text import TaggerError, suggest_names
from tagger.weights.pretrained import short_name

if TYPE_CHECKING:
    import keras

Aggregate = Literal["mean", "max"]


@dataclasses.dataclass(frozen=True)
class Taggram:
    """The scores of a file over time.

    Attributes:
        seconds: Start of each segment [num_segments]; negative if the model mirrors the
            music at the start of the file.
        segment_seconds: Length of a segment.
        scores: float32 [num_segments, num_tags].
        length_seconds: Length of the file.
    """

    seconds: np.ndarray
    segment_seconds: float
    scores: np.ndarray
    length_seconds: float

    def aggregated(self, aggregate: Aggregate = "mean") -> np.ndarray:
        """Returns the scores of the whole file, float32 [num_tags].

        Args:
            aggregate: "mean" or "max" over the segments.

        Raises:
            ValueError: `aggregate` is neither.
        """
        if aggregate not in typing.get_args(Aggregate):
            raise TaggerError(
                f"Unknown aggregate {aggregate!r}. Choose one of:"
                f" {', '.join(typing.get_args(Aggregate))}."
            )
        return getattr(np, aggregate)(self.scores, axis=0).astype(np.float32)


class Tagger:
    """Tags audio files with a model.

    Args:
        model: Name of a pretrained model, model file, `hf://user/name`, Keras model, or
            engine from `selection.open_engine`.
        tags: Tag names in the order of the scores, for a model that holds none.

    Attributes:
        engine: The engine that runs the model.
        name: Name of the model: what a user types, without the folder of a file.
        info: Metadata of the model.
        tags: Tag names in the order of the scores.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the tag names are unknown, or their number is not the model's.
        ImportError: the engine is not installed.

    Example:
        >>> tagger = Tagger()
        >>> tags = tagger.tag("song.mp3")  # highest first
        >>> len(tags), all(0 <= score <= 1 for score in tags.values())
        (92, True)
        >>> next(iter(tags))
        'classical'
        >>> taggram = tagger.taggram("song.mp3", hop_seconds=1)
        >>> taggram.seconds[:3].round().tolist(), taggram.scores.shape[1]
        ([0.0, 1.0, 2.0], 92)
        >>> [found.error for found in tagger.taggrams(["song.mp3", "notes.txt"])]
        [None, AudioDecodeError("Cannot decode 'notes.txt': there is no such file.")]
    """

    def __init__(
        self,
        model: "keras.Model | Engine | str | os.PathLike" = DEFAULT_MODEL,
        tags: tuple[str, ...] | None = None,
    ):
        self.engine = as_engine(model)
        self.info = self.engine.info
        self.name = short_name(self.engine.source or self.info.name)
        self.tags = self.info.tags or tags
        if not self.tags:
            raise TaggerError(
                f"Model {self.name} holds no tag names. Name them in the model: tagger"
                " models convert --tag-file FILE; or give them in Python."
            )
        if len(self.tags) != self.info.num_tags:
            raise TaggerError(
                f"Model {self.info.name} scores {self.info.num_tags} tags, but there"
                f" are {len(self.tags)} names. Give one name per tag."
            )

    @classmethod
    def from_pretrained(
        cls, name: str = DEFAULT_MODEL, precision: str = "float32"
    ) -> "Tagger":
        """Returns `Tagger(name)`, which may compute in another precision.

        Args:
            name: Name of a pretrained model, file, or `hf://user/name`.
            precision: See `selection.open_engine`.

        Raises:
            ValueError, OSError, ImportError: see `selection.open_engine`.
        """
        return cls(as_engine(name, precision))

    @property
    def model(self) -> "keras.Model":
        """The Keras model.

        Raises:
            ValueError: another engine runs the model.
        """
        if not hasattr(self.engine, "model"):
            raise TaggerError(
                f"{self.name} runs in {self.engine.name}, which does not know its"
                " layers. Give the Keras model instead (`weights.load`)."
            )
        return self.engine.model

    def scores(self, source: Source) -> np.ndarray:
        """Returns the scores of a file: float32 [num_tags], the mean over its segments.

        The source is an audio file, or a waveform with its sample rate in Hz. It is
        resampled to the model's rate. A file shorter than a segment is
        repeated until it fills one. The model's segmentation determines whether the
        incomplete last segment of a longer file is dropped or padded.

        Raises:
            AudioDecodeError: the file cannot be decoded.
        """
        return self.taggram(source).aggregated()

    def tag(
        self, source: Source | list[Source]
    ) -> dict[str, float] | list[dict[str, float]]:
        """Returns the scores of a file by tag name, highest first.

        Args:
            source: Audio file; or (waveform, sample rate in Hz), float [num_samples] at
                ±1; or a list of these, which gives a list of results.

        Raises:
            AudioDecodeError, ScoringError: a file cannot be decoded or scored. Use
                `taggrams` to continue after errors.
            ValueError: a waveform has another shape or type.
        """
        if not isinstance(source, list):
            return self.named(self.scores(source))
        results = []
        with progress(len(source), "Tagging") as bar:
            for found in self.taggrams(source, bar=bar):
                results.append(self.named(found.get().aggregated()))
        return results

    def named(self, scores: np.ndarray) -> dict[str, float]:
        """Returns scores [num_tags] by tag name, highest first."""
        return {
            self.tags[tag]: float(scores[tag])
            for tag in np.argsort(-scores, kind="stable")
        }

    def thresholds(self, threshold: float | None = None) -> dict[str, float]:
        """Returns the decision threshold of each tag.

        Args:
            threshold: Threshold of all tags; None: those that the model holds.

        Raises:
            ValueError: `threshold` is None, and the model holds no thresholds.
        """
        if threshold is not None:
            return dict.fromkeys(self.tags, threshold)
        if not self.info.thresholds:
            raise TaggerError(
                f"Model {self.name} holds no thresholds. Give one for all with"
                " `threshold=`, or derive one per tag from your music (tagger"
                " thresholds --help)."
            )
        return dict(zip(self.tags, self.info.thresholds, strict=True))

    def tag_numbers(self, names: Iterable[str]) -> list[int]:
        """Returns the positions of tags among the scores.

        Raises:
            ValueError: a tag is unknown; the message suggests the most similar ones.
        """
        numbers = []
        for name in names:
            if name not in self.tags:
                raise TaggerError(
                    f"Model {self.info.name} has no tag {name!r}."
                    f" {suggest_names(name, self.tags)}"
                )
            numbers.append(self.tags.index(name))
        return numbers

    def taggram(self, path: Source, hop_seconds: float | None = None) -> Taggram:
        """Returns the scores of a file over time.

        Args:
            path: Audio file of any length, or a waveform with its sample rate; memory
                is bounded by a few batches of segments.
            hop_seconds: Time from one segment to the next; None: the model's own hop.

        Raises:
            AudioDecodeError: the file cannot be decoded.
            ScoringError: the model gives NaN.
            ValueError: the hop is shorter than a sample or longer than a segment.
        """
        with progress(1, f"Scoring {os.path.basename(name_of(path))}") as bar:
            (found,) = self.taggrams([path], hop_seconds, bar)
        return found.get()

    def taggrams(
        self,
        paths: Iterable[Source],
        hop_seconds: float | None = None,
        bar: tqdm | None = None,
        options: StreamOptions = StreamOptions(),
    ) -> Iterator[Result[Taggram]]:
        """Scores many files; a batch may hold segments of several files.

        Args:
            paths: Audio files of any length, or waveforms with their sample rates.
            hop_seconds: See `taggram`.
            bar: Progress bar from `streaming.progress`, or None.
            options: How files are read and run.

        Yields:
            The taggram of each file in order, or why it cannot be decoded or scored.

        Raises:
            ValueError: the hop is shorter than a sample or longer than a segment.
        """
        segmentation = self.info.segmentation.with_hop(
            hop_seconds, self.info.sample_rate
        )
        outputs = ("scores",)
        for found in stream_files(
            self.engine, paths, segmentation, outputs, options, bar
        ):
            held = found.value
            yield found.with_value(
                held
                and Taggram(
                    held.seconds, self.segment_seconds, held.rows, held.length_seconds
                )
            )

    def described(
        self,
        found: Result[Taggram],
        aggregate: str = "mean",
        thresholds: dict[str, float] | None = None,
        over_time: bool = False,
    ) -> dict:
        """Returns what commands, page and HTTP say of a file, for JSON.

        Args:
            found: Result of `taggrams`.
            aggregate: "mean" or "max" over the segments of a file.
            thresholds: Lowest score per tag, below which the tag is left out; None: no
                tag is.
            over_time: Whether to add the scores of each segment.

        Returns:
            {"path", "model", "seconds", "tags": {name: score}}, the highest score
            first, perhaps with "segment_seconds", "segment_starts" and "scores"; or
            {"path", "model", "error"}.
        """
        about = {"path": name_of(found.path), "model": self.name}
        if found.error:
            return about | {"error": str(found.error)}
        taggram, lowest = found.value, thresholds or {}
        named = self.named(taggram.aggregated(aggregate)).items()
        about["seconds"] = round(taggram.length_seconds, 3)
        about["tags"] = {tag: x for tag, x in named if x >= lowest.get(tag, 0)}
        if over_time:
            columns = zip(self.tags, taggram.scores.round(5).T.tolist(), strict=True)
            about |= {
                "segment_seconds": taggram.segment_seconds,
                "segment_starts": taggram.seconds.round(3).tolist(),
                "scores": dict(columns),
            }
        return about

    @property
    def segment_seconds(self) -> float:
        """Length of a segment in seconds."""
        return self.info.segmentation.num_samples / self.info.sample_rate

    def segment(
        self, path: str | os.PathLike, start_seconds: float = 0.0
    ) -> tuple[np.ndarray, float]:
        """Reads one segment of a file without loading the whole file into memory.

        Args:
            path: Audio file of any length.
            start_seconds: Start of the segment.

        Returns:
            float32 [num_samples], and the number of seconds that come from the file. A
            file shorter than the segment is repeated if the segment starts at 0; a
            later segment that exceeds the file is padded with zeros.

        Raises:
            AudioDecodeError: the file cannot be decoded.
            ValueError: the segment starts before 0 or after the end of the file.
        """
        start = round(start_seconds * self.info.sample_rate)
        num_samples, num_seen, pieces = self.info.segmentation.num_samples, 0, []
        for block in stream_audio(path, self.info.sample_rate):
            first = max(start - num_seen, 0)
            last = start + num_samples - num_seen
            num_seen += len(block)
            if last > first:
                pieces.append(block[first:last])
            elif pieces:
                break
        piece = np.concatenate(pieces or [np.zeros(0, np.float32)])
        if start < 0 or not len(piece):
            length = num_seen / self.info.sample_rate
            raise TaggerError(
                f"A segment cannot start at {start_seconds:g} s: {str(path)!r} is"
                f" {length:.1f} s long. Choose a start within the file."
            )
        own_seconds = len(piece) / self.info.sample_rate
        if start == 0:
            return np.resize(piece, num_samples), own_seconds
        return np.pad(piece, (0, num_samples - len(piece))), own_seconds
