"""Writes a small example of every dataset, as its authors publish it."""

import pickle

import numpy as np
import pytest

from tagger.datasets import million_song, mtg_jamendo

# The examples are smaller than the datasets, which annotations note.
ignore_counts = pytest.mark.filterwarnings(
    "ignore:.*are published", "ignore:No clip of .* has the tags"
)


def write_csv(folder, tags, rows, newline="\n", encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    lines = [["clip_id", *tags, "mp3_path"], *rows]
    text = newline.join("\t".join(f'"{cell}"' for cell in line) for line in lines)
    (folder / "annotations_final.csv").write_bytes((text + newline).encode(encoding))
    return folder


def write_mtt(folder):
    rows = [(n, 1, n % 2, f"{'0123cdef'[n % 8]}/{n}.mp3") for n in range(16)]
    return write_csv(folder, ["rock", "slow"], rows)


TRACKS = [f"TRA{'AB'[n % 2]}{'KLMNO'[n % 5]}XX128F42{n:05X}" for n in range(20)]


def write_classic(folder, num_train=14):
    """Writes the four files of the classic split, as Python 2 wrote them."""
    folder.mkdir(exist_ok=True)
    (folder / "50tagList.txt").write_text("rock\npop\nHip-Hop\n")
    vectors = {
        track: np.array([[n % 2], [1], [0]], bool) for n, track in enumerate(TRACKS)
    }
    for name, content in {
        "filtered_list_train.cP": TRACKS[:num_train],
        "filtered_list_test.cP": TRACKS[num_train:],
        "msd_id_to_tag_vector.cP": vectors,
    }.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return folder


def write_cals(folder, as_table=False):
    folder.mkdir(exist_ok=True)
    parts = dict(zip(million_song.CALS_SPLITS, (8, 10, 14, 20), strict=True))
    rows, start = ["\tclip_ids\tsplits\tlength"], 0
    for name, end in parts.items():
        ids = np.array(TRACKS[start:end])
        in_order = ids[::-1] if as_table else ids  # the table has another order
        if not as_table or name != "student":
            np.save(folder / f"{name}_ids.npy", in_order)
        rows += [f"{n}\t{track}\t{name.upper()}\t661500" for n, track in enumerate(ids)]
        if name != "student":
            labels = np.eye(50, dtype=bool)[start:end]
            labels = labels[::-1] if as_table else labels
            np.save(folder / f"{name}_binaries.npy", labels)
        start = end
    rows.append("20\tTRZZZZZ128F42AAAA0\tNONE\t1")
    if as_table:
        (folder / "msd_splits.tsv").write_text("\n".join(rows) + "\n")
    return folder


def write_jamendo(folder):
    folder.mkdir(exist_ok=True)
    number = 0
    for split, num_tracks in (("train", 8), ("validation", 3), ("test", 4)):
        lines = ["\t".join(mtg_jamendo.COLUMNS)]
        for _ in range(num_tracks):
            tags = ["genre---rock", "instrument---guitar"][: 1 + number % 2]
            tags += ["mood/theme---épic"] * (number % 3 == 0)
            facts = [f"track_{number:07d}", f"artist_{number}", "album_1"]
            facts += [f"{number:02d}/{number}.mp3", "215.1"]
            lines.append("\t".join(facts + tags))
            number += 1
        path = folder / f"autotagging_top50tags-{split}.tsv"
        path.write_bytes("\r\n".join([*lines, ""]).encode())
    return folder


def write_tracks(folder, text, encoding="utf-8"):
    folder.mkdir(exist_ok=True)
    (folder / "tracks.csv").write_bytes(text.encode(encoding))
    return folder / "tracks.csv"


BANDS = "".join(
    f"{n}.mp3,rock;{'pop' * (n % 2)},band {n // 4}{' ' * (n % 2)}\n" for n in range(80)
)  # stray blanks
