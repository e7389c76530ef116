"""A batch is a function of seed, order and number, for every backend and process."""

import dataclasses
import shutil
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from conftest import REPOSITORY
from test_clips import key, segments_of

from tagger.data import batches, building, records
from tagger.data.batches import Batches, Mixture, ReadOptions
from tagger.data.clips import UNLABELLED, Clips, open_shards
from tagger.data.manifest import Manifest
from tagger.datasets import magnatagatune
from tagger.segmentation import Segmentation


def batches_of(built, batch_size=8, num_samples=59049, **options):
    clips = open_shards(built).clips("train")
    return Batches(clips, Segmentation(num_samples), batch_size, ReadOptions(**options))


def epoch(source, number=0):
    first = number * len(source)
    return [source.batch(first + n) for n in range(len(source))]


def keys(source, number=0):
    return [key(segment) for x, _ in epoch(source, number) for segment in x]


def test_an_epoch_sees_every_training_segment_once(built):
    expected = {
        key(segment): labels for segment, labels, _ in segments_of(built, "train")
    }
    seen = [
        pair for x, y in epoch(batches_of(built)) for pair in zip(x, y, strict=True)
    ]
    assert sorted(key(segment) for segment, _ in seen) == sorted(expected)
    for segment, labels in seen:
        np.testing.assert_array_equal(labels, expected[key(segment)])


def test_segments_are_int16_and_labels_float32(built):
    segments, labels = batches_of(built, 7).batch(0)
    assert segments.shape == (7, 59049) and segments.dtype == np.int16
    assert labels.shape == (7, 10) and labels.dtype == np.float32


def test_the_order_depends_on_seed_and_epoch_alone(built):
    source = batches_of(built)
    first = keys(source)
    assert keys(batches_of(built)) == first == keys(source)
    assert keys(batches_of(built, seed=1)) != first
    assert keys(source, number=1) != first
    assert sorted(keys(source, number=1)) == sorted(first)


def test_neighbours_in_a_batch_are_of_different_clips(built):
    clip_of = {key(segment): clip for segment, _, clip in segments_of(built, "train")}
    clips = [
        [clip_of[key(segment)] for segment in x] for x, _ in epoch(batches_of(built))
    ]
    distinct = np.mean([len(set(batch)) for batch in clips])
    assert distinct > 6  # 8 random segments come from 7.0 of 24 clips on average


def test_the_segments_of_a_clip_come_within_a_window(built, monkeypatch):
    monkeypatch.setattr(batches, "WINDOW", 20)
    clip_of = {key(segment): clip for segment, _, clip in segments_of(built, "train")}
    order = [clip_of[one] for one in keys(batches_of(built))]
    for clip in set(order):
        places = [place for place, one in enumerate(order) if one == clip]
        assert places[-1] // 20 - places[0] // 20 <= 1


@pytest.mark.parametrize("crops_per_clip", [0, 2])
def test_a_clip_whose_segments_are_all_read_is_read_ahead_once(
    built, monkeypatch, crops_per_clip
):
    source, expected = batches_of(built, crops_per_clip=crops_per_clip), []
    monkeypatch.setattr(Clips, "expect", lambda clips, clip: expected.append(clip))
    epoch(source)
    assert sorted(expected) == ([] if crops_per_clip else list(range(24)))


# --- Crops, processes, mixtures -------------------------------------------------------


def starts_of(built, crops):
    """Returns where each crop begins in its clip, and which clip that is."""
    clips = {}
    for name in Manifest.load(built).shard_names("train"):
        for example in records.read_shard(built / name):
            values = records.decode(example)
            waveform = values["segments"][: values["num_samples"]]
            clips[values["clip_id"]] = waveform
    for crop in crops:
        for clip, waveform in clips.items():
            last = len(waveform) - len(crop) + 1
            hits = np.full(last, True)
            for at in range(4):
                hits &= waveform[at : at + last] == crop[at]
            hits = [
                at
                for at in np.flatnonzero(hits)
                if np.array_equal(waveform[at : at + len(crop)], crop)
            ]
            if hits:
                yield clip, hits[0]
                break
        else:
            raise AssertionError("a crop is part of no clip")


