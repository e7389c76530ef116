"""Where pictures put what they show."""

import types

import numpy as np
import pandas as pd
import pytest

from tagger.evaluation import figures as score_figures
from tagger.interpretation import figures

MUSIC = types.SimpleNamespace(
    values=np.random.RandomState(1).standard_normal((40, 20)),
    seconds=np.arange(40) / 4,
    frequencies_hz=np.geomspace(50, 8000, 20),
    unit="dB",
)


@pytest.mark.parametrize(("hop", "segment"), [(3.0, 3.0), (0.5, 3.0), (2.98, 3.0)])
def test_a_score_is_drawn_at_the_middle_of_its_segment(hop, segment):
    seconds = hop * np.arange(6)
    figure = figures.plot_taggram(np.eye(6, 2), ["a", "b"], seconds, segment, "x")
    axes = figure.axes[0]
    edges = axes.collections[0].get_coordinates()[0, :, 0]
    middles = (edges[1:] + edges[:-1])[1:-1] / 2
    np.testing.assert_allclose(middles, seconds[1:-1] + segment / 2)
    # The first and the last reach to the ends of the music: no white margins.
    assert edges[0] == 0 and edges[-1] == pytest.approx(seconds[-1] + segment)
    assert axes.get_xlim() == (0, pytest.approx(seconds[-1] + segment))


@pytest.mark.parametrize("num_tags", [1, 2, 50])
def test_the_colour_bar_of_distances_is_as_tall_as_its_label(num_tags):
    names = [f"tag {n}" for n in range(num_tags)]
    distances = pd.DataFrame(np.ones((num_tags, num_tags)), names, names)
    figure = figures.plot_tag_distances({"block 1": distances})
    figure.draw_without_rendering()
    label = figure.axes[-1].yaxis.label.get_window_extent()
    assert label.y0 >= 0 and label.y1 <= figure.bbox.height


def test_scores_have_whiskers_and_the_chance_of_each_tag():
    table = pd.DataFrame(
        {
            "positives": [30, 5, 0], "negatives": [70, 95, 100],
            "roc_auc": [0.8, 0.6, np.nan], "pr_auc": [0.7, 0.2, np.nan],
            "roc_auc_low": [0.7, 0.4, np.nan], "roc_auc_high": [0.9, 0.8, np.nan],
            "pr_auc_low": [0.6, 0.1, np.nan], "pr_auc_high": [0.8, 0.5, np.nan],
        },
        index=["rock", "harp", "none"],
    )  # fmt: skip
    figure = score_figures.plot_scores(table, "model on data")
    roc, pr = figure.axes
    assert figure.get_suptitle() == "model on data"
    names = [label.get_text() for label in roc.get_yticklabels()]
    assert names == ["none (0)", "harp (5)", "rock (30)"]
    dots, chance = pr.get_lines()
    np.testing.assert_array_equal(dots.get_xdata()[1:], [0.2, 0.7])
    np.testing.assert_allclose(chance.get_xdata(), [0, 0.05, 0.3])
    ends = [segment[:, 0] for segment in roc.collections[0].get_segments()[-2:]]
    np.testing.assert_allclose(ends, [[0.4, 0.8], [0.7, 0.9]])


def test_contributions_have_a_scale_for_each_tag():
    table = pd.DataFrame([[0.01, 0.02], [0.9, 0.3]], ["quiet", "violin"])
    figure = figures.plot_contribution(
        table, [0.01, 0.5], np.arange(3.0), MUSIC, "two tags"
    )
    rows = figure.axes[1]
    drawn = rows.collections[0].get_array().reshape(2, 2)
    np.testing.assert_allclose(drawn, [[0.5, 1], [1, 1 / 3]])
    assert [text.get_text() for text in rows.texts] == ["max 0.02", "max 0.90"]


def test_attributions_share_one_scale_and_only_the_strongest_cells_show():
    strong = np.random.RandomState(0).standard_normal((40, 20))
    figure = figures.plot_attributions(
        {"a": strong, "b": strong / 10}, MUSIC, "two tags"
    )
    plain, *panels = figure.axes[:3]
    assert len(plain.images) == 1
    peaks = []
    for axes in panels:
        image = axes.images[-1]
        assert np.mean(image.get_alpha() > 0) == pytest.approx(0.05, abs=0.01)
        peaks.append(np.abs(image.get_array()).max())
    assert peaks[0] == 1 and peaks[1] == pytest.approx(0.1, rel=0.3)


def test_attention_is_drawn_from_zero_with_a_line_at_uniform():
    heat = np.full(9, 0.1)
    figure = figures.plot_attention(heat, 0.1, np.arange(10.0), MUSIC, "x")
    above, below = figure.axes[:2]
    assert above.images and below.collections[0].get_clim()[0] == 0
    lines = figure.axes[-1].get_lines()
    assert any(np.all(np.equal(line.get_ydata(), 0.1)) for line in lines)
