"""The builder always writes the same bytes, loses nothing and lists every bad clip."""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import REPOSITORY, build_corpus

from tagger import audio, storage
from tagger.data import building, pipeline, records, verification, workers
from tagger.data.manifest import Manifest
from tagger.datasets import magnatagatune
from tagger.datasets.annotations import Annotations
from tagger.segmentation import Segmentation, cut, to_int16


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


# Worker processes import this script too, so they are slowed down as well.
SLOW_BUILD = """
import time
from tagger import cli
from tagger.data import building

decode = building.stream_audio
def slowly(path, sample_rate):
    time.sleep(0.1)
    return decode(path, sample_rate)
building.stream_audio = slowly

if __name__ == "__main__":
    cli.run(cli.main_of("build", "mtt"))
"""


@pytest.fixture
def start_build(corpus, tmp_path):
    """start_build() starts a build at .4 s per shard and waits for the first shard."""
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
            # A test run in the background ignores SIGINT, and so do its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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
    while not Manifest.load(state).shards and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    listed = Manifest.load(state)
    assert listed.shards and not listed.complete, "the build was not caught at work"
    modified = {name: (state / name).stat().st_mtime_ns for name in listed.shards}
    build_corpus(corpus)
    for name, time_ns in modified.items():
        assert (state / name).stat().st_mtime_ns == time_ns, (
            "a listed shard was rebuilt"
        )
    assert shards_of(state) == shards_of(built)
    assert Manifest.load(state) == Manifest.load(built)
    assert not list(state.glob(".*.tmp"))


def test_ctrl_c_keeps_every_finished_shard_and_says_how_to_go_on(corpus, start_build):
    process, _ = start_build()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Run the same command again" in said
    assert "Traceback" not in said
    manifest = Manifest.load(corpus / "tfrecord")
    assert set(manifest.shards) == set(shards_of(corpus / "tfrecord"))
    assert not manifest.complete


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="reads children from /proc")
def test_workers_end_when_their_parent_is_killed(start_build):
    process, _ = start_build()
    session = process.pid

    def alive():
        """Returns the processes of the build's session, without zombies."""
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
    assert (corpus / "tfrecord/missing.txt").read_text() == missing + "\n"
    said = building.summary(manifest, corpus)
    assert "24 clips, 1 without audio; 18 written" in said and "5 clips skipped" in said


def test_too_many_skipped_fail_at_the_end_with_everything_good_written(corpus):
    spoil(corpus)
    with pytest.raises(ValueError, match="1 of 32 clips is missing, more than --max-m"):
        build_corpus(corpus, max_skipped=1)
    with pytest.raises(ValueError, match="5 of 31 clips were skipped, more than --max"):
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
    for known in (True, False):  # a killed build has not written its list
        assert build_corpus(corpus, **options) == before
        assert shards_of(corpus / "tfrecord") == held
        listed = (corpus / "tfrecord/missing.txt").read_text().splitlines()
        assert {line[0] for line in listed} >= {"0"}
        if known:
            (corpus / "tfrecord/missing.txt").unlink()


def test_shards_of_an_earlier_decoder_stay_with_a_note(corpus, built):
    build_corpus(corpus)
    path = corpus / "tfrecord/manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"versions": {"av": "9.0"}}))
    (corpus / "tfrecord/.manifest.json.1234.tmp").touch()
    with pytest.warns(UserWarning, match="was begun with {'av': '9.0'}; its shards ar"):
        build_corpus(corpus)
    assert shards_of(corpus / "tfrecord") == shards_of(built)
    assert not list((corpus / "tfrecord").glob(".*.tmp"))


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
    with storage.writer_lock(corpus / "tfrecord", "--output-dir"):
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


# --- Workers that die, here and on a cluster ------------------------------------------


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds workers in /proc")
def test_a_worker_that_dies_is_replaced_and_the_same_bytes_come_out(
    corpus, built, start_build
):
    process, _ = start_build()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    for child in children.split():
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
    listed = Manifest.load(corpus / "tfrecord")
    assert not listed.complete, "the build was not caught at work"
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert shards_of(corpus / "tfrecord") == shards_of(built)


def test_workers_that_die_again_and_again_end_in_one_sentence(tmp_path):
    with pytest.raises(
        workers.WorkersDied, match="died 3 times in a row without finishing a"
    ):
        workers.run(os._exit, [1], lambda *_: None, num_workers=1)


