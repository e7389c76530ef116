"""Draws arrays and tables as matplotlib figures, without global state."""

import os
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.ndimage import gaussian_filter

from tagger.storage import replacing
from tagger.validation import printable

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure in the format of the path's extension (png, svg, pdf …)."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150)


def plot_scores(per_tag: pd.DataFrame, title: str) -> Figure:
    """Draws two bars per tag, ROC-AUC and PR-AUC, with the best ROC-AUC on top.

    Args:
        per_tag: Index tag; columns roc_auc, pr_auc (NaN if undefined) and positives.
        title: Title of the figure.
    """
    per_tag = per_tag.sort_values("roc_auc", na_position="first")
    rows = np.arange(len(per_tag))
    figure = _figure(7.5, 1.4 + 0.3 * len(per_tag))
    axes = figure.subplots()
    axes.barh(rows + 0.2, per_tag["roc_auc"], 0.38, color=COLOURS[0], label="ROC-AUC")
    axes.barh(rows - 0.2, per_tag["pr_auc"], 0.38, color=COLOURS[4], label="PR-AUC")
    axes.axvline(0.5, color="grey", linewidth=1, linestyle=":")
    for row, (roc_auc, positives) in enumerate(
        zip(per_tag["roc_auc"], per_tag["positives"], strict=True)
    ):
        if np.isnan(roc_auc):
            text = "no positive clip" if not positives else "no negative clip"
            axes.text(0.01, row, text, va="center", color="grey", size="small")
    names = [_plain(f"{tag} ({n})") for tag, n in per_tag["positives"].items()]
    axes.set_yticks(rows, names)
    axes.set_ylim(-0.6, len(per_tag) - 0.4)
    axes.set_xlim(0, 1)
    axes.set_xlabel(
        "area under the curve (dotted: chance ROC-AUC; in brackets: positive clips)"
    )
    axes.set_title(_plain(title, 1000), fontsize="medium", wrap=True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_spectrograms(waveforms: dict[str, np.ndarray], sample_rate: int) -> Figure:
    """Draws spectrograms one below the other, all on the same decibel scale.

    Args:
        waveforms: Title -> waveform [num_samples].
        sample_rate: Sample rate in Hz.
    """
    figure = _figure(9, 0.6 + 1.35 * len(waveforms))
    panels = figure.subplots(len(waveforms), sharex=True, squeeze=False)[:, 0]
    for axes, (title, waveform) in zip(panels, waveforms.items(), strict=True):
        with np.errstate(divide="ignore"):  # silence
            *_, image = axes.specgram(
                waveform, 1024, sample_rate, noverlap=512, vmin=-130, vmax=-30,
                cmap="magma",
            )  # fmt: skip
        axes.set_title(_plain(title), loc="left", fontsize="small")
        axes.yaxis.set_major_formatter(lambda hz, _: f"{hz / 1000:g}")
    panels[-1].set_xlabel("seconds")
    figure.supylabel("kHz", fontsize="medium")
    bar = figure.colorbar(image, ax=list(panels), aspect=60)
    bar.set_label("power per Hz in dB, full scale 0")
    return figure


def plot_robustness(
    scores: pd.DataFrame, metric: str, clean: float, title: str
) -> Figure:
    """Draws a metric against the strength of each modification, one panel per kind.

    Args:
        scores: Columns kind, setting, roc_auc and pr_auc; one row per modification.
        metric: "roc_auc" or "pr_auc".
        clean: Value of the metric on the unmodified clips.
        title: Title of the figure.
    """
    kinds = list(dict.fromkeys(scores["kind"]))
    figure = _figure(3.2 * len(kinds), 3.6)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        rows = scores[scores["kind"] == kind]
        places = np.arange(len(rows))
        axes.axhline(clean, color="grey", linewidth=1, linestyle=":")
        axes.plot(places, rows[metric], color=COLOURS[0], marker="o")
        axes.set_xticks(places, rows["setting"], rotation=30, ha="right")
        axes.set_title(kind, fontsize="medium")
    name = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC"}[metric]
    panels[0].set_ylabel(f"macro {name} (dotted: unmodified)")
    figure.suptitle(_plain(title), fontsize="medium")
    return figure


def plot_excitations(means: pd.DataFrame, title: str) -> Figure:
    """Draws the mean excitation of every channel, one line per tag.

    The channels are sorted by their mean.

    Args:
        means: Mean excitations [tags, channels], index tag.
        title: Title of the figure.
    """
    colours = COLOURS
    if len(means) > len(COLOURS):
        # Sorted by mean excitation, so that colours and legend form a scale.
        means = means.iloc[np.argsort(means.mean(axis=1))]
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, len(means)))
    means = means.iloc[:, np.argsort(means.mean(axis=0))]
    figure = _figure(10, 4.6 + 0.22 * -(-len(means) // 8))
    axes = figure.subplots()
    for (tag, line), colour in zip(means.iterrows(), colours, strict=False):
        axes.plot(line.to_numpy(), label=_plain(tag), color=colour, linewidth=1)
    axes.set_xlim(0, means.shape[1] - 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("channel, sorted by mean excitation")
    axes.set_ylabel("excitation")
    axes.set_title(_plain(title, 1000))
    figure.legend(loc="outside lower center", ncols=8, frameon=False, fontsize="small")
    return figure


def plot_spread(spread: pd.Series) -> Figure:
    """Draws the standard deviation of the excitations across tags for each block.

    Args:
        spread: Standard deviations; the index is the depth of the block, from 0.
    """
    figure = _figure(6, 4)
    axes = figure.subplots()
    axes.plot(spread.index + 1, spread, color=COLOURS[0], marker="o")
    axes.set_xticks(spread.index + 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("block")
    axes.set_ylabel("standard deviation across tags")
    axes.set_title("How much the excitations differ between tags")
    return figure


def plot_loudness(
    excitation: np.ndarray, loudness: pd.Series, regression: pd.DataFrame
) -> Figure:
    """Draws excitation against loudness: the mean of all channels, and four channels.

    Args:
        excitation: Excitations of one block [num_clips, channels].
        loudness: Root mean square of each clip.
        regression: Regression line of each channel: slope, intercept and error.
    """
    chosen = {
        "most positive": regression["slope"].idxmax(),
        "most negative": regression["slope"].idxmin(),
        "most neutral": regression["slope"].abs().idxmin(),
        "least error": regression["error"].idxmin(),
    }
    panels = [("mean of all channels", excitation.mean(axis=1), regression.mean())]
    panels += [
        (f"{name}: channel {channel}", excitation[:, channel], regression.loc[channel])
        for name, channel in chosen.items()
    ]
    figure = _figure(13, 3.4)
    ends = np.array([0, loudness.max() * 1.05])
    for axes, (title, values, line) in zip(
        figure.subplots(1, len(panels), sharey=True), panels, strict=True
    ):
        axes.scatter(loudness, values, s=6, color=COLOURS[1], alpha=0.5, linewidths=0)
        axes.plot(
            ends, line["intercept"] + line["slope"] * ends, color="black", linewidth=1
        )
        axes.set_xlim(*ends)
        axes.set_ylim(0, 1)
        axes.set_title(_plain(title), size="medium")
    figure.axes[0].set_ylabel("excitation")
    figure.supxlabel(
        "loudness of the clip (root mean square, full scale 1)", size="medium"
    )
    positive = int((regression["slope"] > 0).sum())
    negative = int((regression["slope"] < 0).sum())
    figure.suptitle(
        f"Excitation rises with loudness in {positive} channels and falls in {negative}"
    )
    return figure


def plot_tag_distances(distances: dict[str, pd.DataFrame]) -> Figure:
    """Draws the distances between tags, one matrix per block, all on the same scale.

    Args:
        distances: Title -> distances [tags, tags], with similar tags adjacent.
    """
    num_tags = max(len(one) for one in distances.values())
    side = max(2.2 + 0.14 * num_tags, 4.2)  # room for the colour bar's label
    figure = _figure(side * len(distances) + 0.8, side + 0.6)
    panels = figure.subplots(1, len(distances), squeeze=False)[0]
    highest = max(one.to_numpy().max() for one in distances.values()) or 1.0
    for axes, (title, one) in zip(panels, distances.items(), strict=True):
        image = axes.imshow(one, cmap="viridis_r", vmin=0, vmax=highest)
        places = np.arange(len(one))
        names = [_plain(tag) for tag in one.index]
        axes.set_xticks(places, names, rotation=90, fontsize=_row_size(num_tags))
        axes.set_yticks(places, names, fontsize=_row_size(num_tags))
        axes.set_title(_plain(title), fontsize="medium")
    bar = figure.colorbar(image, ax=list(panels), shrink=0.8)
    bar.set_label("distance of mean excitations (root mean square)")
    return figure


def plot_gates(excitations: list[np.ndarray], title: str) -> Figure:
    """Draws a box plot of the excitations of each block.

    A box spans the quartiles; the whiskers end at the extremes within 1.5 times the
    interquartile range.

    Args:
        excitations: Excitations [channels] of each block.
        title: Title of the figure.
    """
    figure = _figure(7, 3.6)
    axes = figure.subplots()
    axes.boxplot(
        excitations,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": COLOURS[1]},
        medianprops={"color": COLOURS[0], "linewidth": 2},
    )
    axes.set_ylim(0, 1)
    axes.set_xlabel("block")
    axes.set_ylabel("excitation of its channels")
    axes.set_title(_plain(title), fontsize="medium")
    return figure


# --- Figures of one recording: time in seconds on the horizontal axis -----------------
# `music` is an `interpretation.Spectrogram` or alike: values [num_frames, num_bands],
# seconds (centre of each frame), frequencies_hz (centre of each band) and unit.


def plot_attention(
    heats: dict[str, np.ndarray], seconds: np.ndarray, music, title: str
) -> Figure:
    """Draws what the heads of each layer attend to over time, and their sum.

    Args:
        heats: Title of the layer -> attention [num_heads, num_steps].
        seconds: Start of each step, and end of the last one [num_steps + 1].
        music: Spectrogram drawn below the heat maps, on the same time axis.
        title: Title of the figure.
    """
    heights = [
        height
        for heat in heats.values()
        for height in (max(0.12 * len(heat), 0.6), 0.25)
    ]
    figure = _figure(9, 1.6 + sum(heights) + 0.55 * len(heats) + 1.5)
    panels = figure.subplots(
        2 * len(heats) + 1, sharex=True, height_ratios=[*heights, 1.5]
    )
    for number, (name, heat) in enumerate(heats.items()):
        each, all_heads = panels[2 * number : 2 * number + 2]
        image = _rows(each, heat, seconds, "viridis")
        each.set_yticks(
            np.arange(0, len(heat), 2), np.arange(1, len(heat) + 1, 2), fontsize=7
        )
        each.set_ylabel("head")
        each.set_title(_plain(name), loc="left", fontsize="medium")
        figure.colorbar(image, ax=each, pad=0.01, label="attention")
        image = _rows(all_heads, heat.sum(axis=0)[None], seconds, "viridis")
        all_heads.set_yticks([0], ["sum"])
        figure.colorbar(image, ax=all_heads, pad=0.01).ax.tick_params(labelsize=7)
    _finish_music(figure, panels[-1], music, seconds)
    figure.suptitle(_plain(title), fontsize="medium")
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
    figure = _figure(4.2 * len(attention) + 0.4, 4.4)
    panels = figure.subplots(1, len(attention), sharey=True, squeeze=False)[0]
    ends = (seconds[0], seconds[-1])
    for axes, (name, matrix) in zip(panels, attention.items(), strict=True):
        # Most attention is far below the peaks; a square-root scale shows both.
        image = axes.imshow(
            matrix,
            cmap="viridis",
            norm=PowerNorm(0.5, vmin=0),
            extent=(*ends, *ends[::-1]),
        )
        axes.set_title(_plain(name), fontsize="medium")
        axes.set_xlabel("attended to, seconds")
        figure.colorbar(image, ax=axes, shrink=0.75)
    panels[0].set_ylabel("attending, seconds")
    figure.suptitle(_plain(title), fontsize="medium")
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

    Args:
        contribution: Scores [tags, num_steps], index tag.
        scores: Scores of the whole waveform [tags], written beside the rows.
        seconds: Start of each step, and end of the last one [num_steps + 1].
        music: Spectrogram drawn below the heat map, on the same time axis.
        title: Title of the figure.
        junction: Time in seconds at which one clip ends and another begins, and the
            names of the two clips.
    """
    rows_height = max(0.2 * len(contribution), 0.35)
    figure = _figure(9, 2.9 + rows_height)
    rows, below = figure.subplots(2, sharex=True, height_ratios=[rows_height, 1.5])
    image = _rows(rows, contribution.to_numpy(), seconds, "viridis")
    names = [
        _plain(f"{tag} {score:.2f}")
        for tag, score in zip(contribution.index, scores, strict=True)
    ]
    rows.set_yticks(np.arange(len(names)), names, fontsize=_row_size(len(contribution)))
    bar = figure.colorbar(image, ax=rows, pad=0.01, aspect=max(5, 4 * rows_height))
    bar.set_label("score" if rows_height < 1 else "score of this moment alone")
    _finish_music(figure, below, music, seconds)
    if junction:
        at, first, second = junction
        for axes in (rows, below):
            axes.axvline(at, color="white", linewidth=1.5)
        for x, name, side in ((at, first, "right"), (at, second, "left")):
            below.annotate(
                _plain(name),
                (x, 0.95),
                xycoords=("data", "axes fraction"),
                xytext=(-5 if side == "right" else 5, 0),
                textcoords="offset points",
                ha=side,
                va="top",
                color="white",
                fontsize=8,
                path_effects=[withStroke(linewidth=2, foreground="black")],
            )
    figure.suptitle(_plain(title), fontsize="medium")
    return figure


def plot_attributions(values: dict[str, np.ndarray], music, title: str) -> Figure:
    """Draws what raised (orange) and what lowered (violet) the score of each tag.

    The attributions are smoothed with a Gaussian of 1.5 cells, because single cells are
    too small to see.

    Args:
        values: Title -> attribution, in the shape of the values of `music`.
        music: Spectrogram drawn in grey behind the attributions.
        title: Title of the figure.
    """
    num_columns = min(1 + (len(values) - 1) // 6, 5)
    num_rows = -(-len(values) // num_columns)
    figure = _figure(max(9, 4.5 * num_columns), 0.9 + 2.1 * num_rows)
    panels = figure.subplots(
        num_rows, num_columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    for axes in panels[len(values) :]:
        axes.set_axis_off()
    for axes, (name, one) in zip(panels, values.items(), strict=False):
        _draw_spectrogram(axes, music, "Greys")
        one = gaussian_filter(one, 1.5)
        highest = max(np.quantile(np.abs(one), 0.995), 1e-12)
        strength = np.clip(one / highest, -1, 1).T
        # Weak attributions are nearly transparent, so that the music shows through.
        image = axes.imshow(
            strength, cmap="PuOr_r", vmin=-1, vmax=1, alpha=np.abs(strength) ** 0.5,
            **_place(music),
        )  # fmt: skip
        axes.set_title(_plain(name), loc="left", fontsize="small")
    for axes in panels[max(len(values) - num_columns, 0) : len(values)]:
        axes.set_xlabel("seconds")
        axes.tick_params(labelbottom=True)
    bar = figure.colorbar(ScalarMappable(image.norm, image.cmap), ax=list(panels))
    bar.set_ticks([-1, 0, 1], labels=["lowers", "0", "raises"])
    figure.suptitle(_plain(title), fontsize="medium")
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
    figure = _figure(10, 1.5 + max(0.2 * len(tags), 0.5))
    axes = figure.subplots()
    # A score belongs to the middle of its segment, however much the segments overlap.
    hop = min([segment_seconds, *np.diff(seconds)[:1]])
    edges = seconds[0] + (segment_seconds - hop) / 2 + hop * np.arange(len(scores) + 1)
    image = _rows(axes, scores.T, edges, "viridis", vmin=0)
    axes.set_xlim(min(seconds[0], 0), seconds[-1] + segment_seconds)
    names = list(map(_plain, tags))
    axes.set_yticks(np.arange(len(tags)), names, fontsize=_row_size(len(tags)))
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=axes, pad=0.01, label="score")
    axes.set_title(_plain(title), fontsize="medium")
    return figure


def _draw_spectrogram(axes: Axes, music, cmap: str = "magma"):
    """Draws a spectrogram with its frequency axis and returns the image."""
    image = axes.imshow(music.values.T, cmap=cmap, **_place(music))
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
        text = f"{text[: longest - 40]} … {text[-37:]}"
    return printable(text, keep="\n").replace("$", r"\$")


def _row_size(num_rows: int) -> float:
    """Returns the font size of row names."""
    return 9 if num_rows <= 20 else 7


def _finish_music(figure: Figure, axes: Axes, music, seconds: np.ndarray):
    image = _draw_spectrogram(axes, music)
    figure.colorbar(image, ax=axes, pad=0.01, label=f"level, {music.unit}")
    axes.set_xlim(seconds[0], min(seconds[-1], _place(music)["extent"][1]))
    axes.set_xlabel("seconds")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")
