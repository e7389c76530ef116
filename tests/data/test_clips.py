"""An index of the clips in shards: every segment with its clip, whatever wrote it."""

import json
import os

import keras
import numpy as np
import pytest
from conftest import build_corpus

from tagger import models, storage
from tagger.data import building, clips, records
from tagger.data.clips import open_shards, outputs_of
from tagger.data.manifest import Manifest
from tagger.datasets import magnatagatune
from tagger.evaluation import scoring
from tagger.segmentation import Segmentation, cut
from tagger.training import recipes, tasks, trainer

tf = pytest.importorskip("tensorflow")


def key(segment):
    return hash(segment.tobytes())


def segments_of(built, split, num_samples=59049):
    """Returns every whole segment of a split, read without TensorFlow."""
    manifest = Manifest.load(built)
    for name in manifest.shard_names(split):
        for example in records.read_shard(built / name):
            values = records.decode(example)
            waveform = values["segments"][: values["num_samples"]]
            whole = len(waveform) // num_samples * num_samples
            for segment in waveform[:whole].reshape(-1, num_samples):
                yield segment, values["labels"], values["clip_id"]


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_every_segment_of_every_clip_is_read_once(built, batch_size):
    held = open_shards(built).clips("test")
    sizes = []

    def same(segments):
        sizes.append(len(segments))
        return [segments]

    rule = Segmentation(59049)
    found = [rows for (rows,) in outputs_of(same, held, rule, batch_size)]
    expected = list(segments_of(built, "test"))
    assert [len(rows) for rows in found] == 6 * [5] == held.num_segments(rule).tolist()
    np.testing.assert_array_equal(
        np.concatenate(found), [segment for segment, _, _ in expected]
    )
    labels = np.repeat(held.labels, 5, axis=0)
    np.testing.assert_array_equal(labels, [labels for _, labels, _ in expected])
    assert np.repeat(held.ids, 5).tolist() == [clip for _, _, clip in expected]
    assert set(sizes[:-1]) <= {batch_size} and sizes[-1] <= batch_size


@pytest.mark.parametrize(
    "rule",
    [
        Segmentation(59049),
        Segmentation(70000, "pad"),
        Segmentation(400000),
        Segmentation(60000, hop_samples=20000, edge_samples=500),
    ],
    ids=str,
)
def test_one_segment_of_a_clip_is_that_of_the_whole(built, rule):
    held = open_shards(built).clips("val")
    for number in range(len(held)):
        whole = held.segments(number, rule)
        np.testing.assert_array_equal(whole, cut(held.content(number), rule))
        for place, expected in enumerate(whole[: held.num_crops(rule)[number]]):
            found = np.empty(rule.num_samples, np.int16)
            start = place * rule.hop_samples
            if start < held.num_crops(rule)[number]:  # not the padded one
                held.read_segment(number, rule, start, found)
                np.testing.assert_array_equal(found, expected)


def test_segments_are_read_alike_where_the_system_cannot_read_at_a_place(
    built, monkeypatch
):
    held, rule = open_shards(built).clips("val"), Segmentation(1000)
    found = np.zeros((2, 1000), np.int16)
    held.read_segment(1, rule, 777, found[0])
    monkeypatch.delattr(os, "preadv")
    held.read_segment(1, rule, 777, found[1])
    np.testing.assert_array_equal(found, 2 * [held.content(1)[777:1777]])


def test_a_waveform_is_changed_before_it_is_cut(built):
    held, heard = open_shards(built).clips("test"), []

    def modify(waveform):
        heard.append(np.abs(waveform).max())
        return np.repeat(2 * waveform, 2)  # clipped, and twice as long

    found = held.segments(0, Segmentation(59049), modify)
    assert len(found) == 2 * 297675 // 59049 and found.dtype == np.int16
    samples = held.content(0).astype(np.int64)
    expected = np.repeat(np.clip(2 * samples, -32768, 32767), 2)
    np.testing.assert_array_equal(found.reshape(-1), expected[: found.size])
    assert heard[0] == np.abs(samples).max() / 32768


# --- The index ------------------------------------------------------------------------