def test_crops_begin_anywhere_and_every_clip_has_its_share(built):
    source = batches_of(built, num_samples=40000, crops_per_clip=3)
    assert len(source) == 24 * 3 // 8
    first = np.concatenate([x for x, _ in epoch(source)])
    np.testing.assert_array_equal(first, np.concatenate([x for x, _ in epoch(source)]))
    assert not np.array_equal(first[:8], source.batch(len(source))[0])
    other = batches_of(built, num_samples=40000, crops_per_clip=3, seed=1)
    assert not np.array_equal(first[:8], other.batch(0)[0])
    found = list(starts_of(built, first))
    clips, counts = np.unique([clip for clip, _ in found], return_counts=True)
    assert len(clips) == 24 and set(counts) == {3}
    starts = np.array([start for _, start in found])
    assert (starts % 59049 != 0).all()
    across = (starts // 59049 != (starts + 39999) // 59049).mean()
    assert 0.4 < across < 0.95  # 68 % of crops cross a segment boundary


@pytest.mark.parametrize("crops_per_clip", [0, 2])
def test_processes_share_the_batches_of_one(built, crops_per_clip):
    one = batches_of(built, 8, seed=2, crops_per_clip=crops_per_clip)
    two = [
        batches_of(
            built, 4, seed=2, crops_per_clip=crops_per_clip, process_id=n,
            num_processes=2,
        )
        for n in (0, 1)
    ]  # fmt: skip
    assert len(one) == len(two[0]) == len(two[1])
    for number in range(2 * len(one)):
        parts = [source.batch(number) for source in two]
        for whole, halves in zip(
            one.batch(number), zip(*parts, strict=True), strict=True
        ):
            np.testing.assert_array_equal(whole, np.concatenate(halves))


@pytest.fixture
def unlabelled(corpus):
    """Returns shards with the same clips as a student split and another tag."""
    annotations = magnatagatune.load_annotations(corpus)
    student = dataclasses.replace(
        annotations, splits=np.full(32, "student"), tags=("other",),
        labels=np.zeros((32, 1), np.uint8),
    )  # fmt: skip
    building.build(student, corpus / "student", num_audios_per_shard=8, num_workers=1)
    clips = open_shards(corpus / "student").clips("student")
    assert (clips.labels == UNLABELLED).all()
    return clips.labelled(np.full((len(clips), 10), UNLABELLED))


def test_a_batch_mixes_labelled_and_unlabelled_by_weight(built, unlabelled):
    sources = [open_shards(built).clips("train"), unlabelled]
    mixed, again = (
        Mixture(sources, [2.0, 1.0], Segmentation(59049), 9, ReadOptions(seed=3))
        for _ in range(2)
    )
    assert len(mixed) == 120 // 6
    labels_of = {key(s): labels for s, labels, _ in segments_of(built, "train")}
    for number in range(25):
        x, y = mixed.batch(number)
        np.testing.assert_array_equal(x, again.batch(number)[0])
        for segment, labels in zip(x[:6], y[:6], strict=True):
            np.testing.assert_array_equal(labels, labels_of[key(segment)])
        assert (y[6:] == UNLABELLED).all() and y.shape == (9, 10)


def test_sources_that_do_not_mix_are_refused(built, built_at, unlabelled):
    clips = open_shards(built).clips("train")

    def mix(*sources, weights=(1, 1), batch_size=4):
        Mixture(sources, weights, Segmentation(59049), batch_size)

    slow = open_shards(built_at(16000)).clips("train")
    with pytest.raises(
        ValueError, match="cannot be mixed: sample_rate is 22050 in the"
    ):
        mix(clips, slow)
    with pytest.raises(ValueError, match="must be positive, not 0"):
        mix(clips, unlabelled, weights=(1, 0))
    with pytest.raises(ValueError, match="A batch of 4 is too small for 2 sources"):
        mix(clips, unlabelled, weights=(100, 1))
    with pytest.raises(ValueError, match="fewer segments than the 200 that one batch"):
        mix(clips, unlabelled, batch_size=400)
    assert batches.split_batch([1, 1, 1], 8) == [3, 3, 2]
    assert batches.split_batch([0.5, 0.5], 32) == [16, 16]


# --- To Keras -------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 5])
def test_fit_is_fed_every_batch_in_order(built, first):
    source = batches_of(built)
    with batches.feed(source.batch, first, num_threads=3) as fed:
        for number, found in zip(range(first, first + 20), fed, strict=False):
            for one, other in zip(found, source.batch(number), strict=True):
                np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), other)


@pytest.mark.slow
def test_a_program_ends_while_batches_are_read_ahead(built):
    code = (
        "import sys\nfrom tagger.data import batches, clips\n"
        "from tagger.segmentation import Segmentation\n"
        "held = clips.open_shards(sys.argv[1]).clips('train')\n"
        "options = batches.ReadOptions(crops_per_clip=1)\n"
        "source = batches.Batches(held, Segmentation(40000), 8, options)\n"
        "with batches.feed(source.batch) as fed:\n"
        "    found = iter(fed)\n    for _ in range(50):\n        next(found)\n"
    )
    command = [sys.executable, "-c", code, str(built)]
    done = subprocess.run(command, cwd=REPOSITORY, timeout=120, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_no_batch_is_read_after_training(built):
    source, running = batches_of(built), []
    lock = threading.Lock()

    def batch(number):
        with lock:
            running.append(number)
        return source.batch(number)

    with batches.feed(batch, num_threads=2) as fed:
        next(iter(fed))
    num_read = len(running)
    assert num_read < 20
    threading.Event().wait(0.2)
    assert len(running) == num_read


@pytest.mark.parametrize("crops_per_clip", [0, 1])
def test_a_corrupted_clip_ends_training_with_its_name(built, tmp_path, crops_per_clip):
    folder = shutil.copytree(built, tmp_path / "shards")
    name = Manifest.load(folder).shard_names("train")[0]
    content = bytearray((folder / name).read_bytes())
    content[-5000] ^= 1
    (folder / name).write_bytes(content)
    source = batches_of(folder, crops_per_clip=crops_per_clip)
    model = keras.Sequential([keras.layers.Rescaling(1.0), keras.layers.Dense(10)])
    model.compile(loss="mse", run_eagerly=False)
    with pytest.raises(records.CorruptShardError, match=f"Record 3 of .*{name}"):
        with batches.feed(source.batch) as fed:
            model.fit(fed, steps_per_epoch=len(source), verbose=0, shuffle=False)
