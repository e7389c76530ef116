"""Compares our records with what TensorFlow and TFDS read and write."""

import json

import numpy as np
import pytest
from conftest import build_corpus

from tagger.data import records
from tagger.data.manifest import Manifest
from tagger.segmentation import Segmentation, cut, to_int16

tf = pytest.importorskip("tensorflow")

WAVEFORM = np.random.RandomState(0).uniform(-1.1, 1.1, 2500).astype(np.float32)
LABELS = np.array([0, 1, 1], np.uint8)


def encode(clip_id, waveform, labels, segment_samples):
    segments = cut(to_int16(waveform), Segmentation(segment_samples, "pad"))
    return records.encode(clip_id, segments, len(waveform), labels)


def test_tensorflow_parses_what_encode_writes():
    example = tf.train.Example.FromString(encode("klänge", WAVEFORM, LABELS, 1000))
    feature = example.features.feature
    assert set(feature) == set(records.FEATURES)
    assert feature["clip_id"].bytes_list.value[0].decode() == "klänge"
    assert feature["num_samples"].int64_list.value[0] == 2500
    assert feature["labels"].bytes_list.value[0] == bytes(LABELS)
    segments = np.frombuffer(feature["segments"].bytes_list.value[0], "<i2").reshape(
        -1, 1000
    )
    expected = np.clip(np.rint(WAVEFORM * 32768), -32768, 32767)
    np.testing.assert_array_equal(segments.ravel()[:2500], expected)
    assert segments.shape == (3, 1000) and not segments.ravel()[2500:].any()


@pytest.mark.parametrize("labels", [LABELS, None])
def test_decode_inverts_encode(labels):
    values = records.decode(encode("7", WAVEFORM, labels, 1000))
    assert values["clip_id"] == "7" and values["num_samples"] == 2500
    np.testing.assert_array_equal(values["segments"][:2500], to_int16(WAVEFORM))
    if labels is None:
        assert "labels" not in values
    else:
        np.testing.assert_array_equal(values["labels"], labels)


@pytest.mark.parametrize("length", [1, 127, 128, 300, 70000])
def test_varints_of_every_length_agree_with_tensorflow(length):
    example = tf.train.Example.FromString(
        encode("x" * length, np.zeros(length, np.int16), None, length)
    )
    assert example.features.feature["num_samples"].int64_list.value[0] == length
    assert len(example.features.feature["clip_id"].bytes_list.value[0]) == length


def write_shard(path, count=3):
    with records.ShardWriter(path) as writer:
        for number in range(count):
            writer.write(encode(str(number), WAVEFORM, LABELS, 1000))
    return writer


def test_tensorflow_reads_a_shard_and_we_read_tensorflows(tmp_path):
    write_shard(tmp_path / "ours.tfrecord")
    theirs = [
        bytes(r.numpy())
        for r in tf.data.TFRecordDataset(str(tmp_path / "ours.tfrecord"))
    ]
    assert theirs == list(records.read_shard(tmp_path / "ours.tfrecord"))
    with tf.io.TFRecordWriter(str(tmp_path / "theirs.tfrecord")) as writer:
        for example in theirs:
            writer.write(example)
    ours, other = (
        (tmp_path / f"{n}.tfrecord").read_bytes() for n in ("ours", "theirs")
    )
    assert ours == other


def test_checksum_of_the_writer_is_that_of_the_file(tmp_path):
    import hashlib

    writer = write_shard(tmp_path / "a.tfrecord")
    content = (tmp_path / "a.tfrecord").read_bytes()
    assert writer.sha256 == hashlib.sha256(content).hexdigest()


def test_an_interrupted_shard_leaves_no_file(tmp_path):
    with (
        pytest.raises(RuntimeError),
        records.ShardWriter(tmp_path / "a.tfrecord") as writer,
    ):
        writer.write(b"half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["flip", "truncate", "tail"])
def test_a_corrupted_shard_is_named_with_the_number_of_its_record(tmp_path, damage):
    path = tmp_path / "train-00000-of-00001.tfrecord"
    write_shard(path)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1  # within record 1 (the second of three)
    elif damage == "truncate":
        del content[-len(content) // 2 :]
    else:
        content += b"tail"
    path.write_bytes(content)
    number = 3 if damage == "tail" else 1
    with pytest.raises(
        records.CorruptShardError, match=rf"Record {number} of .*train-00000"
    ):
        list(records.read_shard(path))


def test_manifest_comes_back(tmp_path, built):
    manifest = Manifest.load(built)
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert (tmp_path / "manifest.json").read_bytes() == (
        built / "manifest.json"
    ).read_bytes()
    counts = json.loads((built / "manifest.json").read_text())["counts"]
    assert counts["train"] == {"clips": 24, "segments": 120, "missing": 0}


def test_a_file_that_is_no_manifest_says_so(tmp_path):
    (tmp_path / "manifest.json").write_text('{"tags": 7}')
    with pytest.raises(
        ValueError, match="tags: Expected array, got int.*a manifest of"
    ):
        Manifest.load(tmp_path)


def test_tfds_reads_a_build(built):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(built))
    manifest = Manifest.load(built)
    assert {s: i.num_examples for s, i in builder.info.splits.items()} == {
        split: manifest.num_clips(split) for split in manifest.splits
    }
    shards = [path for name in manifest.shard_names("test") for path in [built / name]]
    ours = {}
    for path in shards:
        for example in records.read_shard(path):
            values = records.decode(example)
            ours[values["clip_id"]] = values
    num_read = 0
    for example in tfds.as_numpy(builder.as_dataset("test")):
        mine = ours[example["clip_id"].decode()]
        np.testing.assert_array_equal(example["segments"].ravel(), mine["segments"])
        np.testing.assert_array_equal(example["labels"], mine["labels"])
        assert example["num_samples"] == mine["num_samples"]
        num_read += 1
    assert num_read == len(ours) == manifest.num_clips("test")


def test_tfds_reads_a_build_whose_only_test_clips_were_skipped(corpus):
    tfds = pytest.importorskip("tensorflow_datasets")
    for path in (corpus / "mp3/c").iterdir():
        path.write_bytes(b"")
    build_corpus(corpus, max_skipped=1)
    builder = tfds.builder_from_directory(str(corpus / "tfrecord"))
    assert builder.info.splits["val"].num_examples == 0
    assert sum(1 for _ in builder.as_dataset("train")) == 24