def test_the_index_is_kept_and_made_again_for_shards_that_changed(corpus, monkeypatch):
    build_corpus(corpus)
    folder, walked = corpus / "tfrecord", []
    walk = clips._walk
    monkeypatch.setattr(
        clips,
        "_walk",
        lambda path, *rest: walked.append(path.name) or walk(path, *rest),
    )
    train = open_shards(corpus).clips("train")
    again = open_shards(corpus).clips("train")
    assert len(walked) == 6 and (folder / clips.INDEX_NAME).exists()
    for one, other in ((train.rows, again.rows), (train.labels, again.labels)):
        np.testing.assert_array_equal(one, other)
    open_shards(corpus).clips("test", "train")
    assert walked[6:] == ["test-00000-of-00001.tfrecord"]
    os.utime(folder / "train-00003-of-00006.tfrecord", (0, 0))
    open_shards(corpus).clips("train")
    assert walked[7:] == ["train-00003-of-00006.tfrecord"]
    (folder / clips.INDEX_NAME).write_bytes(b"no index")
    held = open_shards(corpus).clips("val", "train")
    assert len(walked) == 15 and len(held) == 24 + 2
    np.testing.assert_array_equal(held.content(2), train.content(0))
    np.testing.assert_array_equal(held.content(25), train.content(23))


def test_a_new_build_in_the_same_folder_has_an_index_of_its_own(corpus):
    build_corpus(corpus)
    assert open_shards(corpus).clips("train").labels.shape == (24, 10)
    for path in (corpus / "tfrecord").glob("*.json"):
        path.unlink()
    annotations = magnatagatune.load_annotations(corpus, num_tags=7)
    building.build(annotations, corpus / "tfrecord", num_workers=1)
    train = open_shards(corpus).clips("train")
    both = open_shards(corpus).clips("test", "train")
    assert train.labels.shape[1] == both.labels.shape[1] == 7
    assert both.ids[-len(train) :].tolist() == train.ids.tolist()


def test_an_index_needs_no_place_to_be_kept(built, monkeypatch):
    def full(*_, **__):
        raise OSError("read-only")

    monkeypatch.setattr(clips.np, "savez", full)
    monkeypatch.setattr(clips, "_load_index", lambda folder: {})
    assert len(open_shards(built).clips("train")) == 24


# --- Log-mel records, URLs ------------------------------------------------------------


@pytest.fixture(scope="module")
def log_mel(_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mel")
    options = {"features": "won2020", "sample_rate": None, "dtype": "float32"}
    build_corpus(_corpus, folder, segment_samples=48000, num_workers=1, **options)
    return open_shards(folder)


def test_a_model_scores_log_mel_records_as_it_scores_waveforms(log_mel, built_at):
    keras.utils.set_random_seed(0)
    model = models.build_model("musicnn", num_tags=10, tags=log_mel.manifest.tags)
    info = models.model_info(model)
    scores = []
    for shards in (log_mel, open_shards(built_at(16000))):
        predict = scoring.predictor(model, shards)
        scored = scoring.evaluate(predict, shards, info)
        order = np.argsort(scored.clip_ids)
        scores.append(scored.scores[order])
    # The records come from an FFT, which differs from the convolution by 2e-3 dB.
    np.testing.assert_allclose(*scores, atol=1e-4)
    assert np.ptp(scores[0]) > 1e-3


@pytest.mark.slow
def test_log_mel_records_train_the_network_behind_the_frontend(log_mel, tmp_path):
    recipe = recipes.override(
        recipes.RECIPES["multi_scale"], max_epochs=1, batch_size=4
    )
    musicnn = models.Architecture("musicnn")
    best = trainer.train(tasks.Labels(log_mel), musicnn, recipe, tmp_path / "log")
    model = models.load_model(best)
    assert model.predict_on_batch(np.zeros((1, 48000), np.float32)).shape == (1, 10)
    result = json.loads((tmp_path / "log/0/result.json").read_text())
    assert result["test"]["num_clips"] == 6


def test_log_mel_records_that_do_not_fit_name_the_build(log_mel, tmp_path):
    recipe = recipes.override(recipes.RECIPES["won2020"], batch_size=4)
    task = tasks.Labels(log_mel)
    for name, words in (
        (
            "fcn",
            "spectrograms of 48000 samples each, but the model takes 464000. Build w",
        ),
        ("sample_cnn_lee", "does not take log-mel spectrograms of the preset won2020"),
        ("musicnn", "so random crops are not possible"),
    ):
        with pytest.raises(ValueError, match=words):
            model = models.Architecture(name)
            trainer.train(task, model, recipe, tmp_path / name)


def test_shards_behind_a_url_are_copied_and_read(built, tmp_path, monkeypatch):
    monkeypatch.setenv(storage.CACHE_VARIABLE, str(tmp_path / "cache"))
    near, far = open_shards(built), open_shards(f"file://{built}", verify=True)
    assert all(tmp_path in path.parents for path in far.paths("train"))
    one, other = near.clips("train"), far.clips("train")
    np.testing.assert_array_equal(one.content(5), other.content(5))
    np.testing.assert_array_equal(one.labels, other.labels)
    damaged = far.paths("train")[0]
    damaged.write_bytes(bytes(damaged.stat().st_size))  # the copy, not the original
    open_shards(f"file://{built}", verify=True)
    np.testing.assert_array_equal(far.clips("train").content(0), one.content(0))
    copies = {path: path.stat().st_mtime_ns for path in far.paths("train")}
    open_shards(f"file://{built}").clips("train")
    assert copies == {path: path.stat().st_mtime_ns for path in copies}
    with pytest.raises(FileNotFoundError, match="no shards in 'file:///nowhere'"):
        open_shards("file:///nowhere")


def test_copies_that_do_not_fit_on_the_disk_are_refused(built, tmp_path, monkeypatch):
    monkeypatch.setenv(storage.CACHE_VARIABLE, str(tmp_path / "cache"))
    usage = storage.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        OSError, match=r"need 0.0 GB, but .* Free some space, or set TAG"
    ):
        open_shards(f"file://{built}").clips("train")