def test_a_file_that_crashes_the_decoder_is_skipped(corpus, run_script, tmp_path):
    """Every process of the build dies of one file, as with eight channels once."""
    clip = next((corpus / "mp3/1").iterdir())
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "from tagger import audio\n"
        "decode = audio.stream_audio\n"
        "def crashing(path, sample_rate):\n"
        f"    if os.fspath(path).endswith({clip.name!r}):\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return decode(path, sample_rate)\n"
        "audio.stream_audio = crashing\n"
    )
    done = run_script(
        *("build_mtt.py", "--data-dir", corpus, "--num-audios-per-shard", 4),
        *("--num-workers", 1, "--max-skipped", 1),
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
    )
    assert done.returncode == 0, done.stderr
    manifest = Manifest.load(corpus / "tfrecord")
    (skip,) = manifest.skipped
    assert skip["path"].endswith(clip.name)
    assert skip["reason"] == "it crashes the decoder (SIGSEGV)"
    assert sum(manifest.num_clips(split) for split in manifest.splits) == 31


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        yield cluster


# Dask closes its own sockets later, in its threads.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_whose_worker_dies_makes_the_same_bytes(corpus, built, cluster):
    output_dir, at_death = corpus / "tfrecord", []
    victim = next(iter(cluster.workers.values()))

    def kill():
        while not any(output_dir.glob("*.tfrecord")):
            time.sleep(0.002)
        os.kill(victim.pid, signal.SIGKILL)
        at_death.append(len(shards_of(output_dir)))

    killer = threading.Thread(target=kill)
    killer.start()
    manifest = build_corpus(corpus, scheduler=cluster.scheduler_address)
    killer.join()
    assert at_death[0] < len(manifest.shards), "the build was not caught at work"
    assert shards_of(output_dir) == shards_of(built)
    assert manifest == Manifest.load(built)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_scheduler_that_does_not_answer_is_named(corpus, monkeypatch):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with pytest.raises(
            OSError, match="No Dask scheduler answers at 'tcp://127.0.0"
        ):
            build_corpus(corpus, scheduler="tcp://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match="needs Dask: pip install"):
        build_corpus(corpus, scheduler="tcp://127.0.0.1:1")


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
    with pytest.raises(OSError, match="Cannot write to .*Choose another --output-dir"):
        build_corpus(corpus, f"file://{tmp_path}/file/shards")


# --- Log-mel records ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=[] if usual else pytest.mark.slow)
        for name in ("pons2019", "won2019", "won2020", "won2020_128", "won2021",
                     "multi_scale")
        for dtype in ("float16", "float32")
        for usual in [(name, dtype) == ("won2020", "float16")]
    ],
)  # fmt: skip
def test_log_mel_records_hold_what_the_models_frontend_makes(
    corpus, tmp_path, name, dtype
):
    from tagger.models import frontends

    frontend = frontends.LogMelSpectrogram(name)
    rate = frontends.PRESETS[name].sample_rate
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
    in_decibels = frontends.PRESETS[name].logarithm.endswith("db")
    audible = expected > expected.max() - (60 if in_decibels else 3)
    atol = 2e-3 + (0.032 if dtype == "float16" else 0)
    np.testing.assert_allclose(held[audible], expected[audible], atol=atol)


def test_features_of_another_rate_or_name_are_refused(corpus):
    with pytest.raises(ValueError, match="are computed at 22050 Hz, not at 16000 Hz"):
        build_corpus(corpus, features="won2021", sample_rate=16000)
    with pytest.raises(ValueError, match="Unknown log-mel preset 'mel'. Choose one of"):
        build_corpus(corpus, features="mel", sample_rate=None)
    with pytest.raises(
        ValueError, match="Unknown dtype 'int8'. Choose one of: float16"
    ):
        build_corpus(corpus, features="won2021", dtype="int8", sample_rate=None)


# --- Files as people have them --------------------------------------------------------


def write_wav(path, samples, sample_rate, dtype):
    """Writes [num_samples, num_channels] as wav, at any rate, with any channels."""
    import scipy.io.wavfile

    scipy.io.wavfile.write(path, sample_rate, samples.astype(dtype))


