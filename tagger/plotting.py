"""What the figures of evaluation and interpretation share."""

import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tagger.storage import replacing
from tagger.text import printable

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SCORES, MUSIC = "magma", "Greys"  # colour maps


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure in the format of the path's extension (png, svg, pdf …)."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150)


def draw_rows(axes: Axes, values: np.ndarray, seconds: np.ndarray, cmap: str, **scale):
    """Draws values [num_rows, num_steps] downwards; `seconds` are the step edges."""
    edges = np.arange(len(values) + 1) - 0.5
    image = axes.pcolormesh(seconds, edges, values, cmap=cmap, rasterized=True, **scale)
    axes.invert_yaxis()
    return image


def plain(text: str, longest: int = 90) -> str:
    """Shortens text, and escapes control characters and dollars (of formulas)."""
    if len(text) > longest:
        tail = min(37, longest // 2)
        text = f"{text[: longest - tail - 3]} … {text[-tail:]}"
    return printable(text, keep="\n").replace("$", r"\$")


def row_size(num_rows: int) -> float:
    """Returns the font size of row names."""
    return 9 if num_rows <= 20 else 7


def set_title(figure: Figure, title: str) -> None:
    """Writes a title above a figure."""
    figure.suptitle(plain(title, 1000), fontsize="medium", wrap=True)


def new_figure(width: float, height: float) -> Figure:
    """Makes a figure of a size in inches.

    Figures are 5 inches wide, unless they have many panels: in a paper's column of 3.3
    inches, 10 points become 6.6.
    """
    return Figure(figsize=(width, height), layout="constrained")
