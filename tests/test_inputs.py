"""Shards -> batches: every segment once, in an order that seed and epoch decide."""

import numpy as np
import pytest
from conftest import build_corpus

from tagger import inputs, records

tf = pytest.importorskip("tensorflow")


def segments_of(built, split, num_samples=59049):
    """Every whole segment of a split, read without TensorFlow."""
    manifest = records.Manifest.load(built)
    for name in manifest.shard_names(split):
        for example in records.read_shard(built / name):
            values = records.decode(example)
            waveform = values["segments"][: values["num_samples"]]
            whole = len(waveform) // num_samples * num_samples
            for segment in waveform[:whole].reshape(-1, num_samples):
                yield segment, values["labels"], values["clip_id"]


def epoch(built, batch_size=8, first_epoch=0, seed=0, **options):
    shards = inputs.open_shards(built)
    dataset = inputs.training_segments(
        shards,
        "train",
        records.Window(59049),
        batch_size,
        seed=seed,
        first_epoch=first_epoch,
        **options,
    )
    steps = inputs.num_segments(shards, "train", records.Window(59049)) // batch_size
    return list(dataset.take(steps).as_numpy_iterator())


def cut_clip(waveform, window):
    return inputs._cut({"content": waveform, "num_samples": tf.size(waveform)}, window)


def key(segment):
    return hash(segment.tobytes())


def test_an_epoch_sees_every_training_segment_once(built):
    expected = {
        key(segment): labels for segment, labels, _ in segments_of(built, "train")
    }
    seen = [pair for x, y in epoch(built) for pair in zip(x, y, strict=True)]
    assert sorted(key(segment) for segment, _ in seen) == sorted(expected)
    for segment, labels in seen:
        np.testing.assert_array_equal(labels, expected[key(segment)])


def test_batches_are_int16_and_static(built):
    dataset = inputs.training_segments(
        inputs.open_shards(built), "train", records.Window(59049), 7
    )
    assert dataset.element_spec[0] == tf.TensorSpec((7, 59049), tf.int16)
    assert dataset.element_spec[1].dtype == tf.float32


@pytest.mark.parametrize("global_seed", [0, 5])
def test_order_hangs_on_seed_and_epoch_alone(built, global_seed):
    def order(**options):
        return [key(segment) for x, _ in epoch(built, **options) for segment in x]

    first = order()
    tf.random.set_seed(global_seed)
    assert order() == first
    assert order(seed=1) != first
    assert order(first_epoch=1) != first
    shards = inputs.open_shards(built)
    endless = inputs.training_segments(shards, "train", records.Window(59049), 8)
    second = [
        key(s) for x, _ in endless.skip(15).take(15).as_numpy_iterator() for s in x
    ]
    assert second == order(first_epoch=1)


def test_neighbours_in_a_batch_are_of_different_clips(built):
    clip_of = {key(segment): clip for segment, _, clip in segments_of(built, "train")}
    clips = [[clip_of[key(segment)] for segment in x] for x, _ in epoch(built)]
    distinct = np.mean([len(set(batch)) for batch in clips])
    assert (
        distinct > 6
    )  # 8 random segments of 24 clips have 7.0 distinct ones on average


def test_evaluation_yields_every_segment_with_its_clip(built):
    shards = inputs.open_shards(built)
    batches = list(
        inputs.evaluation_segments(
            shards, "test", records.Window(59049), 7
        ).as_numpy_iterator()
    )
    segments = np.concatenate([batch["segments"] for batch in batches])
    clip_ids = [c.decode() for batch in batches for c in batch["clip_id"]]
    expected = list(segments_of(built, "test"))
    np.testing.assert_array_equal(segments, [segment for segment, _, _ in expected])
    assert clip_ids == [clip for _, _, clip in expected]
    index = np.concatenate([batch["clip_index"] for batch in batches])
    assert index.tolist() == np.repeat(np.arange(6), 5).tolist()


