"""Pickles are read without running what they hold."""

import os
import pickle
from pathlib import Path

import pytest
from examples import write_classic, write_mtt

from tagger.datasets import magnatagatune, million_song, pickles


class Malicious:
    def __reduce__(self):
        return os.system, ("touch run",)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("msd_id_to_tag_vector.cP", million_song.load_annotations),
        (
            "train_list_pub.cP",
            lambda folder: magnatagatune.load_annotations(folder, "lee"),
        ),
    ],
)
def test_a_malicious_pickle_is_refused_named_and_not_run(
    tmp_path, monkeypatch, name, read
):
    monkeypatch.chdir(tmp_path)
    folder = write_classic(write_mtt(tmp_path / "lists"))
    for path in magnatagatune.LIST_NAMES.values():
        (folder / path).write_bytes(pickle.dumps([]))
    for evil in (pickle.dumps(Malicious()), b"cos\nsystem\n(S'touch run'\ntR."):
        (folder / name).write_bytes(evil)
        with pytest.raises(ValueError, match=rf"{name} .*(posix|os|nt)\.system"):
            read(folder)
        assert not Path("run").exists()


@pytest.mark.parametrize("content", [b"", b"(lp1", b"no pickle", b"\x80\x05\x95"])
def test_a_broken_pickle_is_named(tmp_path, content):
    (tmp_path / "list.cP").write_bytes(content)
    with pytest.raises(ValueError, match="list.cP"):
        pickles.load(tmp_path / "list.cP", list)
