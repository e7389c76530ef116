"""Draws arrays and tables as matplotlib figures, without global state."""

import os
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from tagger.storage import replacing
from tagger.text import printable

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SCORES, MUSIC = "magma", "Greys"  # colour maps


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure in the format of the path's extension (png, svg, pdf …)."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150)


def plot_scores(per_tag: pd.DataFrame, title: str) -> Figure:
    """Draws ROC-AUC and PR-AUC of every tag side by side, the best ROC-AUC on top.

    Dots are scores, whiskers 95 % intervals, and grey ticks what chance would score:
    ROC-AUC .5, and as PR-AUC the share of clips that have the tag.

    Args:
        per_tag: Index tag; columns roc_auc, pr_auc (NaN if undefined), positives and
            negatives, and for whiskers the columns of `bootstrap.intervals_per_tag`.
        title: Title of the figure.
    """
    per_tag = per_tag.sort_values("roc_auc", na_position="first")
    rows = np.arange(len(per_tag))
    share = per_tag["positives"] / (per_tag["positives"] + per_tag["negatives"])
    figure = _figure(5, 1.5 + 0.22 * len(per_tag))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name, chance, colour in zip(
        panels, ("roc_auc", "pr_auc"), (0.5, share), COLOURS, strict=False
    ):
        values = per_tag[name].to_numpy(float)
        lows, highs = (
            per_tag[f"{name}_{end}"].to_numpy(float)
            if f"{name}_{end}" in per_tag
            else values
            for end in ("low", "high")
        )
        axes.hlines(rows, lows, highs, color=colour, linewidth=1.2)
        axes.plot(values, rows, "o", color=colour, markersize=4)
        axes.plot(np.broadcast_to(chance, rows.shape), rows, "|", color="grey")
        axes.set_xlabel({"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}[name])
        axes.set_xlim(right=1.02)
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    for row, (value, positives) in enumerate(
        zip(per_tag["roc_auc"], per_tag["positives"], strict=True)
    ):
        if np.isnan(value):
            text = "no positive clip" if not positives else "no negative clip"
            panels[0].text(0.55, row, text, va="center", color="grey", size="small")
    names = [_plain(f"{tag} ({n})") for tag, n in per_tag["positives"].items()]
    panels[0].set_yticks(rows, names, fontsize=_row_size(len(per_tag)))
    panels[0].set_ylim(-0.6, len(per_tag) - 0.4)
    figure.supxlabel(
        "line: 95 % interval; grey tick: chance; in brackets: positive clips",
        fontsize="small",
    )
    _title(figure, title)
    return figure


def plot_spectrograms(waveforms: dict[str, np.ndarray], sample_rate: int) -> Figure:
    """Draws spectrograms one below the other, all on the same decibel scale.

    Args:
        waveforms: Title -> waveform [num_samples].
        sample_rate: Sample rate in Hz.
    """
    figure = _figure(5, 0.6 + 1.2 * len(waveforms))
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
        axes.set_title(_plain(title), loc="left", fontsize="small")
    panels[-1].set_xlabel("seconds")
    figure.supylabel("Hz", fontsize="medium")
    bar = figure.colorbar(image, ax=list(panels), aspect=60)
    bar.set_label("power per Hz in dB, full scale 0")
    return figure


def plot_robustness(
    scores: pd.DataFrame, metric: str, clean: dict[str, float], title: str
) -> Figure:
    """Draws a metric, with 95 % intervals, for each strength of every modification.

    Args:
        scores: Columns kind, setting, and roc_auc, roc_auc_low and roc_auc_high, or the
            same of pr_auc; one row per modification.
        metric: "roc_auc" or "pr_auc".
        clean: The metric on the unmodified clips: value, low and high.
        title: Title of the figure.
    """
    figure = _figure(5, 1.2 + 0.24 * len(scores))
    axes = figure.subplots()
    rows = -np.arange(len(scores))
    axes.axvspan(clean["low"], clean["high"], color="0.93")
    axes.axvline(clean["value"], color="grey", linewidth=1, linestyle=":")
    axes.hlines(
        rows, scores[f"{metric}_low"], scores[f"{metric}_high"], color=COLOURS[0]
    )
    axes.plot(scores[metric], rows, "o", color=COLOURS[0], markersize=4)
    axes.set_yticks(rows, scores["kind"] + ", " + scores["setting"])
    axes.spines[["top", "right"]].set_visible(False)
    name = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}[metric]
    axes.set_xlabel(f"macro {name}, 95 % intervals (grey: unmodified clips)")
    _title(figure, title)
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
    figure = _figure(5, 3.3)
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
            _plain(tag, 30), (channels[-1], place), (4, 0), color=colour,
            textcoords="offset points", va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(1, max(channels[-1], 2))
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("channel, sorted by mean excitation")
    axes.set_ylabel("excitation")
    _title(figure, title)
    return figure


def plot_spread(spread: pd.Series) -> Figure:
    """Draws the standard deviation of the excitations across tags for each block.

    Args:
        spread: Standard deviations; the index is the depth of the block, from 0.
    """
    figure = _figure(5, 3.3)
    axes = figure.subplots()
    axes.plot(spread.index + 1, spread, color=COLOURS[0], marker="o")
    axes.set_xticks(spread.index + 1)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("block")
    axes.set_ylabel("standard deviation across tags")
    _title(figure, "How much the excitations of each block differ between tags")
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
    figure = _figure(5, 0.9 + 1.9 * num_rows)
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
        axes.set_title(_plain(f"{name}\nr = {correlation:.2f}"), size="small")
    figure.supylabel("excitation", size="medium")
    figure.supxlabel("loudness (root mean square, full scale 1)", size="medium")
    positive, negative = int((slopes > 0).sum()), int((slopes < 0).sum())
    _title(
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
    figure = _figure(side + 1.6, side * len(distances) + 0.6)
    panels = figure.subplots(len(distances), 1, squeeze=False)[:, 0]
    highest = max(one.to_numpy().max() for one in distances.values()) or 1.0
    for axes, (title, one) in zip(panels, distances.items(), strict=True):
        image = axes.imshow(one, cmap="viridis_r", vmin=0, vmax=highest)
        places = np.arange(len(one))
        names = [_plain(tag) for tag in one.index]
        axes.set_xticks(places, names, rotation=90, fontsize=_row_size(num_tags))
        axes.set_yticks(places, names, fontsize=_row_size(num_tags))
        axes.set_title(_plain(title), fontsize="medium")
    bar = figure.colorbar(image, ax=list(panels), aspect=30)
    bar.set_label("distance (root mean square)")
    _title(figure, "How far apart the blocks excite two tags")
    return figure


def plot_excitation_boxes(excitations: list[np.ndarray], title: str) -> Figure:
    """Draws a box plot of the excitations of each block.

    A box spans the quartiles; the whiskers end at the extremes within 1.5 times the
    interquartile range.

    Args:
        excitations: Excitations [channels] of each block.
        title: Title of the figure.
    """
    figure = _figure(5, 3.3)
    axes = figure.subplots()
    axes.boxplot(
        excitations,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": COLOURS[1]},
        medianprops={"color": COLOURS[0], "linewidth": 2},
    )
    axes.set_ylim(0, 1)
    axes.set_xlabel("block")
    axes.set_ylabel("excitation of its channels")
    _title(figure, title)
    return figure


# --- Figures of one recording: time in seconds on the horizontal axis -----------------
# `music` is an `interpretation.Spectrogram` or alike: values [num_frames, num_bands],
# seconds (centre of each frame), frequencies_hz (centre of each band) and unit.


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
    figure = _figure(5, 3.2)
    above, below = figure.subplots(2, sharex=True, height_ratios=[2, 1])
    _finish_music(figure, above, music, seconds)
    above.set_xlabel("")
    image = _rows(below, heat[None], seconds, SCORES, vmin=0)
    below.set_yticks([])
    below.set_xlabel("seconds")
    _uniform_bar(figure, image, below, uniform, "attention")
    _title(figure, title)
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
    figure = _figure(5, 2.4 + sum(heights) + 0.4 * len(heats))
    above, *panels = figure.subplots(
        1 + len(heats), sharex=True, height_ratios=[1.4, *heights]
    )
    _finish_music(figure, above, music, seconds)
    above.set_xlabel("")
    highest = max(heat.max() for heat in heats.values())
    for axes, (name, heat) in zip(panels, heats.items(), strict=True):
        image = _rows(axes, heat, seconds, SCORES, vmin=0, vmax=highest)
        numbers = np.arange(len(heat))
        axes.set_yticks(numbers, numbers + 1, fontsize=_row_size(4 * len(heat)))
        axes.set_ylabel("head")
        axes.set_title(_plain(name), loc="left", fontsize="small")
    panels[-1].set_xlabel("seconds")
    _uniform_bar(figure, image, panels, uniform, "attention of a head")
    _title(figure, title)
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
    figure = _figure(5, 0.6 + 2.5 * num_rows)
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
        axes.set_title(_plain(name), fontsize="small")
        axes.set_xlabel("attended to, seconds")
        figure.colorbar(image, ax=axes, shrink=0.75)
    panels[0].set_ylabel("attending, seconds")
    _title(figure, title)
    return figure


def plot_contribution(
    contribution: pd.DataFrame,
    scores: np.ndarray,
    seconds: np.ndarray,
    music,
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
    figure = _figure(5, 2.4 + rows_height)
    above, rows = figure.subplots(2, sharex=True, height_ratios=[1.4, rows_height])
    _finish_music(figure, above, music, seconds)
    above.set_xlabel("")
    highest = contribution.max(axis=1)
    relative = contribution.div(highest.clip(lower=1e-12), axis=0)
    image = _rows(rows, relative.to_numpy(), seconds, SCORES, vmin=0, vmax=1)
    names = [
        _plain(f"{tag} {score:.2f}")
        for tag, score in zip(contribution.index, scores, strict=True)
    ]
    rows.set_yticks(np.arange(len(names)), names, fontsize=_row_size(len(contribution)))
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
        above.set_title(_plain(first, 40), loc="left", fontsize="small")
        above.set_title(_plain(second, 40), loc="right", fontsize="small")
    _title(figure, title)
    return figure


def plot_attributions(values: dict[str, np.ndarray], music, title: str) -> Figure:
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
    figure = _figure(max(5, 3.4 * num_columns), 0.7 + 1.6 * num_rows)
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
        axes.set_title(_plain(name), loc="left", fontsize="small")
    for axes in panels[max(1 + len(values) - num_columns, 0) : 1 + len(values)]:
        axes.set_xlabel("seconds")
        axes.tick_params(labelbottom=True)
    bar = figure.colorbar(ScalarMappable(image.norm, image.cmap), ax=list(panels))
    bar.set_ticks([-1, 0, 1], labels=["lowers", "0", "raises"])
    _title(figure, title)
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
    figure = _figure(5, 1.2 + max(0.2 * len(tags), 0.5))
    axes = figure.subplots()
    # A score belongs to the middle of its segment, however much the segments overlap;
    # the first and the last reach to the ends of theirs.
    hop = min([segment_seconds, *np.diff(seconds)[:1]])
    edges = seconds[0] + (segment_seconds - hop) / 2 + hop * np.arange(len(scores) + 1)
    edges[0], edges[-1] = seconds[0], seconds[-1] + segment_seconds
    image = _rows(axes, scores.T, edges, SCORES, vmin=0)
    axes.set_xlim(min(seconds[0], 0), edges[-1])
    names = list(map(_plain, tags))
    axes.set_yticks(np.arange(len(tags)), names, fontsize=_row_size(len(tags)))
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=axes, pad=0.01, label="score")
    _title(figure, title)
    return figure


def _draw_spectrogram(axes: Axes, music):
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


def _place(music) -> dict:
    """Returns `imshow` arguments that place an array in the spectrogram's shape."""
    seconds, num_bands = music.seconds, len(music.frequencies_hz)
    half = (seconds[1] - seconds[0]) / 2 if len(seconds) > 1 else 0.5
    extent = (seconds[0] - half, seconds[-1] + half, -0.5, num_bands - 0.5)
    return {"extent": extent, "origin": "lower", "aspect": "auto"}


def _rows(axes: Axes, values: np.ndarray, seconds: np.ndarray, cmap: str, **scale):
    """Draws values [num_rows, num_steps] downwards; `seconds` are the step edges."""
    edges = np.arange(len(values) + 1) - 0.5
    image = axes.pcolormesh(seconds, edges, values, cmap=cmap, rasterized=True, **scale)
    axes.invert_yaxis()
    return image


def _plain(text: str, longest: int = 90) -> str:
    """Shortens text, and escapes control characters and dollars (of formulas)."""
    if len(text) > longest:
        tail = min(37, longest // 2)
        text = f"{text[: longest - tail - 3]} … {text[-tail:]}"
    return printable(text, keep="\n").replace("$", r"\$")


def _row_size(num_rows: int) -> float:
    """Returns the font size of row names."""
    return 9 if num_rows <= 20 else 7


def _finish_music(figure: Figure, axes: Axes, music, seconds: np.ndarray):
    image = _draw_spectrogram(axes, music)
    figure.colorbar(image, ax=axes, pad=0.01, label=f"level, {music.unit}")
    axes.set_xlim(seconds[0], min(seconds[-1], _place(music)["extent"][1]))
    axes.set_xlabel("seconds")


def _uniform_bar(figure: Figure, image, axes, uniform: float, label: str) -> None:
    """Adds a colour bar with a line at uniform attention."""
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=9)
    bar.ax.axhline(uniform, color=COLOURS[5], linewidth=2)
    bar.set_label(f"{label}\n(line: uniform)", fontsize="small")


def _title(figure: Figure, title: str) -> None:
    figure.suptitle(_plain(title, 1000), fontsize="medium", wrap=True)


# Figures are 5 inches wide, unless they have many panels: in a paper's column of 3.3
# inches, 10 points become 6.6.


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")
