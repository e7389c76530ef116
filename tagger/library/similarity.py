"""Similar songs by their embeddings: neighbours of songs, and paths between two.

Embeddings are compared by their cosine after the mean over the library was subtracted.
Every song is compared: a million take under a second, and no index can be out of date.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tagger.inference.engines import Engine
from tagger.inference.streaming import StreamOptions, progress, stream_files
from tagger.library.database import Analysed
from tagger.text import TaggerError

# Of two encodings of a recording. With the student, 60 of 60 clips that were encoded
# again as mp3 at 64 kbit/s reach it, 56 of 60 as Opus at 64 kbit/s, and 49 of 356,674
# pairs of other recordings.
SAME_COSINE = 0.98
SAME_SECONDS = 2.0  # by which their lengths may differ


class Neighbours:
    """The songs of a library, ready to be compared.

    Args:
        songs: Songs of the library.

    Raises:
        ValueError: there are no songs, or no embeddings of them.
    """

    def __init__(self, songs: Analysed):
        if not songs.embeddings.size:
            raise TaggerError(
                f"The library holds no embeddings of {songs.model}. Scan again."
            )
        self._songs = songs
        self._mean = songs.embeddings.mean(axis=0)
        self._directions = self._direction(songs.embeddings)

    def _direction(self, embeddings: np.ndarray) -> np.ndarray:
        centred = embeddings - self._mean
        return centred / np.maximum(
            np.linalg.norm(centred, axis=-1, keepdims=True), 1e-12
        )

    def similar(
        self,
        seeds: np.ndarray,
        number: int,
        heard: Sequence[int] = (),
        max_per_artist: int | None = None,
        unlike: np.ndarray | None = None,
        excluded: Sequence[int] | None = None,
    ) -> list[tuple[int, float]]:
        """Returns the songs that are most similar to others on average.

        Args:
            seeds: Embeddings of the other songs, float32 [num_seeds, channels].
            number: Number of songs to return.
            heard: Rows of songs not to return, nor others with the same music.
            max_per_artist: Number of songs per artist; None: any. Songs without an
                artist are not limited.
            unlike: Embeddings of songs to which they should not be similar.
            excluded: Rows of further songs not to return.

        Returns:
            The row and the similarity (-1 to 1) of each song, the most similar first.
            No recording occurs twice.
        """
        target = self._direction(np.atleast_2d(seeds)).mean(axis=0)
        if unlike is not None and len(unlike):
            target = target - self._direction(np.atleast_2d(unlike)).mean(axis=0)
        left_out = () if excluded is None else excluded
        return self._nearest(target, number, heard, max_per_artist, (), left_out)

    def between(self, row: int, others: Sequence[int]) -> list[float]:
        """Returns how similar a song is to others, -1 to 1."""
        return (self._directions[list(others)] @ self._directions[row]).tolist()

    def path(
        self,
        first: int,
        last: int,
        number: int,
        max_per_artist: int | None = None,
    ) -> list[tuple[int, float]]:
        """Returns songs that lead from one song to another in even steps.

        Args:
            first: Row of the song at the start.
            last: Row of the song at the end.
            number: Number of songs between them.
            max_per_artist: See `similar`.

        Returns:
            The row of each song, from the first to the last, and its similarity with
            the one before (1 for the first).
        """
        start, end = self._directions[[first, last]]
        rows = [first]
        for step in range(1, number + 1):
            target = start + (end - start) * step / (number + 1)
            heard = [*rows, last]
            found = self._nearest(target, 1, heard, max_per_artist, heard)
            rows += [row for row, _ in found]
        rows.append(last)
        steps = [
            self.between(one, [other])[0]
            for one, other in zip(rows, rows[1:], strict=False)
        ]
        return list(zip(rows, [1.0, *steps], strict=True))

    def _nearest(
        self,
        target: np.ndarray,
        number: int,
        heard: Sequence[int],
        max_per_artist: int | None,
        counted: Sequence[int] = (),
        excluded: Sequence[int] = (),
    ) -> list[tuple[int, float]]:
        """Returns the nearest songs, none of which repeats one that was heard.

        The artists of the rows `counted` have had these songs already.
        """
        target = target / max(float(np.linalg.norm(target)), 1e-12)
        similarities = self._directions @ target
        heard, left_out, found = list(heard), set(map(int, excluded)), []
        num_of = Counter(self._songs.artists[row].casefold() for row in counted)
        for row in _descending(similarities):
            if len(found) == number:
                break
            if row in left_out:
                continue
            artist = self._songs.artists[row].casefold()
            if max_per_artist and artist and num_of[artist] >= max_per_artist:
                continue
            if self._repeats(row, heard):
                continue
            num_of[artist] += 1
            heard.append(row)
            found.append((int(row), float(similarities[row])))
        return found

    def _repeats(self, row: int, heard: Sequence[int]) -> bool:
        """Returns whether a song is one of others, perhaps in another encoding."""
        songs = self._songs
        others = np.array(heard, int)
        if np.isin(songs.recordings[row], songs.recordings[others]):
            return True
        title = songs.artists[row].casefold(), songs.titles[row].casefold()
        if all(title) and any(
            title == (songs.artists[other].casefold(), songs.titles[other].casefold())
            for other in heard
        ):
            return True
        cosines = self._directions[others] @ self._directions[row]
        lengths = np.abs(songs.seconds[others] - songs.seconds[row])
        return bool(((cosines >= SAME_COSINE) & (lengths <= SAME_SECONDS)).any())


def embed(engine: Engine, paths: Sequence[str], num_excerpts: int | None) -> np.ndarray:
    """Returns the embeddings of songs that a library does not hold.

    Args:
        engine: The model of the library.
        paths: Audio files.
        num_excerpts: See `StreamOptions`.

    Returns:
        float32 [num_files, channels].

    Raises:
        AudioDecodeError, ScoringError: a file cannot be decoded or analysed.
    """
    options, rows = StreamOptions(num_excerpts), []
    with progress(len(paths), "Embedding") as bar:
        for found in stream_files(engine, paths, None, ("embedding",), options, bar):
            rows.append(found.get().rows.mean(axis=0))
    return np.stack(rows)


def _descending(similarities: np.ndarray):
    """Yields the rows by falling similarity; sorts only as many as are asked for."""
    number, num_done = 1000, 0
    while num_done < len(similarities):
        number = min(number, len(similarities))
        top = np.argpartition(-similarities, number - 1)[:number]
        yield from top[np.argsort(-similarities[top], kind="stable")][num_done:]
        num_done, number = number, number * 10
