"""The pictures: arrays and tables in, matplotlib figures out; no state."""

import os

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

# Okabe and Ito: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure; the ending of the path says the format (png, svg, pdf …)."""
    figure.savefig(path, dpi=150)


def plot_scores(per_tag: pd.DataFrame, title: str) -> Figure:
    """Two bars per tag, ROC-AUC and PR-AUC, best ROC-AUC on top.

    Args:
        per_tag: Index tag; columns roc_auc, pr_auc (NaN: undefined) and positives.
        title: Above the bars.
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
    axes.set_yticks(rows, [f"{tag} ({n})" for tag, n in per_tag["positives"].items()])
    axes.set_ylim(-0.6, len(per_tag) - 0.4)
    axes.set_xlim(0, 1)
    axes.set_xlabel(
        "area under the curve (dotted: ROC-AUC of chance; in brackets: clips)"
    )
    axes.set_title(title, fontsize="medium", wrap=True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_spectrograms(waveforms: dict[str, np.ndarray], sample_rate: int) -> Figure:
    """Spectrograms under each other, all on one scale of decibels.

    Args:
        waveforms: Title -> [num_samples].
        sample_rate: In Hz.
    """
    figure = _figure(9, 0.6 + 1.35 * len(waveforms))
    panels = figure.subplots(len(waveforms), sharex=True, squeeze=False)[:, 0]
    for axes, (title, waveform) in zip(panels, waveforms.items(), strict=True):
        with np.errstate(divide="ignore"):  # of silence
            *_, image = axes.specgram(
                waveform, 1024, sample_rate, noverlap=512, vmin=-130, vmax=-30,
                cmap="magma",
            )  # fmt: skip
        axes.set_title(title, loc="left", fontsize="small")
        axes.yaxis.set_major_formatter(lambda hz, _: f"{hz / 1000:g}")
    panels[-1].set_xlabel("seconds")
    figure.supylabel("kHz", fontsize="medium")
    bar = figure.colorbar(image, ax=list(panels), aspect=60)
    bar.set_label("power per Hz in dB, full scale 0")
    return figure


def plot_robustness(
    scores: pd.DataFrame, metric: str, clean: float, title: str
) -> Figure:
    """A score against the strength of each modification, a panel for each kind.

    Args:
        scores: Columns kind, setting, roc_auc and pr_auc, a row per modification.
        metric: "roc_auc" or "pr_auc".
        clean: The score of the unmodified clips.
        title: Above the panels.
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
    figure.suptitle(title, fontsize="medium")
    return figure


def plot_excitations(means: pd.DataFrame, title: str) -> Figure:
    """Mean excitation of every channel, a line per tag, channels sorted by their mean.

    Args:
        means: Excitations [tags, channels], index tag.
        title: Above the lines.
    """
    colours = COLOURS
    if len(means) > len(COLOURS):
        # From low to high excitation: colours and legend then run along a scale.
        means = means.iloc[np.argsort(means.mean(axis=1))]
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, len(means)))
    means = means.iloc[:, np.argsort(means.mean(axis=0))]
    figure = _figure(10, 4.6 + 0.22 * -(-len(means) // 8))
    axes = figure.subplots()
    for (tag, line), colour in zip(means.iterrows(), colours, strict=False):
        axes.plot(line.to_numpy(), label=tag, color=colour, linewidth=1)
    axes.set_xlim(0, means.shape[1] - 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("channel, sorted by mean excitation")
    axes.set_ylabel("excitation")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=8, frameon=False, fontsize="small")
    return figure


def plot_spread(spread: pd.Series) -> Figure:
    """Standard deviation of the excitations across tags against the block.

    Args:
        spread: Index depth, counted from 0.
    """
    figure = _figure(6, 4)
    axes = figure.subplots()
    axes.plot(spread.index + 1, spread, color=COLOURS[0], marker="o")
    axes.set_xticks(spread.index + 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("block")
    axes.set_ylabel("standard deviation across tags")
    axes.set_title("How far the excitations of the tags part")
    return figure


def plot_loudness(
    excitation: np.ndarray, loudness: pd.Series, regression: pd.DataFrame
) -> Figure:
    """Excitation against loudness with regression lines: all channels, and four.

    Args:
        excitation: Of one block, [num_clips, channels].
        loudness: Root mean square of each clip.
        regression: Per channel: slope, intercept, error.
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
        axes.set_title(title, size="medium")
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


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")
