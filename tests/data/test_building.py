"""The builder always writes the same bytes, loses nothing and lists every bad clip."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, build_corpus, shards_of

from tagger import audio, storage
from tagger.data import building, records, verification
from tagger.data.manifest import Manifest
from tagger.datasets import magnatagatune
from tagger.segmentation import Segmentation, cut, to_int16


def test_records_hold_the_decoded_clips_and_their_labels(corpus, built):
    annotations = magnatagatune.load_annotations(corpus)
    rows = {clip_id: row for row, clip_id in enumerate(annotations.clip_ids)}
    num_seen = 0
    for path in sorted(built.glob("*.tfrecord")):
        for example in records.read_shard(path):
            values = records.decode(example)
            row = rows[values["clip_id"]]
            waveform = audio.load_audio(corpus / "mp3" / annotations.paths[row], 22050)
            held = values["segments"][: values["num_samples"]]
            np.testing.assert_array_equal(held, to_int16(waveform))
            np.testing.assert_array_equal(values["labels"], annotations.labels[row])
            assert path.name.startswith(f"{annotations.splits[row]}-")
            num_seen += 1
    assert num_seen == len(annotations)


def test_any_number_of_workers_makes_the_same_bytes(corpus, built, tmp_path):
    build_corpus(corpus, tmp_path / "one", num_workers=1)
    assert shards_of(tmp_path / "one") == shards_of(built)
    manifests = [
        (folder / "manifest.json").read_text() for folder in (tmp_path / "one", built)
    ]
    assert manifests[0] == manifests[1]


def test_shards_are_as_many_as_resemuls(corpus):
    annotations = magnatagatune.load_annotations(corpus)
    assert annotations.counts() == {"train": 24, "val": 2, "test": 6}
    plan = building._plan_shards(annotations, 5)
    assert [name for name in plan if name.startswith("train")] == [
        f"train-0000{shard}-of-00004.tfrecord" for shard in range(4)
    ]
    assert (
        sorted(len(rows) for name, rows in plan.items() if "train" in name) == [6] * 4
    )
    assert sum(name.startswith("val") for name in plan) == 1


def test_a_rerun_makes_only_what_is_missing(corpus):
    output_dir = corpus / "tfrecord"
    manifest = build_corpus(corpus)
    before = shards_of(output_dir)
    lost = output_dir / manifest.shard_names("train")[1]
    kept = output_dir / manifest.shard_names("train")[0]
    lost.unlink()
    modified = kept.stat().st_mtime_ns
    assert build_corpus(corpus) == manifest
    assert shards_of(output_dir) == before
    assert kept.stat().st_mtime_ns == modified


def spoil(corpus):
    """Makes one clip missing and five bad; returns each bad one's expected reason."""
    clips = sorted((corpus / "mp3").glob("[0-5]/*.mp3"))[:6]
    clips[0].unlink()
    clips[1].write_bytes(b"")
    clips[2].write_bytes(b"no music " * 1000)
    clips[3].write_bytes(clips[3].read_bytes()[:30001])
    audio.write_audio(clips[4], np.zeros(16000, np.float32), 16000)
    clips[5].unlink()
    clips[5].mkdir()
    reasons = ["empty", "FFmpeg says", "truncated", "shorter", "directory"]
    names = [str(clip.relative_to(corpus / "mp3")) for clip in clips]
    return names[0], dict(zip(names[1:], reasons, strict=True))


def test_bad_clips_are_listed_with_their_reasons_and_the_rest_is_built(corpus):
    missing, bad = spoil(corpus)
    manifest = build_corpus(corpus, max_skipped=0.2, max_missing=0.1)
    assert {skip["path"] for skip in manifest.skipped} == set(bad)
    for skip in manifest.skipped:
        assert bad[skip["path"]] in skip["reason"]
    written = json.loads((corpus / "tfrecord/manifest.json").read_text())
    assert written["skipped"] == sorted(
        manifest.skipped, key=lambda skip: (skip["shard"], skip["clip_id"])
    )
    assert sum(manifest.num_clips(split) for split in manifest.splits) == 26
    sidecars = (corpus / "tfrecord").glob("*.tfrecord.json")
    listed = [json.loads(path.read_text())["missing"] for path in sidecars]
    assert sum(listed, []) == [missing]
    said = building.summary(manifest, corpus)
    assert "24 clips, 1 without audio; 18 written" in said and "5 clips skipped" in said


def test_too_many_skipped_fail_at_the_end_with_everything_good_written(corpus):
    spoil(corpus)
    with pytest.raises(ValueError, match="1 of 32 clips is missing, more than `max_m"):
        build_corpus(corpus, max_skipped=1)
    with pytest.raises(ValueError, match="5 of 31 clips were skipped, more than `max"):
        build_corpus(corpus, max_missing=1)
    manifest = Manifest.load(corpus / "tfrecord")
    assert manifest.complete and len(manifest.skipped) == 5


