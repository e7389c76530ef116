"""Where pictures put what they show."""

import numpy as np
import pandas as pd
import pytest

from tagger import plotting


@pytest.mark.parametrize(("hop", "segment"), [(3.0, 3.0), (0.5, 3.0), (2.98, 3.0)])
def test_a_score_is_drawn_at_the_middle_of_its_segment(hop, segment):
    seconds = hop * np.arange(6)
    figure = plotting.plot_taggram(np.eye(6, 2), ["a", "b"], seconds, segment, "x")
    axes = figure.axes[0]
    edges = axes.collections[0].get_coordinates()[0, :, 0]
    middles = (edges[1:] + edges[:-1]) / 2
    np.testing.assert_allclose(middles, seconds + segment / 2)
    assert axes.get_xlim() == (0, pytest.approx(seconds[-1] + segment))


@pytest.mark.parametrize("num_tags", [1, 2, 50])
def test_the_colour_bar_of_distances_is_as_tall_as_its_label(num_tags):
    names = [f"tag {n}" for n in range(num_tags)]
    distances = pd.DataFrame(np.ones((num_tags, num_tags)), names, names)
    figure = plotting.plot_tag_distances({"block 1": distances})
    figure.draw_without_rendering()
    label = figure.axes[-1].yaxis.label.get_window_extent()
    assert label.y0 >= 0 and label.y1 <= figure.bbox.height
