"""Decision thresholds from unlabelled music.

audio files, and the share of them that should reach each threshold -> thresholds
"""

import math
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from tagger.evaluation import rates
from tagger.inference.results import Result
from tagger.inference.streaming import StreamOptions
from tagger.inference.tagger import Tagger, Taggram
from tagger.text import TaggerError

FLOOR = 0.02  # below it, a score says nothing, whatever share of the files reaches it
ABOVE_SILENCE = 1.05  # times the score of silence, which shall reach no tag, not quiet
SILENCE_SECONDS = 30


def lowest_thresholds(tagger: Tagger) -> np.ndarray:
    """Returns the lowest threshold that each tag of a model may have [num_tags]."""
    rate = tagger.info.sample_rate
    silence = np.zeros(SILENCE_SECONDS * rate, np.float32)
    scores = tagger.taggram((silence, rate)).aggregated().astype(float)
    return np.clip(ABOVE_SILENCE * scores, FLOOR, 1)


def thresholds_at_rate(
    tagger: Tagger,
    paths: Sequence[str],
    rate: float,
    bar: tqdm | None = None,
    options: StreamOptions = StreamOptions(),
) -> tuple[list[float], list[Result[Taggram]]]:
    """Returns thresholds that a share of the given music reaches, for each tag.

    They need no labels: they say which songs of a collection have most of a tag, and
    not whether any song has it. None is below that of `lowest_thresholds`, which fewer
    files may reach.

    Args:
        tagger: Tagger whose scores are counted.
        paths: Audio files.
        rate: Share of the files that reach each threshold.
        bar: Progress bar from `streaming.progress`, or None.
        options: How files are read and run.

    Returns:
        A threshold per tag, and the results of files that cannot be scored.

    Raises:
        ValueError: the rate is not between 0 and 1, or there are so few files that it
            would be less than one of them.
    """
    if not 0 < rate < 1:
        raise TaggerError(f"The share must be between 0 and 1, not {rate:g}.")
    needed = math.ceil(1 / rate)
    too_few = f"a share of {rate:g} needs at least {needed}. Give more music"
    if len(paths) < needed:
        raise TaggerError(f"There are {len(paths)} audio files, but {too_few}.")
    lowest = lowest_thresholds(tagger)
    found = list(tagger.taggrams(paths, None, bar, options))
    failed = [one for one in found if one.error]
    scores = [one.value.aggregated() for one in found if not one.error]
    if len(scores) < needed:
        raise TaggerError(
            f"Only {len(scores)} of {len(paths)} files can be decoded, but {too_few}."
            f" The first error: {failed[0].error}"
        )
    counts = np.full(len(tagger.tags), max(round(rate * len(scores)), 1))
    reached = rates.thresholds_reached_by(np.stack(scores), counts)
    return np.maximum(reached, lowest).tolist(), failed
