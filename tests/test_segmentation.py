"""Arrays and streams are cut, and crops are read, by the same rule."""

import numpy as np
import pytest

from tagger.segmentation import (
    Segmentation,
    crop,
    cut,
    num_crops,
    stream,
)

RULES = {
    "drop": Segmentation(10),
    "pad": Segmentation(10, "pad"),
    "overlap": Segmentation(10, hop_samples=6),
    "edges": Segmentation(10, hop_samples=6, edge_samples=2),
}


def streamed(waveform, rule, block):
    blocks = (waveform[at : at + block] for at in range(0, len(waveform), block))
    return list(stream(blocks, rule))


def by_hand(waveform, rule):
    """Follows the definition: repeat, mirror, pad, then take a segment at every hop."""
    if len(waveform) < rule.shortest_samples:
        waveform = np.resize(waveform, rule.shortest_samples)
    waveform = np.pad(waveform, rule.edge_samples, mode="reflect")
    if rule.remainder == "pad":
        waveform = np.pad(waveform, (0, -len(waveform) % rule.num_samples))
    starts = range(0, len(waveform) - rule.num_samples + 1, rule.hop_samples)
    return [waveform[at : at + rule.num_samples] for at in starts]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("length", [3, 9, 10, 11, 20, 29, 31, 100])
def test_arrays_and_streams_are_cut_alike(name, length):
    waveform, rule = np.arange(1, length + 1, dtype=np.int16), RULES[name]
    expected = by_hand(waveform, rule)
    np.testing.assert_array_equal(cut(waveform, rule), expected)
    for block in (1, 7, 1000):
        np.testing.assert_array_equal(streamed(waveform, rule, block), expected)
    assert rule.num_segments(length) == len(expected)


@pytest.mark.parametrize("length", [1, 7, 40, 100])
@pytest.mark.parametrize("edge", [0, 3, 12])
def test_a_crop_is_a_segment_of_the_repeated_and_mirrored_clip(length, edge):
    segmentation = Segmentation(40, hop_samples=1, edge_samples=edge)
    waveform = np.random.default_rng(0).standard_normal(length)
    # With a hop of one sample, cutting gives every crop.
    expected = cut(waveform, segmentation)
    assert num_crops(length, segmentation) == len(expected)
    reads = []

    def read_into(start, out):
        reads.append(len(out))
        out[:] = waveform[start : start + len(out)]

    for start, segment in enumerate(expected):
        found = np.empty(40)
        crop(read_into, length, segmentation, start, found)
        np.testing.assert_array_equal(found, segment)
    assert max(reads) <= 40


def test_a_hop_is_at_least_a_sample_and_at_most_a_segment():
    padded = Segmentation(100, "pad")
    assert padded.with_hop(None, 10) == padded
    assert padded.with_hop(2.5, 10) == Segmentation(100, "drop", 25)
    for hop_seconds in (0, 0.05, 10.1, float("nan"), -1):
        with pytest.raises(
            ValueError, match="between one sample and one segment .10.0"
        ):
            padded.with_hop(hop_seconds, 10)


def test_rules_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="can only drop their remainder"):
        Segmentation(10, "pad", hop_samples=6)
    with pytest.raises(ValueError, match="remainder must be 'drop' or 'pad'"):
        Segmentation(10, "cut")
    with pytest.raises(ValueError, match="empty waveform has no segments"):
        cut(np.zeros(0), Segmentation(10))


def test_edges_that_the_shortest_clip_cannot_mirror_are_refused():
    with pytest.raises(ValueError, match="less than a third of 10"):
        Segmentation(10, edge_samples=4)
    rule = Segmentation(10, hop_samples=4, edge_samples=3)
    for length in range(1, 30):
        waveform = np.arange(1.0, length + 1)
        assert len(cut(waveform, rule)) == rule.num_segments(length)
