"""Streams of any length: segments, and a thread that decodes ahead."""

import numpy as np
import pytest

from tagger.inference import streaming
from tagger.segmentation import Segmentation, stream


def cut(length, num_samples, remainder, block=1000):
    waveform = np.arange(1, length + 1, dtype=np.float32)
    blocks = (waveform[at : at + block] for at in range(0, length, block))
    return list(stream(blocks, Segmentation(num_samples, remainder)))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_windows_are_consecutive_for_any_block_length(block):
    segments = cut(25, 10, "drop", block)
    np.testing.assert_array_equal(segments, np.arange(1, 21).reshape(2, 10))
    padded = cut(25, 10, "pad", block)
    np.testing.assert_array_equal(padded[2], [21, 22, 23, 24, 25, 0, 0, 0, 0, 0])
    assert len(cut(20, 10, "pad", block)) == 2


@pytest.mark.parametrize("remainder", ["drop", "pad"])
def test_a_short_file_is_repeated_to_fill_the_segment(remainder):
    assert cut(3, 7, remainder)[0].tolist() == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize("length", [3, 30, 31, 100])
@pytest.mark.parametrize("block", [7, 1000])
def test_overlapping_windows_see_the_mirrored_clip(length, block):
    """Streaming and tf.data cut alike (see test_inputs.py)."""
    segmentation = Segmentation(10, hop_samples=6, edge_samples=2)
    clip = np.arange(1, length + 1, dtype=np.float32)
    blocks = (clip[at : at + block] for at in range(0, length, block))
    padded = np.pad(np.resize(clip, max(length, 6)), 2, mode="reflect")
    expected = [padded[at : at + 10] for at in range(0, len(padded) - 9, 6)]
    np.testing.assert_array_equal(list(stream(blocks, segmentation)), expected)


def test_an_errand_ahead_is_ended_with_its_consumer():
    made = []

    def items():
        for number in range(10**9):
            made.append(number)
            yield number

    ahead = streaming._ahead(items())
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    ahead.close()
    assert len(made) <= 3 + 4 * streaming.BATCH_SIZE + 2  # queued, and one in hand

    def failing():
        yield 1
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match="no more"):
        list(streaming._ahead(failing()))