def test_clips_are_cut_anew_to_another_length(built):
    held, rule = open_shards(built).clips("test"), Segmentation(70000)
    assert held.num_segments(rule).tolist() == 6 * [297675 // 70000]
    found = np.concatenate([held.segments(n, rule) for n in range(len(held))])
    expected = [segment for segment, _, _ in segments_of(built, "test", 70000)]
    np.testing.assert_array_equal(found, expected)


def test_folder_or_its_parent_open_and_nothing_is_said_to_be_nothing(corpus, tmp_path):
    build_corpus(corpus)
    for folder in (corpus, corpus / "tfrecord"):
        assert open_shards(folder).directory == corpus / "tfrecord"
    with pytest.raises(FileNotFoundError, match="There are no shards in"):
        open_shards(tmp_path)
    (corpus / "tfrecord" / "train-00001-of-00006.tfrecord").unlink()
    with pytest.raises(FileNotFoundError, match="train-00001.* is missing. Run the b"):
        open_shards(corpus).clips("train")


def test_unfinished_build_and_absent_split_are_refused(corpus):
    manifest = build_corpus(corpus)
    with pytest.raises(
        ValueError, match="holds no student clips, only train, val, test"
    ):
        open_shards(corpus).paths("student")
    manifest.complete = False
    manifest.save(corpus / "tfrecord")
    with pytest.raises(ValueError, match="unfinished"):
        open_shards(corpus)


def test_a_corrupted_record_is_named(corpus):
    build_corpus(corpus)
    path = corpus / "tfrecord/train-00002-of-00006.tfrecord"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    held = open_shards(corpus).clips("train")
    with pytest.raises(records.CorruptShardError, match="Record [12] of .*train-00002"):
        list(outputs_of(lambda segments: [segments], held, Segmentation(59049), 8))


def test_a_corrupted_record_is_noticed_when_a_part_of_it_is_read_first(corpus):
    build_corpus(corpus)
    path = corpus / "tfrecord/train-00002-of-00006.tfrecord"
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1  # among the samples of the last record
    path.write_bytes(content)
    held, segment = open_shards(corpus).clips("train"), np.empty(1000, np.int16)
    held.read_segment(10, Segmentation(1000), 5, segment)
    np.testing.assert_array_equal(segment, held.content(10)[5:1005])
    with pytest.raises(records.CorruptShardError, match="Record 3 of .*train-00002"):
        held.read_segment(11, Segmentation(1000), 5, segment)


def test_a_shard_cut_at_a_record_is_named(corpus):
    build_corpus(corpus)
    path = corpus / "tfrecord/test-00000-of-00001.tfrecord"
    first = next(records.read_shard(path))
    path.write_bytes(path.read_bytes()[: len(first) + 16])
    assert len(list(records.read_shard(path))) == 1
    with pytest.raises(FileNotFoundError, match="test-00000.* is incomplete. Run the"):
        open_shards(corpus).paths("test")


@pytest.mark.parametrize("content", [b"no example", b""])
def test_shards_of_other_projects_are_refused(tmp_path, content):
    with tf.io.TFRecordWriter(str(tmp_path / "train-0000-of-0001.tfrecord")) as writer:
        writer.write(content)
    with pytest.raises(ValueError, match="is a shard of neither this project nor"):
        open_shards(tmp_path)


def write_resemul_shards(folder, num_tags=4):
    """Writes shards as resemul does: an Example per segment or SequenceExamples."""
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
                labels = random.randint(0, 2, num_tags).astype(np.uint8)
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
        shards = open_shards(tmp_path)
    assert shards.manifest.tags == ("tag 1", "tag 2", "tag 3", "tag 4")
    assert shards.manifest.segment_samples == 59049
    assert [shards.manifest.num_segments(s) for s in ("train", "val", "test")] == [
        6,
        6,
        6,
    ]
    assert [shards.manifest.num_clips(s) for s in ("train", "val", "test")] == [6, 6, 3]
    test, train, rule = shards.clips("test"), shards.clips("train"), Segmentation(59049)
    assert test.ids.tolist() == ["0", "1", "2"]
    rows = outputs_of(lambda segments: [segments], test, rule, 4)
    for (found,), (segments, labels), row in zip(
        rows, held["test"], test.labels, strict=True
    ):
        np.testing.assert_array_equal(found, segments)
        np.testing.assert_array_equal(row, labels)
    # A crop may begin in one of the original's segments and end in the next.
    crop = np.empty(59049, np.float32)
    test.read_segment(1, rule, 40000, crop)
    whole = held["test"][1][0].reshape(-1)
    np.testing.assert_array_equal(crop, whole[40000 : 40000 + 59049])
    every = [(one, labels) for both, labels in held["train"] for one in both]
    for number, (segment, labels) in enumerate(every):
        np.testing.assert_array_equal(train.content(number), segment)
        np.testing.assert_array_equal(train.labels[number], labels)


def test_shards_of_resemul_have_the_tags_of_the_original(tmp_path, run_script):
    folder = tmp_path / "tfrecord"
    write_resemul_shards(folder, num_tags=50)
    shards = open_shards(tmp_path)
    assert shards.names_tags and shards.manifest.tags[-1] == "guitar"
    assert shards.manifest.tags == magnatagatune.TOP_50_TAGS[::-1]
    done = run_script("-m", "tagger", "verify", tmp_path)
    assert "3 shards of the original resemul" in done.stdout
    damaged = bytearray((folder / "val-0000-of-0001.tfrecord").read_bytes())
    damaged[5000] ^= 1
    (folder / "val-0000-of-0001.tfrecord").write_bytes(damaged)
    (folder / "train-0000-of-0001.tfrecord").rename(
        folder / "train-0000-of-0002.tfrecord"
    )
    (folder / "test-0000-of-0001.seq.tfrecord").write_bytes(b"")
    done = run_script("-m", "tagger", "verify", tmp_path)
    assert done.returncode == 2
    assert "val-0000-of-0001.tfrecord: record 0 is corrupted" in done.stdout
    assert "train-0001-of-0002.tfrecord: it is missing" in done.stdout
    assert "test-0000-of-0001.seq.tfrecord: it is empty" in done.stdout
    with pytest.raises(ValueError, match="3 files in .* failed verification"):
        open_shards(tmp_path, verify=True)


def test_shards_of_resemul_beside_annotations_have_their_tags(tmp_path):
    write_resemul_shards(tmp_path / "tfrecord")
    header = ["clip_id", "a", "b", "c", "d", "mp3_path"]
    rows = [[n, n < 4, n < 1, n < 3, n < 2, f"{n}/x.mp3"] for n in range(5)]
    rows = [[int(cell) if cell is True or cell is False else cell for cell in row]
            for row in rows]  # fmt: skip
    lines = ["\t".join(f'"{cell}"' for cell in row) for row in [header, *rows]]
    (tmp_path / "annotations_final.csv").write_text("\n".join(lines) + "\n")
    tags = open_shards(tmp_path).manifest.tags
    assert tags == ("b", "d", "c", "a")  # by ascending frequency
    (tmp_path / "annotations_final.csv").write_text("")
    with pytest.warns(UserWarning, match="must be tab-separated|no tag names"):
        assert open_shards(tmp_path).manifest.tags[0] == "tag 1"


def test_a_build_over_shards_of_resemul_says_what_it_does(corpus, run_script):
    write_resemul_shards(corpus / "tfrecord")
    done = run_script("build_mtt.py", "--data-dir", corpus)
    assert "tfrecord holds 3 shards of the original resemul, which" in done.stdout
    assert (corpus / "tfrecord/train-0000-of-0001.tfrecord").exists()
    assert open_shards(corpus).dtype == "int16"
    assert run_script("-m", "tagger", "verify", corpus).returncode == 0
