"""Scanning: only what is new is analysed, and nothing that is known is lost."""

import contextlib
import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import mutagen
import numpy as np
import pytest
from collection import TAGS, Scanner, make_song
from conftest import REPOSITORY, call

from tagger import storage
from tagger.cli import library as commands
from tagger.library import database, scanning, songs, watching
from tagger.models.metadata import DEFAULT_MODEL
from tagger.storage import file_lock


def test_a_second_scan_analyses_nothing(scanner, music):
    report = scanner.scan(music)
    assert (report.num_new, report.num_analysed, report.errors) == (5, 5, {})
    again = scanner.scan(music)
    assert (again.num_unchanged, again.num_new, again.num_analysed) == (5, 0, 0)
    assert scanner.num_opened == 1  # the model was not even loaded
    held = scanner.songs()
    assert [os.path.basename(path) for path in held.paths] == [
        "a.mp3", "b.flac", "c.ogg", "d.mp3", "e.mp3"
    ]  # fmt: skip
    assert held.artists == ["Ann", "Ann", "Ben", "", "Cem"]
    assert held.titles[0] == "First" and held.albums[0] == "One"
    assert held.scores.shape == (5, len(TAGS)) and held.embeddings.shape == (5, 8)
    np.testing.assert_allclose(held.seconds, 3, atol=0.1)


def test_moved_copied_and_tagged_files_are_not_analysed_again(scanner, music):
    scanner.scan(music)
    num_heard = scanner.engine.num_segments
    (music / "a.mp3").rename(music / "sub" / "moved.mp3")
    shutil.copy(music / "b.flac", music / "copy.flac")
    file = mutagen.File(music / "sub" / "d.mp3")
    file.add_tags() if file.tags is None else None
    file.tags.add(mutagen.id3.TPE1(encoding=3, text="Dora"))
    file.save()
    report = scanner.scan(music)
    assert (report.num_moved, report.num_new, report.num_changed) == (1, 1, 1)
    assert report.num_analysed == 0 and scanner.engine.num_segments == num_heard
    held = scanner.songs()
    assert len(held.paths) == 6  # a.mp3 is known by its new path alone
    artist = dict(zip(map(os.path.basename, held.paths), held.artists, strict=True))
    assert artist["d.mp3"] == "Dora" and artist["moved.mp3"] == "Ann"


def test_a_song_moved_out_of_a_folder_that_is_then_empty_counts_as_moved(
    scanner, music
):
    (music / "album").mkdir()
    (music / "a.mp3").rename(music / "album" / "only.mp3")
    scanner.scan(music)
    (music / "album" / "only.mp3").rename(music / "back.mp3")
    report = scanner.scan(music)
    assert (report.num_moved, report.num_new) == (1, 0)
    assert len(scanner.songs().paths) == 5


def test_other_audio_under_the_same_name_is_analysed(scanner, music):
    scanner.scan(music)
    before = scanner.songs().scores
    make_song(music / "a.mp3", 30)
    assert scanner.scan(music).num_analysed == 1
    assert not np.allclose(scanner.songs().scores[0], before[0], atol=1e-3)


def test_models_stand_side_by_side(scanner, music):
    scanner.scan(music)
    assert scanner.scan(music, digest="other").num_analysed == 5
    assert scanner.scan(music).num_analysed == 0
    with database.reader(scanner.path) as library:
        assert {model.name for model in library.models().values()} == {"stub", "other"}
        with pytest.raises(ValueError, match="Did you mean other?"):
            library.model("othr")


def test_of_two_models_with_as_many_analyses_the_newest_is_asked(scanner, music):
    scanner.scan(music)
    scanner.scan(music, digest="trained again")
    with database.reader(scanner.path) as library:
        assert library.models()[library.model()].digest == "trained again"


def test_what_cannot_be_read_is_named_and_tried_again(scanner, music):
    (music / "broken.mp3").write_bytes(b"no music" * 999)
    (music / "cut.flac").write_bytes((music / "b.flac").read_bytes()[:30_000])
    report = scanner.scan(music)
    names = {os.path.basename(path) for path in report.errors}
    assert names == {"broken.mp3", "cut.flac"} and report.num_analysed == 5
    assert len(scanner.songs().paths) == 5
    make_song(music / "broken.mp3", 20)
    report = scanner.scan(music)
    assert set(map(os.path.basename, report.errors)) == {"cut.flac"}
    assert report.num_analysed == 1


