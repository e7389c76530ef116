"""The builder: the same bytes always, nothing lost, every bad clip listed."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, build_corpus

from tagger import audio, building, records
from tagger.datasets import magnatagatune


def shards_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")}


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
            np.testing.assert_array_equal(held, records.to_int16(waveform))
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


def start_build(corpus, *options):
    """Starts a slow build, waits for its first shard; one shard a second is listed."""
    command = [sys.executable, "build_mtt.py", "--data-dir", str(corpus)]
    command += ["--num-audios-per-shard", "4", "--num-workers", "1", *options]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: os.nice(19),  # it shall not be done before we look
    )
    deadline = time.time() + 60
    while not any((corpus / "tfrecord").glob("*.tfrecord")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.005)
    return process, command


@pytest.fixture(scope="module")
def _long_corpus(_corpus, tmp_path_factory):
    folder = shutil.copytree(_corpus, tmp_path_factory.mktemp("long") / "corpus")
    for path in (folder / "mp3").rglob("*.mp3"):
        waveform = audio.load_audio(path, 16000)
        audio.write_audio(path, np.tile(waveform, 5), 16000)
    return folder


@pytest.fixture
def long_corpus(_long_corpus, tmp_path):
    """The clips, five times as long: a build that can be caught at work."""
    return shutil.copytree(_long_corpus, tmp_path / "corpus")


def test_kill_9_loses_no_listed_shard_and_the_same_bytes_come_out(long_corpus):
    build_corpus(long_corpus, long_corpus / "whole")
    process, command = start_build(long_corpus)
    state = long_corpus / "tfrecord"
    while not records.Manifest.load(state).shards and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    listed = records.Manifest.load(state)
    assert listed.shards and not listed.complete, "the build was not caught at work"
    modified = {name: (state / name).stat().st_mtime_ns for name in listed.shards}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, time_ns in modified.items():
        assert (state / name).stat().st_mtime_ns == time_ns, (
            "a listed shard was rebuilt"
        )
    assert shards_of(state) == shards_of(long_corpus / "whole")
    assert records.Manifest.load(state) == records.Manifest.load(long_corpus / "whole")
    assert not list(state.glob(".*.tmp"))


def test_ctrl_c_keeps_every_finished_shard_and_says_how_to_go_on(long_corpus):
    process, _ = start_build(long_corpus)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Run the same command to go on" in said
    assert "Traceback" not in said
    manifest = records.Manifest.load(long_corpus / "tfrecord")
    assert set(manifest.shards) == set(shards_of(long_corpus / "tfrecord"))
    assert not manifest.complete


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads children from /proc")
def test_workers_end_when_their_parent_is_killed(long_corpus):
    process, _ = start_build(long_corpus)
    session = process.pid

    def alive():
        """Processes of the build's session, the dead that nobody collected left out."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    yield int(folder.name)

    assert len(list(alive())) >= 2, "the build was not caught at work"
    process.kill()
    process.communicate()
    deadline = time.time() + 20
    while list(alive()) and time.time() < deadline:
        time.sleep(0.05)
    assert not list(alive())


def spoil(corpus):
    """Six bad clips: returns their names and a pattern for the reason."""
    clips = sorted((corpus / "mp3").glob("[0-5]/*.mp3"))[:6]
    clips[0].unlink()
    clips[1].write_bytes(b"")
    clips[2].write_bytes(b"no music " * 1000)
    clips[3].write_bytes(clips[3].read_bytes()[:30001])
    audio.write_audio(clips[4], np.zeros(16000, np.float32), 16000)
    clips[5].unlink()
    clips[5].mkdir()
    reasons = [
        "no such file",
        "empty",
        "FFmpeg says",
        "truncated",
        "shorter",
        "directory",
    ]
    return dict(
        zip([str(c.relative_to(corpus / "mp3")) for c in clips], reasons, strict=True)
    )


def test_bad_clips_are_listed_with_their_reasons_and_the_rest_is_built(corpus):
    bad = spoil(corpus)
    manifest = build_corpus(corpus, max_skipped=0.2)
    assert {skip["path"] for skip in manifest.skipped} == set(bad)
    for skip in manifest.skipped:
        assert bad[skip["path"]] in skip["reason"]
    written = json.loads((corpus / "tfrecord/manifest.json").read_text())
    assert written["skipped"] == sorted(
        manifest.skipped, key=lambda skip: (skip["shard"], skip["clip_id"])
    )
    assert sum(manifest.num_clips(split) for split in manifest.splits) == 26
    assert "6 clips skipped" in building.summary(manifest, corpus)


def test_too_many_skipped_fail_at_the_end_with_everything_good_written(corpus):
    spoil(corpus)
    with pytest.raises(ValueError, match="6 of 32 clips were skipped, more than --max"):
        build_corpus(corpus)
    manifest = records.Manifest.load(corpus / "tfrecord")
    assert manifest.complete and len(manifest.skipped) == 6


def test_a_clip_that_comes_back_is_taken_in(corpus, built):
    clip = next((corpus / "mp3/1").iterdir())
    content = clip.read_bytes()
    clip.write_bytes(b"")
    shutil.move(corpus / "mp3/0", corpus / "elsewhere")
    assert len(build_corpus(corpus, max_skipped=1).skipped) == 3
    shutil.move(corpus / "elsewhere", corpus / "mp3/0")
    assert len(build_corpus(corpus, max_skipped=1).skipped) == 1
    clip.write_bytes(content)
    assert build_corpus(corpus).skipped == []
    assert shards_of(corpus / "tfrecord") == shards_of(built)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"sample_rate": 16000}, "its sample_rate is 22050, this one's 16000"),
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
    with records.only_writer(corpus / "tfrecord", "--output-dir"):
        with pytest.raises(OSError, match="Another run is writing to .*--output-dir"):
            build_corpus(corpus)


def test_no_audio_at_all_is_said_before_the_work(corpus):
    shutil.rmtree(corpus / "mp3")
    with pytest.raises(FileNotFoundError, match="None of the 32 annotated clips is in"):
        build_corpus(corpus)


def test_a_folder_that_cannot_be_written_is_named(corpus):
    (corpus / "tfrecord").write_text("a file in the way")
    with pytest.raises(OSError, match="Cannot write to .*Choose another --output-dir"):
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
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
            build_corpus(corpus, full)
        assert "run the same command again" in str(caught.value)
        manifest = records.Manifest.load(full)
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


def test_an_hour_of_music_takes_little_more_than_its_int16_samples(tmp_path):
    """160 MB of samples; a float64 copy alone would be 640."""
    pytest.importorskip("resource", reason="Unix alone measures so")
    hour = np.resize(np.sin(np.arange(22050) / 9).astype(np.float32), 22050 * 3600)
    audio.write_audio(tmp_path / "hour.flac", hour, 22050)
    code = (
        "import resource, sys; from tagger import building\n"
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
