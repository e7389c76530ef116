"""Asking the library: expressions, neighbours, and playlists."""

import json
import os

import numpy as np
import pytest
from collection import make_song
from conftest import call

from tagger.library import database, playlists, queries, similarity
from tagger.library.database import Analysed, Model
from tagger.weights import pretrained

TAGS = ("rock", "slow", "hard rock", "80s", "no vocals", "trip-hop")


def songs_of(scores, embeddings=None, thresholds=None, **columns):
    """Returns songs with given scores and no music."""
    number = len(scores)
    about = {
        "recordings": np.arange(number),
        "seconds": 100.0 + 10 * np.arange(number),
        "artists": [""] * number,
        "albums": [""] * number,
        "titles": [""] * number,
    } | columns
    scores = np.array(scores, np.float32)
    embeddings = scores if embeddings is None else np.array(embeddings, np.float32)
    paths = [f"/music/{n}.mp3" for n in range(number)]
    model = Model("d", "m", TAGS[: scores.shape[1]], thresholds)
    return Analysed(model, paths, scores=scores, embeddings=embeddings, **about)


SCORES = np.array([[0.9, 0.1], [0.6, 0.6], [0.2, 0.8], [0.5, 0.3]], np.float32)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("rock > .5", [0, 1]),
        ("rock >= .5", [0, 1, 3]),
        ("rock > .5 and slow > .3", [1]),
        ("rock > .5 or slow > .7", [0, 1, 2]),
        ("not rock", [2, 3]),
        ("rock and not slow", [0]),
        ("not (rock or slow)", [3]),
        ("slow > rock", [2]),
        (".1 < rock <= .5", [2, 3]),
        ("'rock' > .5", [0, 1]),
        ("rock > -1", [0, 1, 2, 3]),
        ("rock > 1", []),
    ],
)
def test_an_expression_finds_what_it_says(text, rows):
    songs = songs_of(SCORES, thresholds=(0.55, 0.5))
    found = queries.find(songs, queries.Query(text, TAGS))
    assert sorted(found) == rows


@pytest.mark.parametrize(
    ("text", "tag"),
    [('"hard rock" > .5', 2), ("hard_rock > .5", 2), ("'80s'", 3), ("trip_hop", 5)],
)
def test_names_of_several_words_are_understood(text, tag):
    assert queries.Query(text, TAGS).mentioned == [tag]


def test_the_best_come_first_whatever_the_level_of_a_tag():
    songs = songs_of([[0.9, 0.01], [0.5, 0.02], [0.7, 0.015]])
    query = queries.Query("rock > 0 and slow > 0", TAGS)
    assert list(queries.find(songs, query)) == [1, 2, 0]
    query = queries.Query("rock > 0 and not slow > .5", TAGS)
    assert list(queries.find(songs, query)) == [0, 2, 1]
    assert query.wanted == [0] and query.mentioned == [0, 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ends too early"),
        ("rok > .5", r"no tag 'rok'. Did you mean rock"),
        ("hard rock > .5", "there is an error at"),
        ("rock >", "Cannot understand 'rock >'"),
        ("rock == .5", "compare scores with <"),
        ("rock is slow", "compare scores with <"),
        ("rock + slow", "is not a tag"),
        ("open('x') > 1", "is neither a tag nor a number"),
        ("__import__('os').system('true')", "is not a tag"),
        ("[rock for rock in rock]", "is not a tag"),
        ("rock > 'x' * 9", "is neither a tag nor a number"),
        ("-rock > 1", "is neither a tag nor a number"),
        ("rock > 1j", "is neither a tag nor a number"),
        ("1 > 0", "compares no tag"),
        ("rock > True", "is neither a tag nor a number"),
        ("lambda: rock", "is not a tag"),
        ("(" * 300 + "rock" + ")" * 300, "Cannot understand"),
        ("not " * 2400 + "rock", "Cannot understand"),
        ("rock and " * 2000 + "rock", "characters"),
        ("rock\0", "Cannot understand"),
        (f"rock > {'9' * 400}", "a number is too large"),
        ("rock > 1e999", None),
    ],
)
def test_what_is_no_expression_is_explained_and_never_run(text, says):
    if says is None:
        songs = songs_of(SCORES)
        queries.find(songs, queries.Query(text, TAGS))
        return
    with pytest.raises(ValueError, match=says):
        queries.Query(text, TAGS)