def test_a_file_that_is_written_meanwhile_is_left_for_the_next_scan(
    scanner, music, monkeypatch
):
    run = scanner.engine.run

    def run_while_writing(*given):
        make_song(music / "a.mp3", 33)
        monkeypatch.setattr(scanner.engine, "run", run)
        return run(*given)

    monkeypatch.setattr(scanner.engine, "run", run_while_writing)
    report = scanner.scan(music)
    assert "another program has written it" in next(iter(report.errors.values()))
    assert scanner.scan(music).num_analysed == 1


def test_missing_files_stay_until_they_are_pruned(scanner, music):
    scanner.scan(music)
    (music / "a.mp3").unlink()
    report = scanner.scan(music)
    assert [os.path.basename(path) for path in report.missing] == ["a.mp3"]
    assert len(scanner.songs().paths) == 5
    with database.writer(scanner.path) as library:
        assert len(scanning.prune(library, [str(music)], False)) == 1
    assert len(scanner.songs().paths) == 4
    make_song(music / "a.mp3", 0)  # it is found again
    report = scanner.scan(music)
    assert (report.num_new, report.num_analysed) == (1, 0)


@pytest.mark.parametrize("vanishes", ["folder", "content"])
def test_a_drive_that_vanishes_costs_nothing(vanishes, command, music, tmp_path):
    command.scan(music)
    music.rename(tmp_path / "away")
    if vanishes == "content":
        music.mkdir()  # the place where the drive was mounted
    done = call(["-m", "tagger", "scan", "music", "--prune", "files"], tmp_path)
    assert done.returncode == 2 and len(command.songs().paths) == 5
    says = "There is no file or folder" if vanishes == "folder" else "are gone. If its"
    assert says in done.stderr
    (tmp_path / "away").rename(music) if vanishes == "folder" else None
    if vanishes == "folder":
        assert command.scan(music).num_unchanged == 5
    else:
        done = call(["-m", "tagger", "scan", "music", "--prune", "folders"], tmp_path)
        assert "5 removed" in done.stdout


def test_an_empty_folder_within_the_collection_may_await_its_drive(scanner, music):
    make_song(music / "drive" / "deep" / "x.mp3", 31)
    scanner.scan(music)
    shutil.rmtree(music / "drive" / "deep")
    (music / "a.mp3").unlink()
    with database.writer(scanner.path) as library:
        with pytest.raises(
            ValueError, match="drive' is empty, but the .* 1 files in it"
        ):
            scanning.prune(library, [str(music)], False)
        (music / "drive").rmdir()  # nobody mounts anything there
        assert len(scanning.prune(library, [str(music)], False)) == 2


def test_a_folder_that_vanishes_during_the_scan_ends_it(scanner, music, monkeypatch):
    run = scanner.engine.run

    def run_and_unplug(*given):
        if music.exists():
            music.rename(music.with_name("unplugged"))
        return run(*given)

    monkeypatch.setattr(scanner.engine, "run", run_and_unplug)
    make_song(music / "long.wav", 1, seconds=90)
    monkeypatch.setattr("tagger.inference.streaming.BATCH_SIZE", 2)
    with pytest.raises(FileNotFoundError, match="check that the drive is connected"):
        scanner.scan(music)
    music.with_name("unplugged").rename(music)
    monkeypatch.setattr(scanner.engine, "run", run)
    scanner.scan(music)
    assert len(scanner.songs().paths) == 6


