"""Audio files made to deceive end in one sentence, soon, and read nothing else."""

import os
import re
import time

import pytest
from hostile_audio import CASES, RATE, TONE

from tagger import audio, containers


@pytest.fixture(autouse=True)
def short_limits(monkeypatch):
    monkeypatch.setattr(containers, "OPEN_SECONDS", 2)


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_or_decoded(name, tmp_path):
    make, says = CASES[name]
    path = make(tmp_path)
    if says is None:
        assert len(audio.load_audio(path, RATE)) == len(TONE)
        return
    started = time.process_time()
    with pytest.raises(audio.AudioDecodeError) as caught:
        audio.load_audio(path, RATE)
    assert time.process_time() - started < 10
    assert re.search(says, caught.value.reason), caught.value


@pytest.mark.slow
def test_after_a_file_that_was_given_up_others_are_opened(tmp_path):
    bad, _ = CASES["100,000 titles"]
    (tmp_path / "bad").mkdir()
    with pytest.raises(audio.AudioDecodeError):
        audio.load_audio(bad(tmp_path / "bad"), RATE)
    path = tmp_path / "picture.mp3"  # its header is long, too, but not of many parts
    audio.write_audio(path, TONE, RATE)
    picture = b"\0image/png\0\x03\0" + bytes(1 << 20)
    size = [len(picture) >> bits & 127 for bits in (21, 14, 7, 0)]
    whole = [len(picture) + 10 >> bits & 127 for bits in (21, 14, 7, 0)]
    head = b"ID3\x04\0\0" + bytes(whole) + b"APIC" + bytes(size) + b"\0\0"
    path.write_bytes(head + picture + path.read_bytes())
    assert len(audio.load_audio(path, RATE)) >= len(TONE)


@pytest.mark.slow
def test_nothing_is_looked_for_music_only_for_seconds(tmp_path):
    path = tmp_path / "a.mp3"
    audio.write_audio(path, TONE, RATE)
    os.truncate(path, 20_000_000_000)  # a hole, which takes no space on the disk
    started = time.process_time()
    assert len(audio.load_audio(path, RATE)) >= len(TONE)
    assert time.process_time() - started < 30


def test_every_format_that_may_be_read_is_one_of_ffmpegs():
    import av

    names = {
        name for known in av.formats_available for name in (known, *_names(av, known))
    }
    assert set(containers.DEMUXERS) <= names
    optional = {"libopencore_amrnb", "libopencore_amrwb", "libopus"}
    assert set(containers.DECODERS) - optional <= av.codecs_available


def _names(av, known):
    try:
        return av.format.ContainerFormat(known, "r").name.split(",")
    except ValueError:
        return ()
