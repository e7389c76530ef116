"""Figures of scores."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tagger.plotting import COLOURS, new_figure, plain, row_size, set_title


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
    figure = new_figure(5, 1.5 + 0.22 * len(per_tag))
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
    names = [plain(f"{tag} ({n})") for tag, n in per_tag["positives"].items()]
    panels[0].set_yticks(rows, names, fontsize=row_size(len(per_tag)))
    panels[0].set_ylim(-0.6, len(per_tag) - 0.4)
    figure.supxlabel(
        "line: 95 % interval; grey tick: chance; in brackets: positive clips",
        fontsize="small",
    )
    set_title(figure, title)
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
    figure = new_figure(5, 1.2 + 0.24 * len(scores))
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
    set_title(figure, title)
    return figure


def plot_reliability(curve: pd.DataFrame, title: str) -> Figure:
    """Draws the share of positives over the score, and how many scores there are.

    Args:
        curve: Result of `reliability.curve`.
        title: Title of the figure.
    """
    figure = new_figure(4, 4)
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    axes.plot(curve["score"], curve["share"], "o-", color=COLOURS[0], markersize=4)
    axes.set_ylabel("share of clips with the tag")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    counts.bar(curve["score"], curve["clips"], width=0.05, color=COLOURS[0])
    counts.set_yscale("log")
    counts.set_ylabel("scores")
    counts.set_xlabel("score (dotted: scores that are probabilities)")
    for panel in (axes, counts):
        panel.spines[["top", "right"]].set_visible(False)
    set_title(figure, title)
    return figure
