"""Excitations per clip, in the original notebook's format, and their analysis."""

import numpy as np
import pandas as pd
import pytest
from conftest import REFERENCES

from tagger import interpretation, models
from tagger.data import records
from tagger.data.clips import open_shards
from tagger.interpretation import figures
from tagger.models.layers import SqueezeExcitation
from tagger.weights import pretrained


@pytest.fixture(scope="module")
def model(trained):
    return models.load_model(trained / "model.keras")


@pytest.fixture(scope="module")
def shards(built):
    return open_shards(built)


@pytest.fixture(scope="module")
def table(model, shards):
    return interpretation.excitations(model, shards)


def test_rows_are_clips_times_blocks_with_the_originals_columns(table, shards):
    assert list(table.columns) == ["ex", "depth", *shards.manifest.tags]
    assert table["depth"].tolist() == list(range(9)) * 6
    assert [len(ex) for ex in table["ex"][:9]] == [4, 4, 8, 8, 8, 8, 8, 8, 16]
    assert table.index.name == "clip_id" and table.index.nunique() == 6


def test_excitations_are_clip_means_of_the_gates(table, model, shards, built):
    import keras

    gates = [
        layer.output for layer in model.layers if isinstance(layer, SqueezeExcitation)
    ]
    probe = keras.Model(model.input, gates)
    name = shards.manifest.shard_names("test")[0]
    for example in records.read_shard(built / name):
        values = records.decode(example)
        waveform = (
            values["segments"][: 5 * 59049].reshape(5, -1).astype(np.float32) / 32768
        )
        rows = table.loc[values["clip_id"]]
        assert rows[list(shards.manifest.tags)].iloc[0].tolist() == list(
            values["labels"]
        )
        for depth, gate in enumerate(probe.predict(waveform, verbose=0)):
            # float32 sums in another order
            np.testing.assert_allclose(
                rows["ex"].iloc[depth], gate.mean(axis=(0, 1)), atol=1e-5
            )


def test_the_originals_notebook_reads_the_pickle(table, tmp_path):
    interpretation.save_excitations(table, tmp_path / "ex.pkl")
    df = pd.read_pickle(tmp_path / "ex.pkl")
    for tag in df.columns[2:]:
        tagged = df[df[tag] == 1]
        for depth in df.depth.unique() if len(tagged) else ():
            mean = np.mean(tagged.loc[tagged.depth == depth, "ex"].values)
            ours = interpretation.tag_excitations(table, depth, [tag]).loc[tag]
            np.testing.assert_allclose(mean, ours, atol=1e-6)


def test_parquet_comes_back(table, tmp_path):
    pytest.importorskip("pyarrow")
    interpretation.save_excitations(table, tmp_path / "ex.parquet")
    back = interpretation.load_excitations(tmp_path / "ex.parquet")
    assert (
        list(back.columns) == list(table.columns) and (back.index == table.index).all()
    )
    np.testing.assert_array_equal(np.stack(back["ex"][::9]), np.stack(table["ex"][::9]))


@pytest.mark.parametrize("block", ["res", "basic"])
def test_a_model_without_gates_says_which_have_them(shards, block):
    plain = models.build_model("sample_cnn", num_tags=10, block=block, num_filters=2)
    with pytest.raises(
        ValueError, match="no squeeze-and-excitation blocks.*`block=rese`"
    ):
        interpretation.excitations(plain, shards)


def test_excitations_need_no_tags_of_the_model(built):
    """The labels are those of the data, whatever the model scores."""
    legacy = pretrained.load(REFERENCES / "rese_multi.hdf5")
    shards = open_shards(built)
    table = interpretation.excitations(legacy, shards, "val")
    assert tuple(table.columns[2:]) == shards.manifest.tags
    assert len(table) == 2 * table["depth"].nunique()


def toy_table():
    """Returns a table of two clips, two tags and one block of three channels."""
    return pd.DataFrame(
        {
            "ex": [np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.5, 0.1])],
            "depth": [0, 0],
            "loud": [1, 0],
            "rock": [1, 1],
            "never": [0, 0],
        },
        index=pd.Index(["a", "b"], name="clip_id"),
    )


def test_tag_means_and_spread_by_hand():
    means = interpretation.tag_excitations(toy_table(), 0)
    assert list(means.index) == ["loud", "rock"]  # no clip has the tag "never"
    np.testing.assert_allclose(means.loc["rock"], [0.2, 0.5, 0.5])
    spread = interpretation.excitation_spread(toy_table())
    assert spread.tolist() == pytest.approx([(0.05 + 0 + 0.2) / 3])


def test_distances_by_hand_and_neighbours_side_by_side():
    random = np.random.RandomState(0)
    centres = random.rand(4, 6)
    centres[3] = centres[0] + 0.01  # the fourth tag is the first's neighbour
    tags = ["a", "b", "c", "d"]
    table = pd.DataFrame({"ex": list(centres), "depth": 0})
    for number, tag in enumerate(tags):
        table[tag] = (np.arange(4) == number).astype(int)
    distances = interpretation.tag_distances(table, 0)
    expected = np.sqrt(np.mean((centres[0] - centres[1]) ** 2))
    assert distances.loc["a", "b"] == pytest.approx(expected)
    assert (distances.to_numpy() == distances.to_numpy().T).all()
    order = list(distances.index)
    assert abs(order.index("a") - order.index("d")) == 1
    nearest = interpretation.nearest_tags(table, 0, "a", 2)
    assert nearest.index[0] == "d" and nearest.iloc[0] == pytest.approx(0.01)
    assert "a" not in nearest and nearest.is_monotonic_increasing
    with pytest.raises(ValueError, match="'x' has no clips in the table.*: a, b, c, d"):
        interpretation.nearest_tags(table, 0, "x")


