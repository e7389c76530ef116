"""Shards -> batches: every segment once, in an order set by seed and epoch."""

import dataclasses
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import REPOSITORY, build_corpus

from tagger import models
from tagger.data import building, mixing, pipeline, records
from tagger.data.manifest import Manifest
from tagger.datasets import magnatagatune
from tagger.evaluation import scoring
from tagger.segmentation import Segmentation
from tagger.training import recipes, trainer

tf = pytest.importorskip("tensorflow")


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


def epoch(built, batch_size=8, first_epoch=0, seed=0, **options):
    shards = pipeline.open_shards(built)
    dataset = pipeline.training_segments(
        shards,
        "train",
        Segmentation(59049),
        batch_size,
        pipeline.ReadOptions(seed, **options),
        first_epoch=first_epoch,
    )
    steps = pipeline.num_segments(shards, "train", Segmentation(59049)) // batch_size
    return list(dataset.take(steps).as_numpy_iterator())


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
    dataset = pipeline.training_segments(
        pipeline.open_shards(built), "train", Segmentation(59049), 7
    )
    assert dataset.element_spec[0] == tf.TensorSpec((7, 59049), tf.int16)
    assert dataset.element_spec[1].dtype == tf.float32


@pytest.mark.parametrize("global_seed", [0, 5])
def test_order_depends_on_seed_and_epoch_alone(built, global_seed):
    def order(**options):
        return [key(segment) for x, _ in epoch(built, **options) for segment in x]

    first = order()
    tf.random.set_seed(global_seed)
    assert order() == first
    assert order(seed=1) != first
    assert order(first_epoch=1) != first
    shards = pipeline.open_shards(built)
    endless = pipeline.training_segments(shards, "train", Segmentation(59049), 8)
    second = [
        key(s) for x, _ in endless.skip(15).take(15).as_numpy_iterator() for s in x
    ]
    assert second == order(first_epoch=1)


def test_neighbours_in_a_batch_are_of_different_clips(built):
    clip_of = {key(segment): clip for segment, _, clip in segments_of(built, "train")}
    clips = [[clip_of[key(segment)] for segment in x] for x, _ in epoch(built)]
    distinct = np.mean([len(set(batch)) for batch in clips])
    assert distinct > 6  # 8 random segments come from 7.0 of 24 clips on average