def test_thresholds_follow_the_library():
    songs = songs_of(np.linspace(0, 1, 50)[:, None])
    (threshold,) = queries.thresholds_of(songs, 0.1)
    assert (songs.scores > threshold).sum() == 5


def test_the_command_finds_and_writes_playlists(command, music):
    command.scan(music)
    done = call(["-m", "tagger", "find", "rock", "--share", ".4"], music)
    assert len(done.stdout.splitlines()) == 3  # a head and two songs
    assert "2 of 5 songs match" in done.stderr
    arguments = ["find", "rock >= 0", "--json", "--playlist", "lists.m3u8"]
    done = call(["-m", "tagger", *arguments], music / "sub")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    scores = [line["rock"] for line in lines]
    assert len(lines) == 5 and scores == sorted(scores, reverse=True)
    text = (music / "sub" / "lists.m3u8").read_text("utf-8")
    assert "\n../a.mp3\n" in text and "\nc.ogg\n" in text
    assert "#EXTINF:3,Ann - First" in text
    done = call(["-m", "tagger", *arguments], music / "sub")
    assert done.returncode == 2 and "Add --force" in done.stderr
    call(["-m", "tagger", *arguments, "--force", "--absolute"], music / "sub")
    assert f"\n{music}/a.mp3\n" in (music / "sub" / "lists.m3u8").read_text("utf-8")


def test_no_match_writes_no_playlist(command, music):
    command.scan(music)
    arguments = ["find", "rock > 1", "--playlist", "none.m3u8"]
    done = call(["-m", "tagger", *arguments], music)
    assert done.returncode == 0 and "none.m3u8 was not written" in done.stderr
    assert not (music / "none.m3u8").exists()


def test_odd_names_in_playlists(tmp_path):
    songs = songs_of([[1.0]] * 3)
    songs.paths[:] = [f"{tmp_path}/#1.mp3", "/music/two\nlines.mp3", "/music/ü 🎸.mp3"]
    left_out = playlists.write_playlist(tmp_path / "x.m3u8", songs, [0, 1, 2])
    assert left_out == ["/music/two\nlines.mp3"]
    lines = (tmp_path / "x.m3u8").read_text("utf-8").splitlines()
    assert "./#1.mp3" in lines and lines[-1].endswith("ü 🎸.mp3")
    names = [line for line in lines if not line.startswith("#")]
    found = [os.path.normpath(os.path.join(tmp_path, name)) for name in names]
    assert found == [songs.paths[0], songs.paths[2]]


# --- Similar songs --------------------------------------------------------------------


def test_neighbours_equal_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    random = np.random.default_rng(0)
    embeddings = random.normal(3, 1, (500, 16)).astype(np.float32)
    songs = songs_of(np.zeros((500, 1)), embeddings)
    found = similarity.Neighbours(songs).similar(embeddings[7], 5, [7])
    centred = embeddings - embeddings.mean(axis=0)
    search = NearestNeighbors(metric="cosine").fit(centred)
    distances, rows = search.kneighbors(centred[7:8], 6)
    assert [row for row, _ in found] == rows[0, 1:].tolist()
    np.testing.assert_allclose([x for _, x in found], 1 - distances[0, 1:], atol=1e-5)


def test_several_seeds_are_met_in_the_middle():
    embeddings = [[1, 0], [0, 1], [0.7, 0.7], [-1, -1], [0.9, -0.8]]
    neighbours = similarity.Neighbours(songs_of(np.zeros((5, 1)), embeddings))
    found = neighbours.similar(np.array(embeddings[:2], np.float32), 1, [0, 1])
    assert found[0][0] == 2


