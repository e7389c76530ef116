"""What every dataset must do."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from examples import (
    BANDS,
    ignore_counts,
    write_cals,
    write_jamendo,
    write_mtt,
    write_tracks,
)

from tagger import audio, cli, options
from tagger.data import building, records, verification
from tagger.datasets import DATASETS

# Key of DATASETS -> function that writes a small dataset and returns its path.
EXAMPLES = {
    "magnatagatune": write_mtt,
    "million_song": write_cals,
    "mtg_jamendo": write_jamendo,
    "csv": lambda folder: write_tracks(folder, f"path,tags,artist\n{BANDS}"),
}
OPTIONS = {"million_song": {"split": "cals"}}


@pytest.fixture(params=DATASETS)
def name(request):
    return request.param


@pytest.fixture
def example(name, tmp_path):
    assert name in EXAMPLES, "write a small example of the dataset into EXAMPLES"
    source = EXAMPLES[name](tmp_path / name)
    return DATASETS[name].load_annotations(source, **OPTIONS.get(name, {}))


@ignore_counts
def test_annotations_are_of_one_kind(name, example):
    assert example.dataset == name
    assert example.labels.dtype == np.uint8 and set(np.unique(example.labels)) <= {0, 1}
    assert len(set(example.tags)) == len(example.tags)
    assert set(example.splits) >= {"train", "val", "test"}
    assert example.labels[example.splits != "student"].any()
    assert not example.labels[example.splits == "student"].any()
    assert not any(Path(path).is_absolute() for path in example.paths)


@ignore_counts
def test_reading_twice_gives_the_same(name, example, tmp_path):
    source = EXAMPLES[name](tmp_path / name)
    again = DATASETS[name].load_annotations(source, **OPTIONS.get(name, {}))
    assert again.sha256() == example.sha256() and again.counts() == example.counts()


@ignore_counts
def test_shards_of_every_dataset_are_whole_and_name_their_split(
    name, example, tmp_path
):
    music = np.sin(np.arange(8000) / 9).astype(np.float32)
    for number, path in enumerate(example.paths):
        path = example.audio_dir / (path if Path(path).suffix else f"{path}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        wav = tmp_path / "music.wav"
        audio.write_audio(wav, music[number:], 8000)
        path.write_bytes(wav.read_bytes())
    options = {"sample_rate": 8000, "segment_samples": 2000, "num_workers": 1}
    manifest = building.build(example, tmp_path / "shards", **options)
    assert not any(
        faults for _, faults in verification.verify(tmp_path / "shards", manifest)
    )
    assert manifest.planned == example.counts()
    said = building.summary(manifest, tmp_path / "shards")
    assert example.split_rule in said and name in said
    if example.published:
        assert f"(published: {example.published['train']:,})" in said
    for path in (tmp_path / "shards").glob("student-*.tfrecord"):
        assert all("labels" not in records.decode(e) for e in records.read_shard(path))


def test_a_dataset_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        DATASETS[name].load_annotations(tmp_path / "nowhere")


def test_the_command_line_knows_every_dataset(name):
    short = DATASETS[name].command.removeprefix("python ").replace("_", " ", 1)
    words = short.replace("-m tagger ", "").removesuffix(".py").split()
    command = cli.command(" ".join(words[:2]))
    flags = command.parser()._option_string_actions
    loader = DATASETS[name].load_annotations
    for option in options.read(f"{loader.__module__}:load_annotations").parameters:
        stated = inspect.signature(loader).parameters[option]
        assert stated.default is stated.empty or any(
            action.dest == f"annotations.{option}" for action in flags.values()
        )