@pytest.mark.slow
def test_a_kill_loses_no_finished_song(music, scanner, tmp_path):
    for number in range(25):
        make_song(music / f"{number}.wav", number, seconds=2)
    code = """
import sys, time
from pathlib import Path
from collection import Scanner
scanner = Scanner(Path(sys.argv[1]))
run = scanner.engine.run
def slowly(*given):
    time.sleep(0.05)
    print("heard", flush=True)
    return run(*given)
scanner.engine.run = slowly
scanner.scan(sys.argv[2])
"""
    folders = [REPOSITORY, REPOSITORY / "tests" / "library"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    with subprocess.Popen(
        [sys.executable, "-c", code, scanner.path, music],
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    num_kept = len(scanner.songs("stub").paths)
    assert num_kept >= 10  # two or three segments each, 16 per batch
    report = scanner.scan(music)
    assert report.num_analysed == 30 - num_kept and report.num_unchanged == 30


def test_what_cannot_be_looked_at_is_not_gone(scanner, music, monkeypatch):
    scanner.scan(music)
    lstat = os.lstat

    def refuse(path, **options):
        if str(path).startswith(str(music / "sub")):
            raise PermissionError(13, "Permission denied", path)
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", refuse)
    with database.writer(scanner.path) as library:
        assert scanning.prune(library, [str(music)], False) == []


def test_two_scans_at_once_are_refused(scanner, music):
    with (
        file_lock(scanner.path, "--library"),
        pytest.raises(OSError, match="Another run is writing to .*library.sqlite"),
    ):
        scanner.scan(music)


def test_a_library_is_read_while_it_is_filled(scanner, music):
    scanner.scan(music)
    with database.writer(scanner.path) as library, library._changing():
        library._connection.execute("DELETE FROM files")
        assert len(scanner.songs().paths) == 5
    assert not scanner.songs().paths


def test_names_that_are_not_utf8_are_kept(command, music):
    odd = os.path.join(os.fsencode(music), b"caf\xe9 \xf0.mp3")
    shutil.copy(music / "sub" / "d.mp3", odd)
    command.scan(music)
    assert os.fsdecode(odd) in command.songs().paths
    done = call(["-m", "tagger", "find", "rock >= 0", "--playlist", "x.m3u8"], music)
    assert not done.returncode
    assert b"caf\xe9 \xf0.mp3" in (music / "x.m3u8").read_bytes()


def test_links_and_folders_named_twice_are_scanned_once(scanner, music, tmp_path):
    (tmp_path / "link").symlink_to(music)
    report = scanner.scan(tmp_path / "link", music, music / "a.mp3")
    assert report.num_new == 5


def test_ten_thousand_files_in_one_folder(scanner, tmp_path, monkeypatch):
    song = make_song(tmp_path / "song.wav", seconds=1)
    folder = tmp_path / "many"
    folder.mkdir()
    # FFmpeg takes 20 ms to open a file, which is not what is tested here.
    held = songs.audio_hash(song)
    monkeypatch.setattr(
        scanning,
        "read_song",
        lambda path: songs.Song(path, *songs.version_of(path), held),
    )
    for number in range(10_000):
        os.link(song, folder / f"{number}.wav")
    report = scanner.scan(folder)
    assert report.num_new == 10_000 and report.num_analysed == 1
    assert scanner.scan(folder).num_unchanged == 10_000
    assert len(scanner.songs().paths) == 10_000


def test_the_command_reports_what_it_did(command, music):
    (music / "broken.mp3").write_bytes(b"no music" * 999)
    done = call(["-m", "tagger", "scan", "."], music)
    assert done.returncode == 2
    assert "library.sqlite: 5 new, 1 with an error; 5 analysed" in done.stdout
    assert "broken.mp3': FFmpeg says" in done.stderr
    (music / "broken.mp3").unlink()
    done = call(["-m", "tagger", "scan", "."], music)
    assert "5 unchanged; 0 analysed" in done.stdout
    assert "1 files of the library no longer exist" in done.stderr


def test_options_that_do_not_go_together_are_named(command, music):
    done = call(["-m", "tagger", "scan", ".", "--poll"], music)
    assert "--poll goes with --watch" in done.stderr
    done = call(["-m", "tagger", "scan", "nowhere"], music)
    assert "There is no file or folder 'nowhere'" in done.stderr


# --- Watching -------------------------------------------------------------------------


@pytest.mark.parametrize("polls", [False, True])
def test_files_that_arrive_are_noticed_once_they_are_complete(
    polls, music, tmp_path, monkeypatch
):
    monkeypatch.setattr(watching, "REST_SECONDS", 0.6)
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.2)
    new = make_song(tmp_path / "new.wav", 9, seconds=2).read_bytes()

    def arrive():
        time.sleep(0.5)
        with open(music / "slow.wav", "wb") as file:
            for start in range(0, len(new), len(new) // 8):
                file.write(new[start : start + len(new) // 8])
                file.flush()
                time.sleep(0.1)
        (tmp_path / "album").mkdir()
        make_song(tmp_path / "album" / "x.mp3", 2)
        (tmp_path / "album").rename(music / "album")
        (music / "notes.txt").write_text("no music")

    thread = threading.Thread(target=arrive)
    found, sizes, end = [], {}, time.monotonic() + 20
    with watching.arrivals([str(music)], polls) as arriving:
        thread.start()
        for paths in arriving:
            found += paths
            sizes |= {path: os.path.getsize(path) for path in paths}
            if len(found) == 2 or time.monotonic() > end:
                break
    thread.join()
    assert sorted(found) == [str(music / "album/x.mp3"), str(music / "slow.wav")]
    assert sizes[str(music / "slow.wav")] == len(new)


@pytest.mark.parametrize(
    ("name", "used"), [("musicnn_mtt", "musicnn_mtt"), ("mine.keras", DEFAULT_MODEL)]
)
def test_a_scan_continues_with_the_pretrained_model_of_the_library(
    name, used, tmp_path, capsys
):
    path = tmp_path / "library.sqlite"
    assert commands._usual_model(path) == DEFAULT_MODEL
    with database.writer(path) as opened:
        opened.add_model(database.Model("digest", name, ("rock",)))
    assert commands._usual_model(path) == used
    assert f"This scan uses {used}" in capsys.readouterr().err


def test_watching_scans_what_arrives(music, scanner, tmp_path):
    code = """
import sys
from pathlib import Path
from collection import Scanner
from tagger import cli
from tagger.inference import selection
from tagger.library import watching
scanner = Scanner(Path(sys.argv[1]))
selection.open_engine = lambda *_, **__: scanner.engine
watching.REST_SECONDS = 0.5
cli.main(["scan", sys.argv[2], "--watch", "--library", sys.argv[1]])
"""
    folders = [REPOSITORY, REPOSITORY / "tests" / "library"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    with subprocess.Popen(
        [sys.executable, "-c", code, scanner.path, music],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        # A test run in the background ignores SIGINT, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert "5 new; 5 analysed" in process.stdout.readline()
            make_song(music / "new.mp3", 21)
            assert "1 new; 1 analysed" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()
    assert len(scanner.songs().paths) == 6


# --- The file of the library ----------------------------------------------------------


def test_a_newer_library_is_refused_and_kept(scanner, music):
    scanner.scan(music)
    with sqlite3.connect(scanner.path) as connection:
        connection.execute(f"PRAGMA user_version = {database.VERSION + 1}")
    with pytest.raises(ValueError, match="written by a newer version of tagger"):
        scanner.scan(music)
    with sqlite3.connect(scanner.path) as connection:
        connection.execute(f"PRAGMA user_version = {database.VERSION}")
    assert len(scanner.songs().paths) == 5


def test_libraries_of_every_version_are_understood(tmp_path):
    """The script of each version is applied to what the one before it left."""
    for version in range(1, database.VERSION + 1):
        path = tmp_path / f"{version}.sqlite"
        with sqlite3.connect(path) as connection:
            for number in range(version):
                connection.executescript(database.MIGRATIONS[number])
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute(f"PRAGMA application_id = {database.APPLICATION_ID}")
            connection.execute("INSERT INTO recordings VALUES (1, x'00', 3.0)")
            connection.execute(
                "INSERT INTO files VALUES ('/a', 1, 1, 1, NULL, NULL, NULL, NULL)"
            )
            connection.execute(
                "INSERT INTO models VALUES (1, 'd', '{}', 'm', '[\"rock\"]', NULL)"
            )
            connection.execute(
                "INSERT INTO analyses VALUES (1, 1, x'0000003f', x'0000803f')"
            )
        connection.close()
        with database.writer(path) as library:
            assert len(library.models()) == 1
            held = library.analysed(1)
            assert held.scores.tolist() == [[0.5]] and held.paths == ["/a"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"not a database, but long enough to be one" * 99,
            "damaged or not a tagger library",
        ),
        (None, "is the database of another program"),
    ],
)
def test_other_files_are_not_touched(content, says, scanner, music):
    if content is None:
        with sqlite3.connect(scanner.path) as connection:
            connection.execute("CREATE TABLE songs (name TEXT)")
        connection.close()
    else:
        scanner.path.write_bytes(content)
    before = scanner.path.read_bytes()
    with pytest.raises(ValueError, match=says):
        scanner.scan(music)
    assert scanner.path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE analyses SET scores = x'00'", "another length"),
        ("UPDATE analyses SET scores = zeroblob(20)", "another length"),
        ("UPDATE models SET tags = '[]'", "another length"),
        ("UPDATE models SET tags = 'rock'", "does not hold valid JSON"),
        ("UPDATE models SET tags = '{}'", "cannot be right"),
        (f"UPDATE analyses SET embedding = x'{'0000c07f' * 8}'", "holds NaN"),
        ("UPDATE analyses SET embedding = 'text'", "another length"),
        ("UPDATE models SET thresholds = '[0.5]'", "4 tags, but 1 thresholds"),
        ("UPDATE files SET title = x'ff'", "a name is not text"),
        (
            "UPDATE files SET artist = CAST(x'ff' AS TEXT)",
            "damaged or not a tagger library",
        ),
    ],
)
def test_damaged_values_are_named(change, says, scanner, music):
    scanner.scan(music)
    with sqlite3.connect(scanner.path) as connection:
        connection.execute(change)
    connection.close()
    with pytest.raises(ValueError, match=says):
        scanner.songs()


def test_a_full_disk_keeps_what_was_scanned(scanner, music, monkeypatch):
    scanner.scan(music / "a.mp3")
    with database.writer(scanner.path) as library:
        (pages,) = library._connection.execute("PRAGMA page_count").fetchone()
        library._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(OSError, match="no space is left on the disk"):
            for number in range(1000):
                library.add_song(
                    songs.Song(f"/{number}", 1, 1, bytes([number % 256] * 9999))
                )
    assert str(music / "a.mp3") in scanner.songs().paths


def test_a_missing_library_says_how_to_make_one(tmp_path):
    scanner = Scanner(tmp_path / "none.sqlite")
    with pytest.raises(FileNotFoundError, match="Make one: tagger scan FOLDER"):
        scanner.songs()


@pytest.mark.parametrize("content", [b"x", b"", "ours?"])
def test_reading_turns_no_file_into_a_library(content, tmp_path):
    path = tmp_path / "notes.txt"
    if content == "ours?":  # the database of another program, without tables
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA application_id = 77")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises((ValueError, OSError)), database.reader(path):
        pass
    assert path.read_bytes() == before
    if content:
        with pytest.raises((ValueError, OSError)), database.writer(path):
            pass
        assert path.read_bytes() == before
    assert {one.name for one in tmp_path.iterdir()} <= {path.name, ".notes.txt.lock"}


def test_a_library_is_read_where_nothing_may_be_written(scanner, music, monkeypatch):
    scanner.scan(music)
    os.chmod(scanner.path, 0o444)
    assert len(scanner.songs().paths) == 5
    may = os.access  # root may write everywhere, but not to a medium that is read-only
    monkeypatch.setattr(
        os, "access", lambda path, mode: mode != os.W_OK and may(path, mode)
    )
    assert len(scanner.songs().paths) == 5
    # A writer's log beside it is read too: what is immutable would lack it.
    with contextlib.closing(sqlite3.connect(scanner.path)) as writer:
        writer.execute("UPDATE models SET thresholds = '[0.5, 0.5, 0.5, 0.5]'")
        writer.commit()
        assert scanner.path.with_name(f"{scanner.path.name}-wal").stat().st_size
        assert scanner.songs().model.thresholds == (0.5, 0.5, 0.5, 0.5)


def test_a_library_that_is_deleted_meanwhile_is_missed(scanner, music):
    def delete(*_):
        scanner.path.unlink()
        return scanner.engine

    with pytest.raises(FileNotFoundError, match="was deleted meanwhile"):
        with database.writer(scanner.path) as library:
            analysis = dataclasses.replace(scanner.analysis(), open_engine=delete)
            scanning.scan(library, [str(music)], analysis)


@pytest.mark.parametrize("full", [True, False])
def test_a_full_disk_that_sqlite_calls_an_error_is_called_so(
    full, tmp_path, monkeypatch
):
    monkeypatch.setattr(database, "disk_is_full", lambda folder: full)
    says = "no space is left on the disk" if full else "disk I/O error. Close other"
    with pytest.raises(OSError, match=says):
        with database.explained_errors(tmp_path / "l.sqlite"):
            raise sqlite3.OperationalError("disk I/O error")
    with pytest.raises(ValueError, match="damaged or not a tagger library"):
        with database.explained_errors(tmp_path / "l.sqlite"):
            b"\xff".decode()


def test_a_model_file_is_found_from_every_folder(command, music, tmp_path, monkeypatch):
    from tagger import weights

    (tmp_path / "mine.onnx").touch()
    monkeypatch.setattr(weights.pretrained, "digest", lambda name: "stub")
    monkeypatch.setattr(storage, "sha256", lambda path: "stub")
    done = call(["-m", "tagger", "scan", "music", "--model", "mine.onnx"], tmp_path)
    assert not done.returncode, done.stderr
    assert command.songs().model.name == str(tmp_path / "mine.onnx")
    find = ["-m", "tagger", "find", "rock > 0", "--model", "../mine.onnx"]
    assert not call(find, music).returncode