def test_no_recording_comes_twice():
    direction = np.array([1.0, 2, 3, 4])
    embeddings = [direction, 2 * direction, direction + 0.01, -direction, [4, 3, 2, 9]]
    songs = songs_of(
        np.zeros((5, 1)),
        embeddings,
        recordings=np.array([0, 0, 1, 2, 3]),
        seconds=np.array([60.0, 60, 60.5, 80, 90]),
        artists=["A", "A", "B", "C", "a"],
        titles=["Song", "Song", "Song (remaster)", "Other", "SONG"],
    )
    found = similarity.Neighbours(songs).similar(songs.embeddings[0], 9, [0])
    assert [row for row, _ in found] == [3]  # 1: same audio, 2: alike, 4: same title


def test_one_artist_does_not_fill_the_list():
    random = np.random.default_rng(0)
    songs = songs_of(
        np.zeros((30, 1)),
        random.normal(0, 1, (30, 8)),
        artists=["Ann"] * 20 + ["Ben"] * 5 + [""] * 5,
    )
    found = similarity.Neighbours(songs).similar(songs.embeddings[0], 30, [0], 2)
    artists = [songs.artists[row] for row, _ in found]
    assert artists.count("Ann") == 2  # the seed does not count, as one from elsewhere
    assert artists.count("Ben") == 2 and artists.count("") == 5


def test_a_way_leads_from_one_song_to_the_other():
    angles = np.linspace(0, 3, 40)
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1)
    embeddings = np.concatenate([embeddings, -embeddings])  # so that the mean is 0
    songs = songs_of(np.zeros((80, 1)), embeddings)
    rows = [row for row, _ in similarity.Neighbours(songs).path(0, 20, 4)]
    assert rows[0] == 0 and rows[-1] == 20 and rows == sorted(rows)
    assert len(set(rows)) == 6


def test_a_song_that_the_library_lacks_may_be_the_seed(
    command, music, tmp_path, monkeypatch
):
    other = make_song(tmp_path / "other.wav", 3)
    call(["-m", "tagger", "scan", "."], music)
    done = call(
        ["-m", "tagger", "similar", other, "--top", "1"],
        music,
    )
    assert "b.flac" in done.stdout  # the same tones
    monkeypatch.setattr(pretrained, "digest", lambda name: "another")
    done = call(["-m", "tagger", "similar", other], music)
    assert done.returncode == 2 and "has changed since the scan" in done.stderr


def test_ways_need_songs_of_the_library(command, music):
    command.scan(music)
    done = call(["-m", "tagger", "similar", "a.mp3", "--path"], music)
    assert "give two songs, not 1" in done.stderr
    done = call(["-m", "tagger", "similar", "a.mp3", "x.mp3", "--path"], music)
    assert "'x.mp3' is not in the library. Add it: tagger scan ." in done.stderr
    arguments = ["similar", "a.mp3", "sub/e.mp3", "--path", "--top", "2"]
    done = call(["-m", "tagger", *arguments], music)
    lines = done.stdout.splitlines()
    assert "a.mp3" in lines[1] and "e.mp3" in lines[-1]


@pytest.mark.parametrize("text", ["rock >", "rock and", "(rock", "not", "rock > (", ""])
def test_an_expression_that_ends_too_early_is_said_to(text):
    with pytest.raises(ValueError, match="it ends too early"):
        queries.Query(text, TAGS)


def test_huge_numbers_are_compared_in_silence(recwarn):
    songs = songs_of(SCORES)
    assert len(queries.find(songs, queries.Query("rock < 1e308", TAGS))) == 4
    assert not recwarn.list


def test_a_value_that_finds_some_songs_is_named():
    songs = songs_of(SCORES)
    query = queries.Query("rock > .95 and not slow > 2", TAGS)
    ((tag, value, number),) = queries.values_for(songs, query, 2)
    found = queries.find(songs, queries.Query(f"{tag} > {value:g}", TAGS))
    assert tag == "rock" and len(found) == number == 2


