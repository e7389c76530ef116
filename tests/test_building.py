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

from tagger import audio, building, records, storage
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


# A worker process imports the script as well, and so is as slow as the builder.
SLOW_BUILD = """
import time
from tagger import building, cli

decode = building.stream_audio
def slowly(path, sample_rate):
    time.sleep(0.1)
    return decode(path, sample_rate)
building.stream_audio = slowly

if __name__ == "__main__":
    cli.run(lambda: cli.build("mtt", "slowly"), "Run the same command to go on.")
"""


@pytest.fixture
def start_build(corpus, tmp_path):
    """start_build() starts a build of .4 s a shard and waits for the first one."""
    script = tmp_path / "slow_build.py"
    script.write_text(SLOW_BUILD)

    def start(*options):
        command = [sys.executable, str(script), "--data-dir", str(corpus)]
        command += ["--num-audios-per-shard", "4", "--num-workers", "1", *options]
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.time() + 60
        while not any((corpus / "tfrecord").glob("*.tfrecord")):
            assert process.poll() is None and time.time() < deadline
            time.sleep(0.005)
        return process, command

    return start


def test_kill_9_loses_no_listed_shard_and_the_same_bytes_come_out(
    corpus, built, start_build
):
    process, command = start_build()
    state = corpus / "tfrecord"
    while not records.Manifest.load(state).shards and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    listed = records.Manifest.load(state)
    assert listed.shards and not listed.complete, "the build was not caught at work"
    modified = {name: (state / name).stat().st_mtime_ns for name in listed.shards}
    build_corpus(corpus)
    for name, time_ns in modified.items():
        assert (state / name).stat().st_mtime_ns == time_ns, (
            "a listed shard was rebuilt"
        )
    assert shards_of(state) == shards_of(built)
    assert records.Manifest.load(state) == records.Manifest.load(built)
    assert not list(state.glob(".*.tmp"))


def test_ctrl_c_keeps_every_finished_shard_and_says_how_to_go_on(corpus, start_build):
    process, _ = start_build()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Run the same command to go on" in said
    assert "Traceback" not in said
    manifest = records.Manifest.load(corpus / "tfrecord")
    assert set(manifest.shards) == set(shards_of(corpus / "tfrecord"))
    assert not manifest.complete


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads children from /proc")
def test_workers_end_when_their_parent_is_killed(start_build):
    process, _ = start_build()
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
    """A missing clip and five bad ones: returns these and a pattern for the reason."""
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
    assert (corpus / "tfrecord/missing.txt").read_text() == missing + "\n"
    said = building.summary(manifest, corpus)
    assert "24 clips, 1 without audio; 18 written" in said and "5 clips skipped" in said


def test_too_many_skipped_fail_at_the_end_with_everything_good_written(corpus):
    spoil(corpus)
    with pytest.raises(ValueError, match="1 of 32 clips is missing, more than --max-m"):
        build_corpus(corpus, max_skipped=1)
    with pytest.raises(ValueError, match="5 of 31 clips were skipped, more than --max"):
        build_corpus(corpus, max_missing=1)
    manifest = records.Manifest.load(corpus / "tfrecord")
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
    with storage.only_writer(corpus / "tfrecord", "--output-dir"):
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