def test_a_clip_that_comes_back_is_taken_in(corpus, built):
    clip = next((corpus / "mp3/1").iterdir())
    content = clip.read_bytes()
    clip.write_bytes(b"")
    shutil.move(corpus / "mp3/0", corpus / "elsewhere")
    options = {"max_skipped": 1, "max_missing": 1}
    manifest = build_corpus(corpus, **options)
    assert (len(manifest.skipped), manifest.num_missing("train")) == (1, 2)
    shutil.move(corpus / "elsewhere", corpus / "mp3/0")
    manifest = build_corpus(corpus, **options)
    assert (len(manifest.skipped), manifest.num_missing("train")) == (1, 0)
    clip.write_bytes(content)
    assert build_corpus(corpus).skipped == []
    assert shards_of(corpus / "tfrecord") == shards_of(built)


def test_clips_that_went_since_stay_in_their_shards(corpus):
    options = {"max_missing": 1}
    folders = sorted((corpus / "mp3").iterdir())
    shutil.move(folders[0], corpus / "elsewhere")
    before = build_corpus(corpus, **options)
    held = shards_of(corpus / "tfrecord")
    shutil.rmtree(folders[1])
    assert build_corpus(corpus, **options) == before
    assert shards_of(corpus / "tfrecord") == held


def test_shards_of_another_build_are_never_adopted(corpus, built):
    build_corpus(corpus, sample_rate=16000)
    (corpus / "tfrecord/manifest.json").unlink()  # as a damaged one's error advises
    build_corpus(corpus)
    assert shards_of(corpus / "tfrecord") == shards_of(built)


def test_shards_without_sidecars_are_neither_replaced_nor_continued(corpus, built):
    build_corpus(corpus)
    for path in (corpus / "tfrecord").glob("*.tfrecord.json"):
        path.unlink()
    with pytest.raises(ValueError, match="without the .json files .* cannot continue"):
        build_corpus(corpus)
    assert shards_of(corpus / "tfrecord") == shards_of(built)


def test_shards_of_an_earlier_decoder_stay_with_a_note(corpus, built):
    build_corpus(corpus)
    path = corpus / "tfrecord/manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"versions": {"av": "9.0"}}))
    (corpus / "tfrecord/.tmp-12-manifest.json").touch()
    with pytest.warns(UserWarning, match="was begun with {'av': '9.0'}; its shards ar"):
        build_corpus(corpus)
    assert shards_of(corpus / "tfrecord") == shards_of(built)
    left = {path.name for path in (corpus / "tfrecord").glob(".*")}
    assert left <= {storage.LOCK_NAME}


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"sample_rate": 16000}, "its sample_rate is 22050, but this build's"),
        ({"segment_samples": 60000}, "its segment_samples is 59049"),
        ({"num_audios_per_shard": 5}, "its num_audios_per_shard is 4"),
    ],
)
def test_another_build_in_the_folder_is_refused(corpus, options, difference):
    build_corpus(corpus)
    with pytest.raises(ValueError, match=difference):
        build_corpus(corpus, **options)


def test_a_second_builder_is_kept_out(corpus):
    pytest.importorskip("fcntl")
    with storage.writer_lock(corpus / "tfrecord", "--output"):
        with pytest.raises(OSError, match="Another run is writing to .*`output_dir=`"):
            build_corpus(corpus)


def test_no_audio_at_all_is_said_before_the_work(corpus):
    shutil.rmtree(corpus / "mp3")
    with pytest.raises(FileNotFoundError, match="None of the 32 annotated clips is in"):
        build_corpus(corpus)


def test_a_folder_that_cannot_be_written_is_named(corpus):
    (corpus / "tfrecord").write_text("a file in the way")
    with pytest.raises(OSError, match="Cannot write to .*Choose another `output_dir=`"):
        build_corpus(corpus)


def test_a_full_disk_stops_cleanly(corpus, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(full)],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        with pytest.raises(storage.DiskFullError, match="run the same command again"):
            build_corpus(corpus, full)
        manifest = Manifest.load(full)
        assert not manifest.complete
        held = shards_of(full)
        assert set(manifest.shards) <= set(held)
        for name in manifest.shards:
            assert (
                sum(1 for _ in records.read_shard(full / name))
                == manifest.shards[name].num_clips
            )
    finally:
        subprocess.run(["umount", str(full)], check=True)


# --- Behind a URL ---------------------------------------------------------------------
# file:// goes through tf.io.gfile as gs:// does.


@pytest.mark.slow
def test_builds_behind_a_url_are_the_same_and_resume(corpus, built, tmp_path):
    folder = tmp_path / "bucket/shards"
    manifest = build_corpus(corpus, f"file://{folder}")
    assert shards_of(folder) == shards_of(built)
    assert manifest == Manifest.load(f"file://{folder}")
    assert not (folder / ".lock").exists()
    lost = folder / manifest.shard_names("train")[1]
    modified = {
        path.name: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")
    }
    lost.unlink()
    assert build_corpus(corpus, f"file://{folder}") == manifest
    assert shards_of(folder) == shards_of(built)
    again = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tfrecord")}
    assert [name for name in again if again[name] != modified[name]] == [lost.name]
    with pytest.raises(ValueError, match="its sample_rate is 22050, but this build's"):
        build_corpus(corpus, f"file://{folder}", sample_rate=16000)


