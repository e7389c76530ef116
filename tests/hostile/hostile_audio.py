"""Audio files made to deceive: what each is, and what decoding it must give."""

import contextlib
import os
import socket
import struct

import numpy as np

from tagger import audio

RATE = 22050
TONE = (0.3 * np.sin(np.arange(2 * RATE) / 9)).astype(np.float32)
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n"
FOREIGN = "no audio of a known format|FFmpeg says 'Invalid data"


def tone(folder, name):
    """Writes two seconds of a tone under any name."""
    audio.write_audio(folder / "tone.wav", TONE, RATE)
    os.replace(folder / "tone.wav", folder / name)
    return folder / name


def text(folder, name, content):
    tone(folder, "secret.mp3")
    (folder / name).write_text(content)
    return folder / name


def pipe(folder, name):
    os.mkfifo(folder / name)
    return folder / name


def unix_socket(folder, name):
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket must be short
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
        one.bind(name)
    os.chdir(here)
    return folder / name


def link(folder, name, target):
    (folder / name).symlink_to(target)
    return folder / name


def wav(folder, name, samples, sample_rate):
    """Writes float32 samples under a header with any sample rate."""
    content = np.asarray(samples, "<f4").tobytes()
    head = struct.pack("<HHIIHH", 3, 1, sample_rate, 4 * sample_rate, 4, 32)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head
    body += b"data" + struct.pack("<I", len(content)) + content
    (folder / name).write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return folder / name


def many_titles(folder, name, number):
    """Writes an MP3 whose ID3 tag has so many frames that opening it takes minutes."""
    frames = b"".join(
        b"TXXX" + _synchsafe(len(text)) + b"\0\0" + text
        for text in (b"\x03title%d\0x" % one for one in range(number))
    )
    path = tone(folder, name)
    path.write_bytes(
        b"ID3\x04\0\0" + _synchsafe(len(frames)) + frames + path.read_bytes()
    )
    return path


def _synchsafe(number):
    return bytes(number >> bits & 127 for bits in (21, 14, 7, 0))


# What it is -> (function of a folder that makes the file, what the error must say, or
# None if the file is decoded).
CASES = {
    "a playlist that names itself": (
        lambda folder: text(folder, "loop.mp3", PLAYLIST.format("loop.mp3")),
        FOREIGN,
    ),
    "an endless playlist": (
        lambda folder: text(folder, "a.m3u8", PLAYLIST.format("gone.ts")),
        FOREIGN,
    ),
    "a playlist of another file": (
        lambda folder: text(
            folder,
            "a.mp3",
            PLAYLIST.format("secret.mp3") + "#EXT-X-ENDLIST\n",
        ),
        FOREIGN,
    ),
    "a script that repeats another file": (
        lambda folder: text(
            folder, "a.mp3", "ffconcat version 1.0\n" + "file secret.mp3\n" * 5000
        ),
        FOREIGN,
    ),
    "a session description": (
        lambda folder: text(
            folder, "a.sdp", "v=0\nm=audio 18999 RTP/AVP 0\nc=IN IP4 127.0.0.1\n"
        ),
        FOREIGN,
    ),
    "subtitles": (
        lambda folder: text(folder, "a.srt", "1\n00:00:00,0 --> 00:00:01,0\nx\n"),
        FOREIGN,
    ),
    "a manifest of DASH": (
        lambda folder: text(
            folder,
            "a.mpd",
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011">'
            "<BaseURL>secret.mp3</BaseURL></MPD>",
        ),
        FOREIGN,
    ),
    "a name with a colon": (lambda folder: tone(folder, "Intro: Air.wav"), None),
    "a name like a URL": (
        lambda folder: tone(folder, "http:127.0.0.1:18999:x.wav"),
        None,
    ),
    "a name like a protocol of FFmpeg": (
        lambda folder: tone(folder, "subfile,,start,0,end,9,,:x.wav"),
        None,
    ),
    "a name like a sequence of images": (lambda folder: tone(folder, "%03d.wav"), None),
    "a name that is not UTF-8": (lambda folder: tone(folder, "caf\udce9.wav"), None),
    "a name with a zero byte": (
        lambda folder: f"{folder}/a\0b.mp3",
        "its name holds a zero byte",
    ),
    "a name that is too long": (
        lambda folder: folder / ("x" * 5000),
        "file name too long",
    ),
    "a URL": (
        lambda folder: "http://127.0.0.1:18999/x.mp3",
        "there is no such file",
    ),
    "a part of another file": (
        lambda folder: "subfile,,start,0,end,0,,:/etc/passwd",
        "there is no such file",
    ),
    "a pipe": (lambda folder: pipe(folder, "a.mp3"), "not a regular file"),
    "a socket": (
        lambda folder: unix_socket(folder, "a.mp3"),
        "no such device|not a regular",
    ),
    "a link to a device": (
        lambda folder: link(folder, "a.mp3", "/dev/zero"),
        "not a regular file",
    ),
    "a link to itself": (
        lambda folder: link(folder, "a.mp3", "a.mp3"),
        "too many levels of symbolic links",
    ),
    "a sample rate of 8 Hz": (
        lambda folder: wav(folder, "a.wav", TONE, 8),
        "sample rate, 8 Hz, is not between 1,000",
    ),
    "a sample rate of 1 GHz": (
        lambda folder: wav(folder, "a.wav", TONE, 1_000_000_000),
        "sample rate|FFmpeg says",
    ),
    "samples of 1e20": (
        lambda folder: wav(folder, "a.wav", TONE * 1e20, RATE),
        "holds samples of .e.19, but full scale is 1",
    ),
    "samples that are infinite": (
        lambda folder: wav(folder, "a.wav", np.append(TONE, np.inf), RATE),
        "NaN or infinite",
    ),
    "samples three times full scale": (
        lambda folder: wav(folder, "a.wav", TONE * 10, RATE),
        None,
    ),
    "100,000 titles": (
        lambda folder: many_titles(folder, "a.mp3", 100_000),
        "opening it takes longer than",
    ),
}