def test_evaluation_yields_every_segment_with_its_clip(built):
    shards = pipeline.open_shards(built)
    batches = list(
        pipeline.evaluation_segments(
            shards, "test", Segmentation(59049), 7
        ).as_numpy_iterator()
    )
    segments = np.concatenate([batch["segments"] for batch in batches])
    clip_ids = [c.decode() for batch in batches for c in batch["clip_id"]]
    expected = list(segments_of(built, "test"))
    np.testing.assert_array_equal(segments, [segment for segment, _, _ in expected])
    assert clip_ids == [clip for _, _, clip in expected]
    index = np.concatenate([batch["clip_index"] for batch in batches])
    assert index.tolist() == np.repeat(np.arange(6), 5).tolist()


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
    segmentation, num_crops = Segmentation(40000), 3
    shards = pipeline.open_shards(built)
    part = shards, "train", segmentation, 8
    options = pipeline.ReadOptions(crops_per_clip=num_crops)
    steps = pipeline.batches_per_epoch(*part, options)
    assert steps == 24 * num_crops // 8

    def crops(first_epoch=0, seed=0):
        seeded = dataclasses.replace(options, seed=seed)
        dataset = pipeline.training_segments(*part, seeded, first_epoch)
        return np.concatenate([x for x, _ in dataset.take(steps).as_numpy_iterator()])

    first = crops()
    np.testing.assert_array_equal(first, crops())
    assert not np.array_equal(first, crops(first_epoch=1))
    assert not np.array_equal(first, crops(seed=1))
    found = list(starts_of(built, first))
    clips, counts = np.unique([clip for clip, _ in found], return_counts=True)
    assert len(clips) == 24 and set(counts) == {num_crops}
    starts = np.array([start for _, start in found])
    assert (starts % 59049 != 0).all()
    across = (starts // 59049 != (starts + 39999) // 59049).mean()
    assert 0.4 < across < 0.95  # 68 % of crops cross a segment boundary


def test_processes_share_the_crops_of_an_epoch(built):
    part = pipeline.open_shards(built), "train", Segmentation(40000), 4

    def of_process(process_id):
        options = pipeline.ReadOptions(
            crops_per_clip=1, process_id=process_id, num_processes=2
        )
        steps = pipeline.batches_per_epoch(*part, options)
        assert steps == 24 // (4 * 2)
        batches = pipeline.training_segments(*part, options).take(steps)
        return np.concatenate([x for x, _ in batches.as_numpy_iterator()])

    first, second = (
        {clip for clip, _ in starts_of(built, of_process(process_id))}
        for process_id in (0, 1)
    )
    assert len(first) == len(second) == 12 and not first & second


def test_a_program_ends_while_crops_are_read_ahead(built):
    code = (
        "import sys\nfrom tagger.data import pipeline\n"
        "from tagger.segmentation import Segmentation\n"
        "shards = pipeline.open_shards(sys.argv[1])\n"
        "options = pipeline.ReadOptions(crops_per_clip=1)\n"
        "part = shards, 'train', Segmentation(40000), 8, options\n"
        "batches = iter(pipeline.training_segments(*part))\n"
        "for _ in range(50):\n    next(batches)\n"
    )
    command = [sys.executable, "-c", code, str(built)]
    done = subprocess.run(command, cwd=REPOSITORY, timeout=120, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_corrupted_clip_ends_training_on_crops_with_its_name(built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "shards")
    name = Manifest.load(folder).shard_names("train")[0]
    content = bytearray((folder / name).read_bytes())
    content[-5000] ^= 1
    (folder / name).write_bytes(content)
    shards = pipeline.open_shards(folder)
    options = pipeline.ReadOptions(crops_per_clip=1)
    batches = pipeline.training_segments(
        shards, "train", Segmentation(40000), 8, options
    )
    with pytest.raises(records.CorruptShardError, match=name):
        with pipeline.naming_corrupt_records(shards):
            list(batches.take(3))


def test_processes_share_the_shards_of_an_epoch(built):
    part = pipeline.open_shards(built), "train", Segmentation(59049), 8

    def options(process_id, num_processes=2):
        return pipeline.ReadOptions(process_id=process_id, num_processes=num_processes)

    steps = pipeline.batches_per_epoch(*part, options(0))
    assert steps == 120 // 16

    def of_process(process_id, first_epoch=0):
        dataset = pipeline.training_segments(*part, options(process_id), first_epoch)
        return [key(s) for x, _ in dataset.take(steps).as_numpy_iterator() for s in x]

    both = [of_process(process_id) for process_id in (0, 1)]
    assert not set(both[0]) & set(both[1])
    assert len(set(both[0])) == len(both[0]) == 8 * steps
    assert set(of_process(0, first_epoch=1)) != set(both[0])
    with pytest.raises(ValueError, match="6 train shards, too few for 7 processes"):
        pipeline.training_segments(*part, options(0, 7))


@pytest.fixture
def unlabelled(corpus):
    """Returns shards with the same clips as a student split and another tag."""
    annotations = magnatagatune.load_annotations(corpus)
    student = dataclasses.replace(
        annotations, splits=np.full(32, "student"), tags=("other",),
        labels=np.zeros((32, 1), np.uint8),
    )  # fmt: skip
    building.build(student, corpus / "student", num_audios_per_shard=8, num_workers=1)
    return pipeline.open_shards(corpus / "student")


def test_a_batch_mixes_labelled_and_unlabelled_by_weight(built, unlabelled):
    shards = pipeline.open_shards(built)
    sources = [
        mixing.Source(shards, "train", 2.0),
        mixing.Source(unlabelled, "student", 1.0),
    ]
    mixed = mixing.mixed_segments(
        sources, Segmentation(59049), 9, pipeline.ReadOptions(seed=3)
    )
    assert mixed.element_spec[0] == tf.TensorSpec((9, 59049), tf.int16)
    batches = list(mixed.take(25).as_numpy_iterator())
    again = list(
        mixing.mixed_segments(
            sources, Segmentation(59049), 9, pipeline.ReadOptions(seed=3)
        )
        .take(25)
        .as_numpy_iterator()
    )
    labels_of = {key(s): labels for s, labels, _ in segments_of(built, "train")}
    for (x, y), (x2, _) in zip(batches, again, strict=True):
        np.testing.assert_array_equal(x, x2)
        for segment, labels in zip(x[:6], y[:6], strict=True):
            np.testing.assert_array_equal(labels, labels_of[key(segment)])
        assert (y[6:] == pipeline.UNLABELLED).all()


def test_sources_that_do_not_mix_are_refused(built, built_at, unlabelled):
    segmentation = Segmentation(59049)
    shards = pipeline.open_shards(built)

    def mix(*sources, batch_size=4):
        mixing.mixed_segments(
            [mixing.Source(*s) for s in sources], segmentation, batch_size
        )

    slow = pipeline.open_shards(built_at(16000))
    with pytest.raises(
        ValueError, match="cannot be mixed: sample_rate is 22050 in the"
    ):
        mix((shards, "train", 1), (slow, "train", 1))
    with pytest.raises(ValueError, match="must be positive, not 0"):
        mix((shards, "train", 1), (unlabelled, "student", 0))
    with pytest.raises(ValueError, match="A batch of 4 is too small for 2 sources"):
        mix((shards, "train", 100), (unlabelled, "student", 1))
    assert mixing.split_batch([1, 1, 1], 8) == [3, 3, 2]
    assert mixing.split_batch([0.5, 0.5], 32) == [16, 16]


# --- Log-mel records, URLs ------------------------------------------------------------


@pytest.fixture(scope="module")
def log_mel(_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mel")
    options = {"features": "won2020", "sample_rate": None, "dtype": "float32"}
    build_corpus(_corpus, folder, segment_samples=48000, num_workers=1, **options)
    return pipeline.open_shards(folder)


def test_a_model_scores_log_mel_records_as_it_scores_waveforms(log_mel, built_at):
    keras.utils.set_random_seed(0)
    model = models.build_model("musicnn", num_tags=10, tags=log_mel.manifest.tags)
    info = models.model_info(model)
    scores = []
    for shards in (log_mel, pipeline.open_shards(built_at(16000))):
        predict = scoring.predictor(model, shards)
        scored = scoring.evaluate(predict, shards, info)
        order = np.argsort(scored.clip_ids)
        scores.append(scored.scores[order])
    # The records come from an FFT, which differs from the convolution by 2e-3 dB.
    np.testing.assert_allclose(*scores, atol=1e-4)
    assert np.ptp(scores[0]) > 1e-3


@pytest.mark.slow
def test_log_mel_records_train_the_network_behind_the_frontend(log_mel, tmp_path):
    stage = recipes.Stage("Adam", {}, 1e-3, 0.0, max_epochs=1, patience=1)
    recipe = recipes.TrainingRecipe(4, (stage,))
    best = trainer.train(
        "musicnn", {}, recipe, trainer.SupervisedTask(log_mel), tmp_path / "log"
    )
    model = models.load_model(best)
    assert model.predict_on_batch(np.zeros((1, 48000), np.float32)).shape == (1, 10)
    result = json.loads((tmp_path / "log/0/result.json").read_text())
    assert result["test"]["num_clips"] == 6


def test_log_mel_records_that_do_not_fit_name_the_build(log_mel, tmp_path):
    recipe, task = recipes.won2020(batch_size=4), trainer.SupervisedTask(log_mel)
    for name, words in (
        (
            "fcn",
            "spectrograms of 48000 samples each, but the model takes 464000. Build w",
        ),
        ("sample_cnn_lee", "does not take log-mel spectrograms of the preset won2020"),
        ("musicnn", "so random crops are not possible"),
    ):
        with pytest.raises(ValueError, match=words):
            trainer.train(name, {}, recipe, task, tmp_path / name)


def test_shards_behind_a_url_are_read(built):
    near, far = (
        pipeline.open_shards(built),
        pipeline.open_shards(f"file://{built}", True),
    )
    segmentation = Segmentation(59049)
    batches = [
        next(
            pipeline.training_segments(s, "train", segmentation, 4).as_numpy_iterator()
        )
        for s in (near, far)
    ]
    np.testing.assert_array_equal(batches[0][0], batches[1][0])
    with pytest.raises(FileNotFoundError, match="no shards in 'file:///nowhere'"):
        pipeline.open_shards("file:///nowhere")


def test_clips_are_cut_anew_to_another_length(built):
    shards = pipeline.open_shards(built)
    assert pipeline.num_segments(shards, "test", Segmentation(70000)) == 6 * (
        297675 // 70000
    )
    batches = pipeline.evaluation_segments(
        shards, "test", Segmentation(70000), 64
    ).as_numpy_iterator()
    expected = [segment for segment, _, _ in segments_of(built, "test", 70000)]
    np.testing.assert_array_equal(next(batches)["segments"], expected)


def test_folder_or_its_parent_open_and_nothing_is_said_to_be_nothing(corpus, tmp_path):
    build_corpus(corpus)
    for folder in (corpus, corpus / "tfrecord"):
        assert pipeline.open_shards(folder).directory == corpus / "tfrecord"
    with pytest.raises(FileNotFoundError, match="There are no shards in"):
        pipeline.open_shards(tmp_path)
    (corpus / "tfrecord" / "train-00001-of-00006.tfrecord").unlink()
    with pytest.raises(FileNotFoundError, match="train-00001.* is missing. Run the b"):
        epoch(corpus)


def test_unfinished_build_and_absent_split_are_refused(corpus):
    manifest = build_corpus(corpus)
    with pytest.raises(
        ValueError, match="holds no student clips, only train, val, test"
    ):
        pipeline.open_shards(corpus).paths("student")
    manifest.complete = False
    manifest.save(corpus / "tfrecord")
    with pytest.raises(ValueError, match="unfinished"):
        pipeline.open_shards(corpus)


def test_given_counts_must_agree_with_the_manifest(built):
    shards = pipeline.open_shards(built)
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
    shards = pipeline.open_shards(corpus)
    with pytest.raises(records.CorruptShardError, match="Record [12] of .*train-00002"):
        with pipeline.naming_corrupt_records(shards):
            list(pipeline.evaluation_segments(shards, "train", Segmentation(59049), 8))


def test_a_shard_cut_at_a_record_is_named(corpus):
    """TensorFlow reads such a file without an error."""
    build_corpus(corpus)
    path = corpus / "tfrecord/test-00000-of-00001.tfrecord"
    first = next(records.read_shard(path))
    path.write_bytes(path.read_bytes()[: len(first) + 16])
    assert records.count_records(path) == 1
    with pytest.raises(FileNotFoundError, match="test-00000.* is incomplete. Run the"):
        pipeline.open_shards(corpus).paths("test")


@pytest.mark.parametrize("content", [b"no example", b""])
def test_shards_of_other_projects_are_refused(tmp_path, content):
    with tf.io.TFRecordWriter(str(tmp_path / "train-0000-of-0001.tfrecord")) as writer:
        writer.write(content)
    with pytest.raises(ValueError, match="is a shard of neither this project nor"):
        pipeline.open_shards(tmp_path)


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
        shards = pipeline.open_shards(tmp_path)
    assert shards.manifest.tags == ("tag 1", "tag 2", "tag 3", "tag 4")
    assert shards.manifest.segment_samples == 59049
    assert [shards.manifest.num_segments(s) for s in ("train", "val", "test")] == [
        6,
        6,
        6,
    ]
    assert [shards.manifest.num_clips(s) for s in ("train", "val", "test")] == [6, 6, 3]
    batches = list(
        pipeline.evaluation_segments(
            shards, "test", Segmentation(59049), 4
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
    (x, y), *_ = pipeline.training_segments(
        shards, "train", Segmentation(59049), 6
    ).take(1)
    expected = {key(s): y for both, y in held["train"] for s in both}
    for segment, labels in zip(x.numpy(), y.numpy(), strict=True):
        np.testing.assert_array_equal(labels, expected[key(segment)])


def test_shards_of_resemul_have_the_tags_of_the_original(tmp_path, run_script):
    folder = tmp_path / "tfrecord"
    write_resemul_shards(folder, num_tags=50)
    shards = pipeline.open_shards(tmp_path)
    assert shards.names_tags and shards.manifest.tags[-1] == "guitar"
    assert shards.manifest.tags == magnatagatune.TOP_50_TAGS[::-1]
    # The counts of its train.py's defaults are accepted, though nothing records them.
    shards.check_counts(num_audios_per_shard=100, num_segments_per_audio=10)
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
        pipeline.open_shards(tmp_path, verify=True)


def test_shards_of_resemul_beside_annotations_have_their_tags(tmp_path):
    write_resemul_shards(tmp_path / "tfrecord")
    header = ["clip_id", "a", "b", "c", "d", "mp3_path"]
    rows = [[n, n < 4, n < 1, n < 3, n < 2, f"{n}/x.mp3"] for n in range(5)]
    rows = [[int(cell) if cell is True or cell is False else cell for cell in row]
            for row in rows]  # fmt: skip
    lines = ["\t".join(f'"{cell}"' for cell in row) for row in [header, *rows]]
    (tmp_path / "annotations_final.csv").write_text("\n".join(lines) + "\n")
    tags = pipeline.open_shards(tmp_path).manifest.tags
    assert tags == ("b", "d", "c", "a")  # by ascending frequency
    (tmp_path / "annotations_final.csv").write_text("")
    with pytest.warns(UserWarning, match="must be tab-separated|no tag names"):
        assert pipeline.open_shards(tmp_path).manifest.tags[0] == "tag 1"


def test_a_build_over_shards_of_resemul_says_what_it_does(corpus, run_script):
    write_resemul_shards(corpus / "tfrecord")
    done = run_script("build_mtt.py", "--data-dir", corpus)
    assert "tfrecord holds 3 shards of the original resemul, which" in done.stdout
    assert (corpus / "tfrecord/train-0000-of-0001.tfrecord").exists()
    assert pipeline.open_shards(corpus).dtype == "int16"
    assert run_script("-m", "tagger", "verify", corpus).returncode == 0


def test_exported_arrays_are_the_evaluations_segments(built, tmp_path):
    shards = pipeline.open_shards(built)
    segmentation = Segmentation(59049, "drop")
    paths = pipeline.export_arrays(
        shards, "test", segmentation, tmp_path, max_segments=7
    )
    segments, labels = map(np.load, paths)
    (batch,) = pipeline.evaluation_segments(shards, "test", segmentation, 7).take(1)
    np.testing.assert_array_equal(segments, batch["segments"])
    np.testing.assert_array_equal(labels, batch["labels"])
    assert segments.dtype == np.int16 and labels.dtype == np.uint8
    whole, _ = pipeline.export_arrays(shards, "test", segmentation, tmp_path)
    assert len(np.load(whole)) == pipeline.num_segments(shards, "test", segmentation)