def write_video(path, with_audio):
    """Writes four seconds of black, with a constant level of .1 or without sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=5)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        sound = None
        if with_audio:
            sound = container.add_stream("aac", rate=22050, layout="mono")
        for number in range(20):
            black = np.zeros((64, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(black, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 5)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number in range(80 if sound else 0):
            samples = np.full((1, 1024), 0.1, np.float32)
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
            frame.sample_rate = 22050
            frame.pts, frame.time_base = 1024 * number, Fraction(1, 22050)
            container.mux(sound.encode(frame))
        if sound:
            container.mux(sound.encode(None))


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    """Fills a folder with odd files; returns None for each, or why it is skipped."""
    folder = tmp_path_factory.mktemp("odd")
    tone = 0.5 * np.sin(np.arange(3 * 22050) / 9).astype(np.float32)
    audio.write_audio(folder / "truncated.mp3", tone, 22050)
    whole = (folder / "truncated.mp3").read_bytes()
    (folder / "truncated.mp3").write_bytes(whole[: len(whole) // 2 + 50])
    (folder / "zero bytes.mp3").touch()
    (folder / "text.mp3").write_text("no music\n" * 1000)
    write_video(folder / "video.mp4", with_audio=True)
    write_video(folder / "mute.mp4", with_audio=False)
    eight = np.stack([tone * k / 8 for k in range(8)], axis=1)
    write_wav(folder / "eight channels.wav", eight, 22050, np.float32)
    high = 0.5 * np.sin(np.arange(3 * 192000) / 80)
    write_wav(folder / "192 kHz.wav", high, 192000, np.float32)
    broken = tone.copy()
    broken[1000] = np.nan
    write_wav(folder / "nan.wav", broken, 22050, np.float32)
    write_wav(folder / "silence.wav", np.zeros(60000), 22050, np.int16)
    write_wav(folder / "one second.wav", tone[:22050] * 30000, 22050, np.int16)
    (folder / "circle.mp3").symlink_to(folder / "circle.mp3")
    (folder / "nowhere.mp3").symlink_to(folder / "gone")
    for name in ("ä ñ 音楽.wav", "two  spaces.wav", "line\nbreak.wav", "'quote\".wav"):
        write_wav(folder / name, tone * 30000, 22050, np.int16)
    (folder / "folder.mp3").mkdir()
    shutil.copy(folder / "silence.wav", folder / "caf\udce9.wav")  # a byte of Latin 1
    return folder, {
        "truncated.mp3": "truncated", "zero bytes.mp3": "empty", "text.mp3": "FFmpeg",
        "video.mp4": None, "mute.mp4": "no audio", "eight channels.wav": None,
        "192 kHz.wav": None, "nan.wav": "NaN", "silence.wav": None,
        "one second.wav": "shorter", "circle.mp3": "link", "nowhere.mp3": "link",
        "ä ñ 音楽.wav": None, "two  spaces.wav": None, "line\nbreak.wav": None,
        "'quote\".wav": None, "folder.mp3": "directory", "caf\udce9.wav": None,
    }  # fmt: skip


def build_odd(folder, names, output_dir):
    """Builds files that each have their own tag, so that a wrong label would show."""
    ids = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
    annotations = Annotations(
        "csv", "all train", tuple(ids), np.array(ids), folder, np.array(names),
        np.eye(len(names), dtype=np.uint8), np.full(len(names), "train"),
    )  # fmt: skip
    options = {"num_workers": 1, "max_skipped": 1, "max_missing": 1}
    return building.build(annotations, output_dir, **options)


def test_odd_files_are_read_or_skipped_with_the_reason(odd_files, tmp_path):
    folder, expected = odd_files
    names = [*expected, "absent.mp3"]
    manifest = build_odd(folder, names, tmp_path)
    assert manifest.num_missing("train") == 1
    reasons = {skip["path"]: skip["reason"] for skip in manifest.skipped}
    assert set(reasons) == {name for name, reason in expected.items() if reason}
    for name, reason in reasons.items():
        assert expected[name] in reason, (name, reason)
    seen = {}
    for shard in manifest.shards:
        for example in records.read_shard(tmp_path / shard):
            values = records.decode(example)
            tag = values["labels"].argmax()
            assert manifest.tags[tag] == values["clip_id"]
            assert values["labels"].sum() == 1
            seen[names[tag]] = values["segments"][: values["num_samples"]]
    assert set(seen) == {name for name, reason in expected.items() if not reason}
    assert not seen["silence.wav"].any()
    tone = 0.5 * np.sin(np.arange(3 * 22050) / 9).astype(np.float32)
    mean = np.mean([k / 8 for k in range(8)])
    held = seen["eight channels.wav"] / 32768
    np.testing.assert_allclose(held, mean * tone, atol=2e-5)  # a step of int16
    assert abs(len(seen["192 kHz.wav"]) - 3 * 22050) <= 1
    for name in ("ä ñ 音楽.wav", "line\nbreak.wav"):
        np.testing.assert_array_equal(seen[name], (tone * 30000).astype(np.int16))
    assert not any(faults for _, faults in verification.verify(tmp_path, manifest))


def test_a_file_that_may_not_be_read_is_skipped(odd_files, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    folder = tmp_path / "music"
    folder.mkdir()
    shutil.copy(odd_files[0] / "silence.wav", folder / "secret.wav")
    (folder / "secret.wav").chmod(0)
    manifest = build_odd(folder, ["secret.wav"], tmp_path / "shards")
    assert "permission denied" in manifest.skipped[0]["reason"]


@pytest.mark.slow
def test_two_hours_are_one_clip(tmp_path):
    num_samples = 2 * 3600 * 8000
    second = (8000 * np.sin(np.arange(8000) / 9)).astype(np.int16)
    write_wav(tmp_path / "long.wav", np.resize(second, num_samples), 8000, np.int16)
    manifest = build_odd(tmp_path, ["long.wav"], tmp_path / "shards")
    assert manifest.skipped == []
    assert manifest.num_segments("train") == 2 * 3600 * 22050 // 59049
    assert not any(
        faults for _, faults in verification.verify(tmp_path / "shards", manifest)
    )


# --- Verifying ------------------------------------------------------------------------


def test_verify_names_every_bad_shard_and_record(corpus, run_script):
    manifest = build_corpus(corpus)
    folder = corpus / "tfrecord"
    good = run_script("-m", "tagger", "verify", corpus)
    assert good.returncode == 0 and "8 shards, 32 clips, 0 files with" in good.stdout
    flipped, cut, lost, copied = manifest.shard_names("train")[:4]
    content = bytearray((folder / flipped).read_bytes())
    content[len(content) // 2] ^= 1  # within the third of four records
    (folder / flipped).write_bytes(content)
    (folder / cut).write_bytes((folder / cut).read_bytes()[:-1000])
    (folder / lost).unlink()
    (folder / "val-00001-of-00002.tfrecord").write_bytes((folder / copied).read_bytes())
    bad = run_script("-m", "tagger", "verify", folder)
    assert bad.returncode == 2
    for words in (
        f"{flipped}: its checksum differs from the manifest's",
        f"{flipped}: record 2 is corrupted",
        f"{cut}: it has",
        f"{cut}: record 3 is corrupted",
        f"{lost}: it is missing",
        "val-00001-of-00002.tfrecord: the manifest does not list it",
        "4 files with faults",
    ):
        assert words in bad.stdout, words
    with pytest.raises(ValueError, match="4 files in .* failed verification"):
        pipeline.open_shards(folder, verify=True)


def test_verify_sees_what_checksums_cannot(corpus):
    """A wrong program wrote a complete shard, and a manifest that matches it."""
    manifest = build_corpus(corpus)
    name = manifest.shard_names("val")[0]
    one = next(records.read_shard(corpus / "tfrecord" / name))
    values = records.decode(one)
    segments = values["segments"].reshape(-1, 59049)
    wrong = (
        (segments, values["num_samples"], None),
        (segments, values["num_samples"], np.full(10, 2, np.uint8)),
        (segments[:-1], values["num_samples"], values["labels"]),
    )
    with records.ShardWriter(corpus / "tfrecord" / name) as writer:
        writer.write(one)
        writer.write(one)
        for content in wrong:
            writer.write(records.encode("new", *content))
        writer.write(b"no record")
    manifest.shards[name] = dataclasses.replace(
        manifest.shards[name], num_bytes=writer.num_bytes, sha256=writer.sha256
    )
    faults = dict(verification.verify(corpus / "tfrecord", manifest))
    assert sum(map(bool, faults.values())) == 1
    for fault, words in zip(
        faults[name],
        ("1 repeats", "2 does not hold 10", "3 does not hold 10", "4 holds",
         "5 is not a record", "6 clips, but 2 were written"),
        strict=True,
    ):  # fmt: skip
        assert words in fault


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
