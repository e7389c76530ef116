"""Writing into the user's files: nothing of theirs is lost, whatever happens."""

import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zlib

import av
import mutagen
import numpy as np
import pytest
from collection import CODECS, TAGS, make_song
from conftest import REPOSITORY, call

from tagger import storage
from tagger.library import database, fields, journal, mapping, songs, writing

NAMES = ["genre", "mood", "autotags"]
WANTED = {
    "genre": ["Rock", "Hip-Hop"],
    "mood": ["sad"],
    "autotags": ["no vocals", "guitar; loud / 🎸"],
}


def digests(folder):
    """Returns the checksum of every file in a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_all(scanner, folder, wanted):
    """Writes the same values to every song of a library; returns the errors."""
    errors = {}
    with (
        database.writer(scanner.path) as library,
        journal.open_journal(scanner.path) as opened,
    ):
        for path in library.paths([str(folder)]):
            try:
                change = writing.planned(path, wanted)
                if change.fields:
                    writing.write(library, opened, change)
            except (ValueError, OSError) as error:
                errors[path] = error
    return errors


def undo_all(scanner):
    with (
        database.writer(scanner.path) as library,
        journal.open_journal(scanner.path) as opened,
    ):
        for entry in opened.entries():
            writing.undo(library, opened, entry)


def decoded(path):
    with av.open(str(path)) as container:
        return np.concatenate(
            [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
        )


@pytest.mark.parametrize("ending", CODECS)
def test_every_format_takes_values_and_gives_them_back(ending, scanner, tmp_path):
    path = make_song(tmp_path / "music" / f"ü 歌{ending}", artist="Ann", title="First")
    before, audio = digests(tmp_path / "music"), decoded(path)
    scanner.scan(tmp_path / "music")
    assert not write_all(scanner, tmp_path / "music", WANTED)

    held = fields.open_fields(path)
    assert {name: held.get(name) for name in NAMES} == WANTED
    # FFmpeg reads the same, in its own spelling of several values.
    with av.open(str(path)) as container:
        said = [container.metadata, *(s.metadata for s in container.streams)]
        texts = {k.lower(): v for one in said for k, v in one.items()}
    assert "Rock" in texts["genre"] and texts.get("title", "First") == "First"
    np.testing.assert_array_equal(decoded(path), audio)

    assert digests(tmp_path / "music") != before
    undo_all(scanner)
    assert digests(tmp_path / "music") == before


@pytest.mark.parametrize("ending", [".mp3", ".flac", ".m4a", ".wv", ".wma"])
def test_values_of_others_stay_and_ours_are_replaced(ending, scanner, tmp_path):
    path = make_song(tmp_path / "music" / f"song{ending}", genre="Polka")
    scanner.scan(tmp_path / "music")
    write_all(scanner, tmp_path / "music", WANTED)
    assert fields.open_fields(path).get("genre") == ["Polka", "Rock", "Hip-Hop"]
    write_all(scanner, tmp_path / "music", {"genre": ["polka", "Jazz"]})
    held = fields.open_fields(path)
    assert held.get("genre") == ["Polka", "Jazz"] and not held.get("mood")
    write_all(scanner, tmp_path / "music", {})
    held = fields.open_fields(path)
    assert held.get("genre") == ["Polka"] and not held.get(mapping.WRITTEN)


def test_writing_twice_changes_nothing_the_second_time(scanner, music):
    scanner.scan(music)
    write_all(scanner, music, WANTED)
    before = digests(music)
    write_all(scanner, music, WANTED)
    assert digests(music) == before


@pytest.mark.parametrize("version", [3, 4])
def test_the_version_of_an_id3_tag_and_its_old_frames_are_kept(
    version, scanner, tmp_path
):
    path = make_song(tmp_path / "music" / "song.mp3")
    tags = mutagen.id3.ID3()
    tags.add(mutagen.id3.TIT2(encoding=1, text="Title"))
    tags.add(mutagen.id3.TCON(encoding=0, text="(17)"))
    if version == 3:
        tags.add(mutagen.id3.TYER(encoding=0, text="1999"))
        tags.add(mutagen.id3.TSIZ(encoding=0, text="12345"))
    tags.save(path, v2_version=version, v1=2)
    scanner.scan(tmp_path / "music")
    assert not write_all(scanner, tmp_path / "music", WANTED)
    held = mutagen.id3.ID3(path, translate=False)
    assert held.version[:2] == (2, version)
    assert held["TCON"].genres == ["Rock", "Hip-Hop"]  # 17 is Rock already
    if version == 3:
        assert held["TYER"].text == ["1999"] and held["TSIZ"].text == ["12345"]
        assert held["TXXX:MOOD"].text == ["sad"]
    assert path.read_bytes()[-128:-125] == b"TAG"


def test_the_journal_holds_little_of_a_long_file(tmp_path):
    random = np.random.default_rng(0)
    audio = random.bytes(3_000_000)
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"header" + audio + b"tail")
    new.write_bytes(b"a longer header" * 999 + audio + b"another tail")
    found = journal.delta(old, new)
    assert len(found.literals) < 5 * journal.BLOCK_BYTES


@pytest.mark.parametrize("seed", range(20))
def test_a_delta_restores_any_change(seed, tmp_path):
    random = np.random.default_rng(seed)
    content = random.bytes(int(random.integers(0, 60_000)))
    cut = sorted(random.integers(0, len(content) + 1, 4))
    changed = (
        random.bytes(int(random.integers(0, 9000)))
        + content[: cut[0]]
        + random.bytes(int(random.integers(0, 5000)))
        + content[cut[1] : cut[2]]
        + content[cut[3] :]
    )
    path, copy = tmp_path / "song", tmp_path / "copy"
    path.write_bytes(content)
    copy.write_bytes(changed)
    with journal.open_journal(tmp_path / "library.sqlite") as opened:
        opened.add(str(path), path, copy)
        os.replace(copy, path)
        (entry,) = opened.entries()
        opened.restore(entry)
        assert path.read_bytes() == content


KILLED = """
import sys
from pathlib import Path
import collection, test_writing
scanner = collection.Scanner(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(1000):
    test_writing.write_all(scanner, Path(sys.argv[2]), {"genre": [f"Rock {number}"]})
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_every_file_whole(scanner, music):
    for number in range(8):
        make_song(music / f"{number}.flac", number, title="x" * 3000)
    scanner.scan(music)
    before, audio = digests(music), {}
    for path in music.rglob("*.*"):
        audio[path] = songs.audio_hash(path)
    folders = [REPOSITORY, REPOSITORY / "tests", REPOSITORY / "tests" / "library"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    random = np.random.default_rng(0)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(scanner.path), str(music)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
        for path, digest in audio.items():
            assert songs.audio_hash(path) == digest
            assert len(fields.open_fields(path).get("genre")) <= 1
    assert any(fields.open_fields(path).get("genre") for path in audio)
    undo_all(scanner)
    assert digests(music) == before  # nothing else is left either


def test_a_full_disk_leaves_files_as_they_are(command, music, monkeypatch):
    command.scan(music)
    before, copy, num_copied = digests(music), shutil.copyfile, 0

    def full(source, target):
        nonlocal num_copied
        num_copied += 1
        if num_copied == 3:
            with open(target, "wb") as file:
                file.write(b"a part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    done = call(["-m", "tagger", "write", music, "--yes", "--share", ".9"], music)
    assert done.returncode == 2 and "no space is left on the disk" in done.stderr
    after = digests(music)
    assert after.keys() == before.keys()
    assert sum(after[name] != before[name] for name in before) == 2
    done = call(["-m", "tagger", "write", "--undo"], music)
    assert "2 files restored" in done.stdout and digests(music) == before


def test_a_full_disk_of_the_journal_keeps_the_file(scanner, music, monkeypatch):
    scanner.scan(music)
    before = digests(music)

    def full(*_):
        raise storage.DiskFullError("journal")

    monkeypatch.setattr(journal.Journal, "add", full)
    errors = write_all(scanner, music, WANTED)
    assert len(errors) == 5 and digests(music) == before


def test_audio_that_would_change_is_not_written(scanner, music, monkeypatch):
    scanner.scan(music)
    before, save = digests(music), fields.Fields.save

    def damage(self):
        save(self)
        path = self._file.filename
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)

    monkeypatch.setattr(fields._Vorbis, "save", damage)
    errors = write_all(scanner, music, WANTED)
    assert {os.path.basename(path) for path in errors} == {"b.flac", "c.ogg"}
    assert all("audio would not stay the same" in str(e) or "mutagen" in str(e)
               for e in errors.values())  # fmt: skip
    after = digests(music)
    assert [after[name] == before[name] for name in ("b.flac", "sub/c.ogg")] == [1, 1]


def test_a_long_name_is_written_and_blocks_nothing(command, music):
    (music / "a.mp3").rename(music / f"{'x' * 250}.mp3")
    command.scan(music)
    before = digests(music)
    done = call(["-m", "tagger", "write", music, "--yes", "--share", ".9"], music)
    assert not done.returncode and "5 of 5 files written" in done.stdout
    done = call(["-m", "tagger", "write", "--undo"], music)
    assert not done.returncode and digests(music) == before


def test_an_edit_in_the_last_moment_is_kept(scanner, music, monkeypatch):
    scanner.scan(music)
    add = journal.Journal.add

    def add_while_editing(self, path, *given):
        number = add(self, path, *given)
        os.utime(path, ns=(1, 1))
        return number

    monkeypatch.setattr(journal.Journal, "add", add_while_editing)
    before = digests(music)
    errors = write_all(scanner, music, WANTED)
    assert len(errors) == 5 and "is changing it" in str(next(iter(errors.values())))
    assert digests(music) == before
    with database.writer(scanner.path), journal.open_journal(scanner.path) as opened:
        assert not opened.entries()


def test_marks_of_strangers_do_not_remove_what_a_recording_is(scanner, tmp_path):
    path = make_song(tmp_path / "music" / "a.flac", artist="Ann")
    file = mutagen.File(path)
    file.tags["AUTOTAGS_WRITTEN"] = ["artist: Ann"]
    file.save()
    scanner.scan(tmp_path / "music")
    assert not write_all(scanner, tmp_path / "music", WANTED)
    assert mutagen.File(path).tags["artist"] == ["Ann"]


def test_a_read_only_file_is_named_and_left(command, music):
    command.scan(music)
    (music / "a.mp3").chmod(0o444)
    before = digests(music)["a.mp3"]
    done = call(["-m", "tagger", "write", music, "--yes", "--share", ".9"], music)
    assert done.returncode == 2 and "a.mp3' is read-only" in done.stderr
    assert "4 of 5 files written" in done.stdout
    assert digests(music)["a.mp3"] == before


def test_mode_and_links_stay(scanner, music, tmp_path):
    (tmp_path / "link.mp3").symlink_to(music / "a.mp3")
    (music / "a.mp3").chmod(0o640)
    scanner.scan(tmp_path / "link.mp3")
    write_all(scanner, music, WANTED)
    assert (tmp_path / "link.mp3").is_symlink()
    assert stat.S_IMODE((music / "a.mp3").stat().st_mode) == 0o640
    assert fields.open_fields(music / "a.mp3").get("mood") == ["sad"]


def test_a_file_changed_since_the_scan_is_left(command, music):
    command.scan(music)
    make_song(music / "a.mp3", 5)
    before = digests(music)["a.mp3"]
    done = call(["-m", "tagger", "write", music, "--yes", "--share", ".9"], music)
    assert "a.mp3' has changed since the scan. Scan again" in done.stderr
    assert digests(music)["a.mp3"] == before


def test_what_another_program_changed_is_not_undone(command, music):
    command.scan(music)
    before = digests(music)
    call(["-m", "tagger", "write", music, "--yes", "--share", ".9"], music)
    file = mutagen.File(music / "a.mp3")
    file.tags.add(mutagen.id3.TPE2(encoding=3, text="Mine"))
    file.save()
    mine = digests(music)["a.mp3"]
    (music / "sub" / "d.mp3").rename(music / "sub" / "moved.mp3")
    done = call(["-m", "tagger", "write", "--undo"], music)
    assert done.returncode == 2 and "3 files restored" in done.stdout
    assert "a.mp3': another program has changed it since" in done.stderr
    assert "d.mp3': there is no such file" in done.stderr
    assert digests(music)["a.mp3"] == mine
    (music / "sub" / "moved.mp3").rename(music / "sub" / "d.mp3")
    call(["-m", "tagger", "write", "--undo", music / "sub"], music)
    assert digests(music) == before | {"a.mp3": mine}


def test_a_dry_run_is_the_default_and_shows_what_would_change(command, music):
    command.scan(music)
    before = digests(music)
    done = call(["-m", "tagger", "write", "."], music)
    assert not done.returncode and digests(music) == before
    assert "  genre      + Rock" in done.stdout
    assert "nothing was written. Add --yes to write" in done.stderr
    assert call(["-m", "tagger", "write", ".", "--yes"], music).returncode == 0
    assert call(["-m", "tagger", "write", "."], music).stdout == ""


def test_a_tag_that_the_library_lacks_is_not_written(command, music, monkeypatch):
    """A tenth of the songs have the highest scores, however low these are."""
    run = command.engine.run
    monkeypatch.setattr(
        command.engine, "run", lambda *given: [x / 100 for x in run(*given)]
    )
    command.scan(music)
    assert call(["-m", "tagger", "write", "."], music).stdout == ""
    done = call(["-m", "tagger", "write", ".", "--min-score", "0"], music)
    assert "+ Rock" in done.stdout


@pytest.mark.parametrize(("ending", "codec"), [(".au", "pcm_s16be"), (".tta", "tta")])
def test_formats_without_metadata_are_named(ending, codec, scanner, music):
    path = make_song(music / f"voice{ending}", codec=codec)
    scanner.scan(music)
    errors = write_all(scanner, music, WANTED)
    assert f"cannot write metadata to {ending} files" in str(errors[str(path)])


def test_damaged_metadata_are_left(scanner, music):
    content = bytearray((music / "b.flac").read_bytes())
    content[4 + 4 : 4 + 4 + 34] = bytes(34)  # STREAMINFO says 0 Hz
    scanner.scan(music)
    (music / "b.flac").write_bytes(content)
    before = digests(music)
    errors = write_all(scanner, music, WANTED)
    assert list(errors) == [str(music / "b.flac")]
    assert digests(music)["b.flac"] == before["b.flac"]


def test_links_are_written_behind(command, music, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    (links / "song.mp3").symlink_to(music / "a.mp3")
    command.scan(links)
    done = call(["-m", "tagger", "write", "links", "--yes", "--share", ".9"], tmp_path)
    assert "1 of 1 files written" in done.stdout
    assert fields.open_fields(music / "a.mp3").get(mapping.WRITTEN)


@pytest.mark.parametrize("moment", ["add", "drop"])
def test_the_same_command_continues_after_a_kill(moment, command, music, monkeypatch):
    """The file may have its new content, and the library not know it."""
    command.scan(music)
    write = ["-m", "tagger", "write", music, "--yes", "--share", ".9"]
    before = digests(music)
    if moment == "add":
        monkeypatch.setattr(database.MusicLibrary, "set_version", lambda *_: None)
        assert not call(write, music).returncode
        monkeypatch.undo()
        monkeypatch.setattr(database, "default_path", lambda: command.path)
    write[-1] = ".5"
    done = call(write, music)
    assert not done.returncode and "Scan again" not in done.stderr, done.stderr
    assert not call(["-m", "tagger", "write", "--undo"], music).returncode
    assert digests(music) == before


def test_the_same_command_continues_after_a_kill_of_undo(command, music, monkeypatch):
    command.scan(music)
    write = ["-m", "tagger", "write", music, "--yes", "--share", ".9"]
    before = digests(music)
    assert not call(write, music).returncode
    with monkeypatch.context() as patch:  # killed after the first file was restored
        patch.setattr(journal.Journal, "drop", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(["-m", "tagger", "write", "--undo"], music)
    assert not call(write, music).returncode
    assert not call(["-m", "tagger", "write", "--undo"], music).returncode
    assert digests(music) == before


def test_an_undo_without_a_library_is_an_error(tmp_path):
    undo = ["-m", "tagger", "write", "--undo", "--library", "typo.sqlite"]
    done = call(undo, tmp_path)
    assert done.returncode == 2 and "There is no library" in done.stderr
    assert not list(tmp_path.iterdir())


def test_nothing_is_said_to_be_undone_where_nothing_was_written(command, music):
    command.scan(music)
    write = ["-m", "tagger", "write", music, "--yes", "--share", ".9"]
    assert "To take it back" in call(write, music).stderr
    done = call(write, music)
    assert "0 of 5 files written" in done.stdout and "take it back" not in done.stderr


def test_an_mp3_whose_metadata_are_ape_is_left(scanner, music):
    from mutagen.apev2 import APEv2

    path = make_song(music / "ape.mp3")
    mutagen.File(path).delete()
    tags = APEv2()
    tags["Title"] = "Only here"
    tags.save(path)
    scanner.scan(music)
    before = digests(music)["ape.mp3"]
    errors = write_all(scanner, music, WANTED)
    assert list(errors) == [str(path)] and digests(music)["ape.mp3"] == before


def test_a_strangers_mark_removes_no_field_of_theirs(scanner, tmp_path):
    path = make_song(tmp_path / "music" / "a.flac")
    file = mutagen.File(path)
    file.tags["MUSICBRAINZ_TRACKID"] = ["abc"]
    file.tags["AUTOTAGS_WRITTEN"] = ["musicbrainz_trackid: abc"]
    file.save()
    scanner.scan(tmp_path / "music")
    assert not write_all(scanner, tmp_path / "music", WANTED)
    assert mutagen.File(path).tags["MUSICBRAINZ_TRACKID"] == ["abc"]


def test_a_song_is_opened_once_by_ffmpeg(scanner, music, monkeypatch):
    """Of an mp3 with 20,000 fields, FFmpeg reads the list in 6 s."""
    scanner.scan(music / "a.mp3")
    opened, open_audio = [], songs.open_audio

    def counted(path):
        opened.append(path)
        return open_audio(path)

    monkeypatch.setattr(songs, "open_audio", counted)
    assert not write_all(scanner, music, WANTED) and len(opened) == 1


def test_old_journals_keep_undoing(scanner, tmp_path):
    """Before 2026-11-25 an entry held any number of pieces."""
    import msgspec

    path = tmp_path / "song"
    path.write_bytes(b"NEW" + b"audio one" + b"x" + b"audio two")
    pieces = [(-1, 4), (3, 9), (-1, 2), (13, 9)]
    old = b"old " + b"audio one" + b"--" + b"audio two"
    change = journal.Delta(pieces, zlib.compress(b"old --"))
    with journal.open_journal(scanner.path) as opened:
        opened._change(
            "INSERT INTO entries (path, old_sha256, new_sha256, delta)"
            " VALUES (?, ?, ?, ?)",
            [
                os.fsencode(path),
                hashlib.sha256(old).hexdigest(),
                storage.sha256(path),
                msgspec.msgpack.encode(change),
            ],
        )
        (entry,) = opened.entries()
        opened.restore(entry)
    assert path.read_bytes() == old


# --- The table ------------------------------------------------------------------------


def test_contradictions_are_not_written_together():
    table = mapping.read_mapping()
    tags = ["no vocals", "female", "slow", "fast", "drums"]
    found = table.values(tags, np.array([0.6, 0.9, 0.7, 0.8, 0.5]), np.full(5, 0.4), 9)
    assert found == {"autotags": ["female vocals", "fast", "drums"]}
    # By the words that are written, in any table; what is not written blocks nothing.
    own = mapping.Mapping({"calm": ("speed", "Slow"), "wild": ("speed", "FAST")}, "x")
    found = own.values(["wild", "calm"], np.array([0.6, 0.9]), np.full(2, 0.4), 9)
    assert found == {"speed": ["Slow"]}
    scores = np.array([0.9, 0.8, 0.7])
    found = own.values(["x", "calm", "wild"], scores, np.full(3, 0.4), 1)
    assert found == {"x": ["x"], "speed": ["Slow"]}


def test_a_threshold_that_is_just_reached_is_not_written(command, music):
    """High thresholds can be passed, too."""
    command.scan(music)
    scores = command.songs().scores[:, 0].astype(float)
    odds = scores / (1 - scores) / mapping.MARGIN
    passed = odds / (1 + odds)  # the thresholds that these scores just pass
    np.testing.assert_allclose(mapping.thresholds_to_write(passed), scores)
    assert (mapping.thresholds_to_write([0.7, 0.9, 0.99]) < 1).all()
    for low, number in ((passed.max() * 1.001, 0), (passed.min() * 0.999, 5)):
        with database.writer(command.path) as library:
            with library._changing() as connection:
                held = json.dumps([float(low), 1.0, 1.0, 1.0])
                connection.execute("UPDATE models SET thresholds = ?", [held])
        done = call(["-m", "tagger", "write", "."], music)
        assert done.stdout.count("+ Rock") == number


def test_our_table_sends_every_vocabulary_somewhere():
    from tagger.datasets import magnatagatune, million_song, mtg_jamendo

    table = mapping.read_mapping()
    for tag in (
        *magnatagatune.TOP_50_TAGS,
        *million_song.CLASSIC_TAGS,
        *million_song.CALS_TAGS,
        *mtg_jamendo.TOP_50_TAGS,
    ):
        field, value = table.target_of(tag)
        assert field in NAMES and "---" not in value
    assert table.target_of("no voice") == table.target_of("no vocal")
    assert table.target_of("no vocal") == ("autotags", "no vocals")
    assert table.target_of("Hip-Hop") == ("genre", "Hip-Hop")


def test_the_clearest_tags_come_first_and_merged_tags_once():
    table = mapping.Mapping({"no voice": ("autotags", "no vocals")}, "autotags")
    tags = ["no voice", "no vocals", "guitar", "slow"]
    scores, thresholds = np.array([0.2, 0.9, 0.3, 0.1]), np.array([0.1, 0.3, 0.1, 0.2])
    assert table.values(tags, scores, thresholds, 5) == {
        "autotags": ["no vocals", "guitar"]
    }
    assert table.values(tags, scores, thresholds, 1) == {"autotags": ["no vocals"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tag,field\nrock,genre\n", "the columns must be tag, field, value"),
        ("tag,field,value\n", "holds no rows"),
        ("tag,field,value\nrock,title,\n", "scores must not change it"),
        ("tag,field,value\nrock,a=b,\n", "is no name of a field"),
        ("tag,field,value\nrock\n", "line 2: the columns must be"),
        (b"tag,field,value\nrock,genre,\xff\n", "is no table in UTF-8"),
    ],
)
def test_a_wrong_table_is_refused_before_anything_is_written(text, says, tmp_path):
    path = tmp_path / "map.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=says):
        mapping.read_mapping(path)


def test_an_edited_table_is_used(command, music):
    command.scan(music)
    table = call(["-m", "tagger", "write", "--show-fields"], music).stdout
    table = table.replace("rock,genre,Rock", "rock,genre,Krautrock")
    storage.write_text_atomically(music / "map.csv", table)
    done = call(["-m", "tagger", "write", ".", "--fields", "map.csv"], music)
    assert "+ Krautrock" in done.stdout and TAGS[0] == "rock"


def test_values_of_another_table_stay_ours(command, music):
    """A value written by one table is taken away by it, after another one wrote."""
    command.scan(music)
    table = call(["-m", "tagger", "write", "--show-fields"], music).stdout
    own = table.replace("rock,genre,Rock", "rock,style,Rock")
    storage.write_text_atomically(music / "map.csv", own)
    write = ["-m", "tagger", "write", "a.mp3", "--yes", "--share", ".9"]
    call([*write, "--fields", "map.csv"], music)
    held = fields.open_fields(str(music / "a.mp3"))
    assert held.get("style") == ["Rock"]
    call(write, music)
    held = fields.open_fields(str(music / "a.mp3"))
    marks = held.get(mapping.WRITTEN)
    assert any(mark.startswith("style") for mark in marks), marks
    assert held.get("style") == ["Rock"] and "Rock" in held.get("genre")
    none = writing.planned(str(music / "a.mp3"), {}, {"style"})
    assert none.fields["style"] == (["Rock"], [])