def test_what_tensorflow_cannot_open_is_an_error_of_the_system(run_script):
    done = run_script("-m", "tagger", "verify", "nothing://bucket/shards")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "nothing" in done.stderr


def test_a_url_that_cannot_be_written_is_named(corpus, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Cannot write to .*Choose another `output_dir=`"):
        build_corpus(corpus, f"file://{tmp_path}/file/shards")


# --- Log-mel records ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=mark)
        for name in ("pons2019", "won2019", "won2020", "won2020_128", "won2021",
                     "multi_scale")
        for dtype in ("float16", "float32")
        for mark in [
            [] if (name, dtype) == ("won2020", "float16")
            else pytest.mark.slow if dtype == "float16"
            else pytest.mark.nightly
        ]
    ],
)  # fmt: skip
def test_log_mel_records_hold_what_the_models_frontend_makes(
    corpus, tmp_path, name, dtype
):
    from tagger.models import frontends, presets

    frontend = frontends.LogMelSpectrogram(name)
    rate = presets.PRESETS[name].sample_rate
    annotations = magnatagatune.load_annotations(corpus)
    manifest = building.build(
        annotations,
        tmp_path,
        segment_samples=48000,
        features=name,
        dtype=dtype,
        num_workers=1,
    )
    assert manifest.sample_rate == rate and manifest.segment_dtype == dtype
    assert not any(faults for _, faults in verification.verify(tmp_path, manifest))
    row = list(annotations.splits).index("val")
    waveform = audio.load_audio(corpus / "mp3" / annotations.paths[row], rate)
    segments = cut(to_int16(waveform), Segmentation(48000, "pad"))
    segments = segments.astype(np.float32) / 32768
    expected = np.asarray(frontend(segments))
    (shard,) = manifest.shard_names("val")
    (held,) = [
        values["segments"].reshape(-1, *manifest.segment_shape)
        for example in records.read_shard(tmp_path / shard)
        for values in [records.decode(example, dtype)]
        if values["clip_id"] == annotations.clip_ids[row]
    ]
    # Within 60 dB of the peak, FFT and convolution differ by 2e-3 dB; half a step of
    # float16 is .03; log10(10000x + 1) and the natural logarithm have smaller values.
    in_decibels = presets.PRESETS[name].logarithm.endswith("db")
    audible = expected > expected.max() - (60 if in_decibels else 3)
    atol = 2e-3 + (0.032 if dtype == "float16" else 0)
    np.testing.assert_allclose(held[audible], expected[audible], atol=atol)


@pytest.mark.parametrize(
    ("features", "preset", "num_samples"),
    [("won2019", "won2019", 65280), ("musicnn", "won2020", 48000)],
)
@pytest.mark.slow
def test_features_alone_say_which_segments(corpus, features, preset, num_samples):
    options = {"segment_samples": None, "sample_rate": None}
    manifest = build_corpus(corpus, features=features, **options)
    assert (manifest.features, manifest.segment_samples) == (preset, num_samples)
    assert manifest.sample_rate == 16000


def test_features_of_models_that_differ_name_these(corpus):
    with pytest.raises(ValueError, match="musicnn .48000 samples.*with `num_samples=`"):
        build_corpus(corpus, features="won2020", segment_samples=None)
    with pytest.raises(ValueError, match="sample_cnn has no log-mel frontend"):
        build_corpus(corpus, features="sample_cnn", segment_samples=None)


def test_features_of_another_rate_or_name_are_refused(corpus):
    with pytest.raises(ValueError, match="are computed at 22050 Hz, not at 16000 Hz"):
        build_corpus(corpus, features="won2021", sample_rate=16000)
    with pytest.raises(ValueError, match="Unknown log-mel preset 'mel'. Choose one of"):
        build_corpus(corpus, features="mel", sample_rate=None)
    with pytest.raises(
        ValueError, match="Unknown dtype 'int8'. Choose one of: float16"
    ):
        build_corpus(corpus, features="won2021", dtype="int8", sample_rate=None)


@pytest.mark.slow
def test_an_hour_of_music_takes_little_more_than_its_int16_samples(tmp_path):
    """The samples take 160 MB; a float64 copy alone would take 640 MB."""
    pytest.importorskip("resource", reason="Unix alone measures so")
    hour = np.resize(np.sin(np.arange(22050) / 9).astype(np.float32), 22050 * 3600)
    audio.write_audio(tmp_path / "hour.flac", hour, 22050)
    code = (
        "import resource, sys; from tagger.data import building\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"clip = building._load_clip({str(tmp_path / 'hour.flac')!r}, 22050, 59049)\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(len(clip), peak / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    num_samples, megabytes = done.stdout.split()
    assert int(num_samples) == 22050 * 3600
    assert float(megabytes) < 3 * 160