@pytest.mark.parametrize("length", [3, 30, 31, 100])
def test_overlapping_windows_see_the_mirrored_clip(length):
    """As many frames as one spectrogram over the clip, padded by reflection, has."""
    window = records.Window(10, hop_samples=6, edge_samples=2)  # frames of 4, hop 1
    clip = np.arange(1, length + 1)
    cut = cut_clip(tf.constant(clip), window).numpy()
    padded = np.pad(np.resize(clip, max(length, 6)), 2, mode="reflect")
    starts = range(0, len(padded) - 9, 6)
    np.testing.assert_array_equal(cut, [padded[at : at + 10] for at in starts])
    assert len(cut) == window.num_segments(length)


@pytest.mark.parametrize("remainder", ["drop", "pad"])
@pytest.mark.parametrize("length", [3, 10, 11, 19, 20, 29])
def test_segments_are_as_many_as_were_counted(length, remainder):
    window = records.Window(10, remainder)
    assert len(cut_clip(tf.range(length), window)) == window.num_segments(length)


def test_overlapping_windows_cannot_be_padded():
    with pytest.raises(ValueError, match="can only drop their remainder"):
        records.Window(10, "pad", hop_samples=6)


def test_clips_are_cut_anew_to_another_length(built):
    shards = inputs.open_shards(built)
    assert inputs.num_segments(shards, "test", records.Window(70000)) == 6 * (
        297675 // 70000
    )
    batches = inputs.evaluation_segments(
        shards, "test", records.Window(70000), 64
    ).as_numpy_iterator()
    expected = [segment for segment, _, _ in segments_of(built, "test", 70000)]
    np.testing.assert_array_equal(next(batches)["segments"], expected)


def test_padding_keeps_the_last_window_and_short_clips_are_repeated():
    waveform = tf.range(1, 8)
    assert cut_clip(waveform, records.Window(3)).numpy().tolist() == [
        [1, 2, 3],
        [4, 5, 6],
    ]
    assert cut_clip(waveform, records.Window(3, "pad")).numpy().tolist()[-1] == [
        7,
        0,
        0,
    ]
    for remainder in ("drop", "pad"):
        cut = cut_clip(tf.range(1, 4), records.Window(7, remainder)).numpy().tolist()
        assert cut == [[1, 2, 3, 1, 2, 3, 1]]


def test_folder_or_its_parent_open_and_nothing_is_said_to_be_nothing(corpus, tmp_path):
    build_corpus(corpus)
    for folder in (corpus, corpus / "tfrecord"):
        assert inputs.open_shards(folder).directory == corpus / "tfrecord"
    with pytest.raises(FileNotFoundError, match="There are no shards in"):
        inputs.open_shards(tmp_path)
    (corpus / "tfrecord" / "train-00001-of-00006.tfrecord").unlink()
    with pytest.raises(FileNotFoundError, match="train-00001.* is missing. Run the b"):
        epoch(corpus)


def test_unfinished_build_and_absent_split_are_refused(corpus):
    manifest = build_corpus(corpus)
    with pytest.raises(
        ValueError, match="holds no student clips, only train, val, test"
    ):
        inputs.open_shards(corpus).paths("student")
    manifest.complete = False
    manifest.save(corpus / "tfrecord")
    with pytest.raises(ValueError, match="unfinished"):
        inputs.open_shards(corpus)


def test_given_counts_must_agree_with_the_manifest(built):
    shards = inputs.open_shards(built)
    shards.check_counts(4, 5)
    shards.check_counts(None, None)
    with pytest.raises(ValueError, match="--num-audios-per-shard 100 does not agree"):
        shards.check_counts(100, None)
    with pytest.raises(ValueError, match="its 24 train clips hold 120 segments"):
        shards.check_counts(None, 10)