@pytest.mark.parametrize("seed", range(20))
def test_the_value_finds_as_many_as_it_says(seed):
    scores = np.random.default_rng(seed).random((30, 1)) ** 8
    songs = songs_of(scores)
    ((tag, value, number),) = queries.values_for(songs, queries.Query("rock", TAGS), 10)
    found = queries.find(songs, queries.Query(f"rock > {value:g}", TAGS))
    assert len(found) == number >= 10


def test_songs_unlike_others_and_without_tags_are_found(command, music, tmp_path):
    command.scan(music)

    def found(*options):
        done = call(["-m", "tagger", "similar", *options, "--json"], music)
        assert not done.returncode, done.stderr
        return [json.loads(line)["path"] for line in done.stdout.splitlines()]

    usual = found("a.mp3")
    assert usual
    assert usual[0] not in found("a.mp3", "--unlike", usual[0])
    assert found("a.mp3", "--exclude", "rock > -1") == []
    (music / "list.m3u8").write_text("#EXTM3U\n#EXTINF:3,x\na.mp3\nsub/d.mp3\n")
    assert found("list.m3u8") == found("a.mp3", "sub/d.mp3")
    (music / "none.m3u").write_text("#EXTM3U\n")
    done = call(["-m", "tagger", "similar", "none.m3u"], music)
    assert done.returncode == 2 and "names no songs" in done.stderr


def test_an_artist_counts_alike_for_seeds_of_the_library_and_others():
    random = np.random.default_rng(0)
    songs = songs_of(
        np.zeros((12, 1)), random.normal(0, 1, (12, 8)), artists=["Ann"] * 12
    )
    compared = similarity.Neighbours(songs)
    inside = compared.similar(songs.embeddings[0], 3, [0], 1)
    outside = compared.similar(songs.embeddings[0] * 1.001, 3, [], 1)
    assert len(inside) == len(outside) == 1


def test_songs_to_label_next_come_back_as_data(command, music, tmp_path):
    """The nearest to each threshold, once; those that are labelled are left out."""
    from tagger.datasets import csv_manifest

    command.scan(music)
    scores = command.songs().scores
    with database.writer(command.path) as library, library._changing() as connection:
        limits = json.dumps([float(np.median(scores[:, 0])), 2.0, 2.0, 2.0])
        connection.execute("UPDATE models SET thresholds = ?", [limits])
    (tmp_path / "mine.csv").write_text("path,tags,artist\nmusic/a.mp3,rock,Ann\n")
    ask = ["-m", "tagger", "fit", "mine.csv", "--suggest", "2", "--csv", "next.csv"]
    done = call(ask, tmp_path)
    assert not done.returncode and "and 2 to listen to" in done.stdout, done.stderr
    found = csv_manifest.load_unsplit(tmp_path / "next.csv")
    assert (
        len(found) == 3 and set(found.splits) == {"train"} and found.tags == ("rock",)
    )
    assert found.paths[0] == str(music / "a.mp3") and found.labels[0] == 1
    paths = command.songs().paths
    distance = np.abs(scores[:, 0] - np.median(scores[:, 0]))
    order = [paths[row] for row in np.argsort(distance)]
    order.remove(str(music / "a.mp3"))
    assert list(found.paths[1:]) == order[:2]
    done = call([*ask, "--output", "m.onnx", "--force"], tmp_path)
    assert done.returncode == 2 and "no --output" in done.stderr
    (tmp_path / "mine.csv").write_text("path,tags\nmusic/a.mp3,polka\n")
    done = call([*ask, "--force"], tmp_path)
    assert done.returncode == 2 and "knows none of the tags" in done.stderr


def test_a_tag_is_found_by_its_word():
    tags = (
        "hard rock",
        "80s",
        "in",
        "rock'n'roll",
        'the "king"',
        "a\\b",
        "électro",
        "foo_bar baz",
        "foo_bar",
    )
    for number, tag in enumerate(tags):
        assert queries.Query(queries.word_of(tag), tags).mentioned == [number]


def test_a_library_without_embeddings_is_a_sentence():
    with pytest.raises(ValueError, match="holds no embeddings of .* Scan again"):
        similarity.Neighbours(songs_of(np.zeros((3, 1)), np.zeros((3, 0))))
