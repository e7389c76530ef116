"""`tagger verify` names every bad shard and record."""

import dataclasses

import numpy as np
import pytest
from conftest import build_corpus

from tagger.data import clips, records, verification


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
        clips.open_shards(folder, verify=True)


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