def test_a_corrupted_record_is_named(corpus):
    build_corpus(corpus)
    path = corpus / "tfrecord/train-00002-of-00006.tfrecord"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    shards = inputs.open_shards(corpus)
    with pytest.raises(records.CorruptShardError, match="Record [12] of .*train-00002"):
        with inputs.naming_corrupt_records(shards):
            list(inputs.evaluation_segments(shards, "train", records.Window(59049), 8))


def test_a_shard_cut_at_a_record_is_named(corpus):
    """TensorFlow reads such a file without a word."""
    build_corpus(corpus)
    path = corpus / "tfrecord/test-00000-of-00001.tfrecord"
    first = next(records.read_shard(path))
    path.write_bytes(path.read_bytes()[: len(first) + 16])
    assert records.count_records(path) == 1
    with pytest.raises(FileNotFoundError, match="test-00000.* is incomplete. Run the"):
        inputs.open_shards(corpus).paths("test")


@pytest.mark.parametrize("content", [b"no example", b""])
def test_shards_of_other_projects_are_refused(tmp_path, content):
    with tf.io.TFRecordWriter(str(tmp_path / "train-0000-of-0001.tfrecord")) as writer:
        writer.write(content)
    with pytest.raises(ValueError, match="is a shard of neither this project nor"):
        inputs.open_shards(tmp_path)


def write_resemul_shards(folder):
    """Shards as resemul writes them: Example per segment, SequenceExample per clip."""
    folder.mkdir()
    random = np.random.RandomState(0)

    def feature(array):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[array.tobytes()]))

    held = {}
    for split, ending in (("train", ""), ("val", ""), ("test", ".seq")):
        path = folder / f"{split}-0000-of-0001{ending}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for _ in range(3):
                segments = random.uniform(-1, 1, (2, 59049)).astype(np.float32)
                labels = random.randint(0, 2, 4).astype(np.uint8)
                held.setdefault(split, []).append((segments, labels))
                if split == "test":
                    example = tf.train.SequenceExample(
                        context=tf.train.Features(
                            feature={"raw_labels": feature(labels)}
                        ),
                        feature_lists=tf.train.FeatureLists(
                            feature_list={
                                "raw_segments": tf.train.FeatureList(
                                    feature=[feature(segment) for segment in segments]
                                )
                            }
                        ),
                    )
                    writer.write(example.SerializeToString())
                    continue
                for segment in segments:
                    features = {
                        "raw_segment": feature(segment),
                        "raw_labels": feature(labels),
                    }
                    example = tf.train.Example(
                        features=tf.train.Features(feature=features)
                    )
                    writer.write(example.SerializeToString())
    return held


def test_shards_of_resemul_are_read(tmp_path):
    held = write_resemul_shards(tmp_path / "tfrecord")
    with pytest.warns(UserWarning, match="was built by resemul: it holds no tag names"):
        shards = inputs.open_shards(tmp_path)
    assert shards.manifest.tags == ("tag 1", "tag 2", "tag 3", "tag 4")
    assert shards.manifest.segment_samples == 59049
    assert [shards.manifest.num_segments(s) for s in ("train", "val", "test")] == [
        6,
        6,
        6,
    ]
    assert [shards.manifest.num_clips(s) for s in ("train", "val", "test")] == [6, 6, 3]
    batches = list(
        inputs.evaluation_segments(
            shards, "test", records.Window(59049), 4
        ).as_numpy_iterator()
    )
    segments = np.concatenate([batch["segments"] for batch in batches])
    np.testing.assert_array_equal(
        segments, np.concatenate([s for s, _ in held["test"]])
    )
    assert np.concatenate([b["clip_index"] for b in batches]).tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    (x, y), *_ = inputs.training_segments(
        shards, "train", records.Window(59049), 6
    ).take(1)
    expected = {key(s): y for both, y in held["train"] for s in both}
    for segment, labels in zip(x.numpy(), y.numpy(), strict=True):
        np.testing.assert_array_equal(labels, expected[key(segment)])
