"""Audio files as people have them are read, or skipped with the reason."""

import os
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from tagger import audio
from tagger.data import building, records, verification
from tagger.datasets.annotations import Annotations


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