def test_unknown_tags_and_blocks_are_named():
    with pytest.raises(
        ValueError, match="Unknown tag 'jazz'. The table has: loud, rock"
    ):
        interpretation.tag_excitations(toy_table(), 0, ["jazz"])
    with pytest.raises(ValueError, match="no block of depth 5"):
        interpretation.tag_excitations(toy_table(), 5)


def test_loudness_is_the_root_mean_square_of_the_whole_segments(shards, built):
    loudness = interpretation.clip_loudness(shards)
    for example in records.read_shard(built / shards.manifest.shard_names("test")[0]):
        values = records.decode(example)
        waveform = values["segments"][: 5 * 59049] / 32768
        rms = np.sqrt(np.mean(waveform**2))
        assert loudness[values["clip_id"]] == pytest.approx(rms, rel=1e-4)


def test_regression_lines_are_numpys():
    random = np.random.RandomState(0)
    loudness = pd.Series(random.rand(20), index=[f"c{i}" for i in range(20)])
    ex = random.rand(20, 6)
    table = pd.DataFrame({"ex": list(ex), "depth": 0}, index=loudness.index)
    lines = interpretation.loudness_regression(table, loudness)
    for channel in range(6):
        slope, intercept = np.polyfit(loudness, ex[:, channel], 1)
        assert lines["slope"][channel] == pytest.approx(slope)
        assert lines["intercept"][channel] == pytest.approx(intercept)
        residual = ex[:, channel] - slope * loudness - intercept
        assert lines["error"][channel] == pytest.approx(np.sqrt(np.mean(residual**2)))


def test_regression_without_loudness_or_spread_is_refused():
    with pytest.raises(ValueError, match="no loudness for clip 'b'"):
        interpretation.loudness_regression(toy_table(), pd.Series({"a": 1.0}))
    with pytest.raises(ValueError, match="equally loud"):
        interpretation.loudness_regression(toy_table(), pd.Series({"a": 1.0, "b": 1.0}))


def test_figures_are_written(table, shards, tmp_path):
    loudness = interpretation.clip_loudness(shards)
    paths = interpretation.save_figures(table, loudness, tmp_path / "plots")
    assert len(paths) == 12
    assert {path.suffix for path in paths} == {".png", ".svg"}
    starts = {".png": b"\x89PNG", ".svg": b"<?xml"}
    assert all(path.read_bytes().startswith(starts[path.suffix]) for path in paths)


@pytest.mark.parametrize("num_tags", [1, 7, 50])
def test_excitation_plot_has_a_line_per_tag_and_the_same_colours_in_every_block(
    num_tags,
):
    random, colours = np.random.RandomState(0), []
    names = [f"tag{number}" for number in range(num_tags)]
    for _ in range(2):
        means = pd.DataFrame(random.rand(num_tags, 16), names)
        figure = figures.plot_excitations(means, "title", ["tag5", "tag0"])
        lines = figure.axes[0].get_lines()
        assert len(lines) == num_tags
        heights = np.array([line.get_ydata() for line in lines]).mean(axis=0)
        assert (np.diff(heights) >= 0).all()
        texts = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
        assert set(texts) == {"tag5", "tag0"} & set(names)
        colours.append(texts)
        # The line of a named tag has the colour of its name.
        drawn = {line.get_color(): line.get_ydata() for line in lines}
        order = np.argsort(means.mean(axis=0))
        np.testing.assert_array_equal(
            drawn[texts["tag0"]], means.loc["tag0"].to_numpy()[order]
        )
    assert colours[0] == colours[1]


def test_the_most_different_tags_are_those_far_from_the_rest():
    near, far = np.full(4, 0.5, np.float32), np.full(4, 0.9, np.float32)
    rows = [[near, 0, 1, 0, 0], [near + 0.01, 0, 0, 1, 0], [far, 0, 0, 0, 1]]
    table = pd.DataFrame(rows, columns=["ex", "depth", "a", "b", "c"])
    assert interpretation.most_different_tags(table, 1) == ["c"]


def test_a_channel_is_drawn_once_however_many_roles_it_has():
    loudness = pd.Series([0.1, 0.2, 0.3])
    excitation = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    lines = pd.DataFrame(
        {"slope": [1.0, -1.0], "intercept": [0.0, 1.0], "error": [0.1, 0.0]}
    )
    figure = figures.plot_loudness(excitation, loudness, lines, "Block 1")
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles[:3] == [
        "mean of all channels",
        "channel 1: rises most and depends least",
        "channel 2: falls most and nearest to its line",
    ]
    assert figure.get_suptitle().startswith("Block 1: excitation rises with loudness")
