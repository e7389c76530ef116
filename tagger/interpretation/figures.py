"""Figures of what a network hears, without global state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from tagger.plotting import (
    COLOURS,
    MUSIC,
    SCORES,
    draw_rows,
    new_figure,
    plain,
    row_size,
    set_title,
)

if TYPE_CHECKING:
    from tagger.interpretation.spectrograms import Spectrogram


def plot_spectrograms(waveforms: dict[str, np.ndarray], sample_rate: int) -> Figure:
    """Draws spectrograms one below the other, all on the same decibel scale.

    Args:
        waveforms: Title -> waveform [num_samples].
        sample_rate: Sample rate in Hz.
    """
    figure = new_figure(5, 0.6 + 1.2 * len(waveforms))
    panels = figure.subplots(len(waveforms), sharex=True, squeeze=False)[:, 0]
    for axes, (title, waveform) in zip(panels, waveforms.items(), strict=True):
        with np.errstate(divide="ignore"):  # silence
            *_, image = axes.specgram(
                waveform, 1024, sample_rate, noverlap=512, vmin=-130, vmax=-30,
                cmap="magma",
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_ylim(60, sample_rate / 2)
        axes.set_yticks([100, 1000], ["100", "1k"])
        axes.set_title(plain(title), loc="left", fontsize="small")
    panels[-1].set_xlabel("seconds")
    figure.supylabel("Hz", fontsize="medium")
    bar = figure.colorbar(image, ax=list(panels), aspect=60)
    bar.set_label("power per Hz in dB, full scale 0")
    return figure


def plot_excitations(
    means: pd.DataFrame, title: str, highlighted: Sequence[str] = ()
) -> Figure:
    """Draws the mean excitation of every channel, one line per tag.

    The channels are sorted by their mean. All tags are grey but those highlighted,
    whose colours depend only on their order, so that they are the same in every block.

    Args:
        means: Mean excitations [tags, channels], index tag.
        title: Title of the figure.
        highlighted: Tags to colour, such as `interpretation.most_different_tags`; at
            most seven are coloured, and those that `means` lacks are left out.
    """
    means = means.iloc[:, np.argsort(means.mean(axis=0))]
    highlighted = list(highlighted)[: len(COLOURS)]
    channels = 1 + np.arange(means.shape[1])
    figure = new_figure(5, 3.3)
    axes = figure.subplots()
    for _, line in means.drop(index=highlighted, errors="ignore").iterrows():
        axes.plot(channels, line.to_numpy(), color="0.75", linewidth=0.6)
    ends = {}
    for tag, colour in zip(highlighted, COLOURS, strict=False):
        if tag in means.index:
            line = means.loc[tag].to_numpy()
            axes.plot(channels, line, color=colour, linewidth=1.6)
            ends[tag] = (line[-1], colour)
    place, gap = 1.0 + 0.07, 0.07  # names do not overlap
    for tag, (end, colour) in sorted(ends.items(), key=lambda one: -one[1][0]):
        place = min(end, place - gap)
        axes.annotate(
            plain(tag, 30), (channels[-1], place), (4, 0), color=colour,
            textcoords="offset points", va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(1, max(channels[-1], 2))
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("channel, sorted by mean excitation")
    axes.set_ylabel("excitation")
    set_title(figure, title)
    return figure


def plot_spread(spread: pd.Series) -> Figure:
    """Draws the standard deviation of the excitations across tags for each block.

    Args:
        spread: Standard deviations; the index is the depth of the block, from 0.
    """
    figure = new_figure(5, 3.3)
    axes = figure.subplots()
    axes.plot(spread.index + 1, spread, color=COLOURS[0], marker="o")
    axes.set_xticks(spread.index + 1)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("block")
    axes.set_ylabel("standard deviation across tags")
    set_title(figure, "How much the excitations of each block differ between tags")
    return figure


def plot_loudness(
    excitation: np.ndarray, loudness: pd.Series, regression: pd.DataFrame, title: str
) -> Figure:
    """Draws excitation against loudness: the mean of all channels, and some channels.

    Args:
        excitation: Excitations of one block [num_clips, channels].
        loudness: Root mean square of each clip.
        regression: Regression line of each channel: slope, intercept and error.
        title: What is drawn, such as "Block 1".
    """
    slopes = regression["slope"]
    chosen = {}  # a channel may be two of these
    for name, channel in (
        ("rises most", slopes.idxmax()),
        ("falls most", slopes.idxmin()),
        ("depends least", slopes.abs().idxmin()),
        ("nearest to its line", regression["error"].idxmin()),
    ):
        chosen[channel] = " and ".join(filter(None, [chosen.get(channel), name]))
    panels = [("mean of all channels", excitation.mean(axis=1), regression.mean())]
    panels += [
        (
            f"channel {channel + 1}: {name}",
            excitation[:, channel],
            regression.loc[channel],
        )
        for channel, name in chosen.items()
    ]
    num_rows = -(-len(panels) // 2)
    figure = new_figure(5, 0.9 + 1.9 * num_rows)
    places = figure.subplots(num_rows, 2, sharex=True, sharey=True).ravel()
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    ends = np.array([0, loudness.max() * 1.05])
    for axes, (name, values, line) in zip(places, panels, strict=False):
        axes.scatter(loudness, values, s=14, color=COLOURS[1], alpha=0.5, linewidths=0)
        axes.plot(
            ends, line["intercept"] + line["slope"] * ends, color="black", linewidth=1
        )
        axes.set_xlim(*ends)
        axes.set_ylim(0, 1)
        axes.tick_params(labelbottom=True)
        with np.errstate(invalid="ignore"):  # an excitation that never changes
            correlation = np.corrcoef(loudness, values)[0, 1]
        axes.set_title(plain(f"{name}\nr = {correlation:.2f}"), size="small")
    figure.supylabel("excitation", size="medium")
    figure.supxlabel("loudness (root mean square, full scale 1)", size="medium")
    positive, negative = int((slopes > 0).sum()), int((slopes < 0).sum())
    set_title(
        figure,
        f"{title}: excitation rises with loudness in {positive} channels, falls in"
        f" {negative}",
    )
    return figure


def plot_tag_distances(distances: dict[str, pd.DataFrame]) -> Figure:
    """Draws the distances between tags, one matrix per block, all on the same scale.

    Args:
        distances: Title -> distances [tags, tags], all with the tags in one order.
    """
    num_tags = max(len(one) for one in distances.values())
    side = max(1.6 + 0.12 * num_tags, 2.8)
    # Room beside the matrices for the colour bar.
    figure = new_figure(side + 1.6, side * len(distances) + 0.6)
    panels = figure.subplots(len(distances), 1, squeeze=False)[:, 0]
    highest = max(one.to_numpy().max() for one in distances.values()) or 1.0
    for axes, (title, one) in zip(panels, distances.items(), strict=True):
        image = axes.imshow(one, cmap="viridis_r", vmin=0, vmax=highest)
        places = np.arange(len(one))
        names = [plain(tag) for tag in one.index]
        axes.set_xticks(places, names, rotation=90, fontsize=row_size(num_tags))
        axes.set_yticks(places, names, fontsize=row_size(num_tags))
        axes.set_title(plain(title), fontsize="medium")
    bar = figure.colorbar(image, ax=list(panels), aspect=30)
    bar.set_label("distance (root mean square)")
    set_title(figure, "How far apart the blocks excite two tags")
    return figure


def plot_excitation_boxes(excitations: list[np.ndarray], title: str) -> Figure:
    """Draws a box plot of the excitations of each block.

    A box spans the quartiles; the whiskers end at the extremes within 1.5 times the
    interquartile range.

    Args:
        excitations: Excitations [channels] of each block.
        title: Title of the figure.
    """
    figure = new_figure(5, 3.3)
    axes = figure.subplots()
    axes.boxplot(
        excitations,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": COLOURS[1]},
        medianprops={"color": COLOURS[0], "linewidth": 2},
    )
    axes.set_ylim(0, 1)
    axes.set_xlabel("block")
    axes.set_ylabel("excitation of its channels")
    set_title(figure, title)
    return figure


def plot_attention(
    heat: np.ndarray, uniform: float, seconds: np.ndarray, music, title: str
) -> Figure:
    """Draws the music and, below it, one map of what the decision looks at.

    Figure 1 of Won, Chun and Serra 2019, https://arxiv.org/abs/1911.04385.

    Args:
        heat: Attention to each step [num_steps], summed over the heads.
        uniform: The same if all positions got equal attention, a line in the scale.
        seconds: Start of each step, and end of the last one [num_steps + 1].
        music: Spectrogram drawn above the map, on the same time axis.
        title: Title of the figure, with the tags that the model gives.
    """
    figure = new_figure(5, 3.2)
    above, below = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    _finish_music(figure, above, music, seconds)
    above.set_xlabel("")
    image = draw_rows(below, heat[None], seconds, SCORES, vmin=0)
    below.set_yticks([])
    below.set_xlabel("seconds")
    _uniform_bar(figure, image, below, uniform, "attention")
    set_title(figure, title)
    return figure


def plot_attention_heads(
    heats: dict[str, np.ndarray], uniform: float, seconds: np.ndarray, music, title: str
) -> Figure:
    """Draws what each head of each layer attends to over time, all on one scale from 0.

    Args:
        heats: Title of the layer -> attention [num_heads, num_steps].
        uniform: Attention to a step if all got the same, a line in the scale.
        seconds: Start of each step, and end of the last one [num_steps + 1].
        music: Spectrogram drawn above the maps, on the same time axis.
        title: Title of the figure.
    """
    heights = [max(0.14 * len(heat), 0.6) for heat in heats.values()]
    figure = new_figure(5, 2.4 + sum(heights) + 0.4 * len(heats))
    above, *panels = figure.subplots(
        1 + len(heats), sharex=True, height_ratios=[1.4, *heights]
    )
    _finish_music(figure, above, music, seconds)
    above.set_xlabel("")
    highest = max(heat.max() for heat in heats.values())
    for axes, (name, heat) in zip(panels, heats.items(), strict=True):
        image = draw_rows(axes, heat, seconds, SCORES, vmin=0, vmax=highest)
        numbers = np.arange(len(heat))
        axes.set_yticks(numbers, numbers + 1, fontsize=row_size(4 * len(heat)))
        axes.set_ylabel("head")
        axes.set_title(plain(name), loc="left", fontsize="small")
    panels[-1].set_xlabel("seconds")
    _uniform_bar(figure, image, panels, uniform, "attention of a head")
    set_title(figure, title)
    return figure


def plot_attention_matrices(
    attention: dict[str, np.ndarray], seconds: np.ndarray, title: str
) -> Figure:
    """Draws what every time step attends to, one matrix per layer.

    Args:
        attention: Title of the layer -> [num_steps (query), num_steps (key)].
        seconds: Start of each step, and end of the last one [num_steps + 1].
        title: Title of the figure.
    """
    num_rows = -(-len(attention) // 2)
    figure = new_figure(5, 0.6 + 2.5 * num_rows)
    panels = figure.subplots(num_rows, 2, sharey=True, squeeze=False).ravel()
    ends = (seconds[0], seconds[-1])
    for axes in panels[len(attention) :]:
        axes.set_axis_off()
    for axes, (name, matrix) in zip(panels, attention.items(), strict=False):
        # Most attention is far below the peaks; a square-root scale shows both.
        image = axes.imshow(
            matrix,
            cmap=SCORES,
            norm=PowerNorm(0.5, vmin=0),
            extent=(*ends, *ends[::-1]),
        )
        axes.set_title(plain(name), fontsize="small")
        axes.set_xlabel("attended to, seconds")
        figure.colorbar(image, ax=axes, shrink=0.75)
    panels[0].set_ylabel("attending, seconds")
    set_title(figure, title)
    return figure


def plot_contribution(
    contribution: pd.DataFrame,
    scores: np.ndarray,
    seconds: np.ndarray,
    music: "Spectrogram",
    title: str,
    junction: tuple[float, str, str] | None = None,
) -> Figure:
    """Draws, over time, the score of each tag if only that moment were attended to.

    Every tag has a scale of its own, from 0 to its maximum, which is written at the
    row's end (figure 2 of Won, Chun and Serra 2019, https://arxiv.org/abs/1911.04385).

    Args:
        contribution: Scores [tags, num_steps], index tag.
        scores: Scores of the whole waveform [tags], written beside the rows.
        seconds: Start of each step, and end of the last one [num_steps + 1].
        music: Spectrogram drawn above the rows, on the same time axis.
        title: Title of the figure.
        junction: Time in seconds at which one clip ends and another begins, and the
            names of the two clips.
    """
    rows_height = max(0.24 * len(contribution), 0.35)
    figure = new_figure(5, 2.4 + rows_height)
    above, rows = figure.subplots(2, sharex=True, height_ratios=[1.4, rows_height])
    _finish_music(figure, above, music, seconds)
    above.set_xlabel("")
    highest = contribution.max(axis=1)
    relative = contribution.div(highest.clip(lower=1e-12), axis=0)
    image = draw_rows(rows, relative.to_numpy(), seconds, SCORES, vmin=0, vmax=1)
    names = [
        plain(f"{tag} {score:.2f}")
        for tag, score in zip(contribution.index, scores, strict=True)
    ]
    rows.set_yticks(np.arange(len(names)), names, fontsize=row_size(len(contribution)))
    for row, value in enumerate(highest):
        rows.annotate(
            f"max {value:.2f}", (1, row), (3, 0), xycoords=rows.get_yaxis_transform(),
            textcoords="offset points", va="center", fontsize="small",
        )  # fmt: skip
    rows.set_xlabel("seconds")
    bar = figure.colorbar(image, ax=rows, pad=0.12, aspect=max(5, 4 * rows_height))
    bar.set_ticks([0, 1], labels=["0", "max"])
    if junction:
        at, first, second = junction
        for axes in (above, rows):
            axes.axvline(at, color=COLOURS[5], linewidth=1.5)
        above.set_title(plain(first, 40), loc="left", fontsize="small")
        above.set_title(plain(second, 40), loc="right", fontsize="small")
    set_title(figure, title)
    return figure


def plot_attributions(
    values: dict[str, np.ndarray], music: "Spectrogram", title: str
) -> Figure:
    """Draws the music, and what raised (orange) or lowered (violet) each tag's score.

    Only the strongest twentieth of the cells is coloured, on one scale for all panels,
    so that a tag of which little is explained looks pale. The attributions are smoothed
    with a Gaussian of 1.5 cells, because single cells are too small to see.

    Args:
        values: Title -> attribution, in the shape of the values of `music`.
        music: Spectrogram, drawn alone and behind the attributions.
        title: Title of the figure.
    """
    values = {name: gaussian_filter(one, 1.5) for name, one in values.items()}
    highest = max(np.quantile(np.abs(one), 0.995) for one in values.values())
    num_columns = min(1 + len(values) // 6, 5)
    num_rows = -(-(1 + len(values)) // num_columns)
    figure = new_figure(max(5, 3.4 * num_columns), 0.7 + 1.6 * num_rows)
    panels = figure.subplots(
        num_rows, num_columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    for axes in panels[1 + len(values) :]:
        axes.set_axis_off()
    _draw_spectrogram(panels[0], music)
    panels[0].set_title("the music", loc="left", fontsize="small")
    for axes, (name, one) in zip(panels[1:], values.items(), strict=False):
        _draw_spectrogram(axes, music).set_alpha(0.35)
        strength = np.clip(one / max(highest, 1e-12), -1, 1).T
        strongest = np.abs(one.T) >= np.quantile(np.abs(one), 0.95)
        # Pale colours would hide the music.
        alpha = strongest * np.minimum(3 * np.abs(strength), 1)
        image = axes.imshow(
            strength, cmap="PuOr_r", vmin=-1, vmax=1, alpha=alpha, **_place(music)
        )
        axes.set_title(plain(name), loc="left", fontsize="small")
    for axes in panels[max(1 + len(values) - num_columns, 0) : 1 + len(values)]:
        axes.set_xlabel("seconds")
        axes.tick_params(labelbottom=True)
    bar = figure.colorbar(ScalarMappable(image.norm, image.cmap), ax=list(panels))
    bar.set_ticks([-1, 0, 1], labels=["lowers", "0", "raises"])
    set_title(figure, title)
    return figure


def plot_taggram(
    scores: np.ndarray,
    tags: Sequence[str],
    seconds: np.ndarray,
    segment_seconds: float,
    title: str,
) -> Figure:
    """Draws the scores of every tag over time.

    Args:
        scores: Scores of each segment [num_segments, num_tags].
        tags: Names of the tags; the first one is on top.
        seconds: Start of each segment [num_segments].
        segment_seconds: Length of a segment in seconds.
        title: Title of the figure.
    """
    figure = new_figure(5, 1.2 + max(0.2 * len(tags), 0.5))
    axes = figure.subplots()
    # A score belongs to the middle of its segment, however much the segments overlap;
    # the first and the last reach to the ends of theirs.
    hop = min([segment_seconds, *np.diff(seconds)[:1]])
    edges = seconds[0] + (segment_seconds - hop) / 2 + hop * np.arange(len(scores) + 1)
    edges[0], edges[-1] = seconds[0], seconds[-1] + segment_seconds
    image = draw_rows(axes, scores.T, edges, SCORES, vmin=0)
    axes.set_xlim(min(seconds[0], 0), edges[-1])
    names = list(map(plain, tags))
    axes.set_yticks(np.arange(len(tags)), names, fontsize=row_size(len(tags)))
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=axes, pad=0.01, label="score")
    set_title(figure, title)
    return figure


def _draw_spectrogram(axes: Axes, music: "Spectrogram"):
    """Draws a spectrogram with its frequency axis and returns the image."""
    # Most levels lie between these; silence and a single peak would take the contrast.
    low, high = np.quantile(music.values, [0.2, 0.995])
    image = axes.imshow(music.values.T, MUSIC, vmin=low, vmax=high, **_place(music))
    num_bands, hz, bands = len(music.frequencies_hz), [], []
    for frequency in (10000, 5000, 2000, 1000, 500, 200, 100, 50):
        band = np.interp(frequency, music.frequencies_hz, np.arange(num_bands))
        # Labels are at least a twelfth of the axis apart.
        if 0 < band < num_bands - 1 and (
            not bands or bands[-1] - band > num_bands / 12
        ):
            hz.append(frequency)
            bands.append(band)
    axes.set_yticks(bands, [f"{n / 1000:g}k" if n >= 1000 else str(n) for n in hz])
    axes.set_ylabel("Hz")
    return image


def _place(music: "Spectrogram") -> dict:
    """Returns `imshow` arguments that place an array in the spectrogram's shape."""
    seconds, num_bands = music.seconds, len(music.frequencies_hz)
    half = (seconds[1] - seconds[0]) / 2 if len(seconds) > 1 else 0.5
    extent = (seconds[0] - half, seconds[-1] + half, -0.5, num_bands - 0.5)
    return {"extent": extent, "origin": "lower", "aspect": "auto"}


def _finish_music(
    figure: Figure, axes: Axes, music: "Spectrogram", seconds: np.ndarray
):
    image = _draw_spectrogram(axes, music)
    figure.colorbar(image, ax=axes, pad=0.01, label=f"level, {music.unit}")
    axes.set_xlim(seconds[0], min(seconds[-1], _place(music)["extent"][1]))
    axes.set_xlabel("seconds")


def _uniform_bar(figure: Figure, image, axes, uniform: float, label: str) -> None:
    """Adds a colour bar with a line at uniform attention."""
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=9)
    bar.ax.axhline(uniform, color=COLOURS[5], linewidth=2)
    bar.set_label(f"{label}\n(line: uniform)", fontsize="small")
