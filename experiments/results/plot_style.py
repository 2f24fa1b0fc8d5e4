"""How figures look: the same colours, lines, markers and labels in all of them."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = ("#E69F00", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
# For readers who see no colours at all; filled and of about one size.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":")  # where there are more curves than colours
GRAY = "0.6"  # grey of what is not data
MARKERS_PER_CURVE = 8
EXTENSIONS = ("png", "svg")
LETTERS_PER_INCH = 12  # of the lines on top


def curve_style(number: int, points: int | None = None) -> dict[str, object]:
    """Colour, line and marker of curve `number`, from 0: arguments for `Axes.plot`.

    Curves are told apart by their markers where colours cannot be seen.

    Args:
      number: of the curve; the same thing should have the same number in every panel.
      points: of the curve, to mark only some of them; None to mark all.
    """
    i = number % len(COLORS)
    style = {
        "color": COLORS[i],
        "linestyle": LINES[number // len(COLORS) % len(LINES)],
        "linewidth": 1.6,
        "marker": MARKERS[i],
        "markersize": 4.5,
    }
    if points is not None:
        every = max(1, round(points / MARKERS_PER_CURVE))
        style["markevery"] = (i * every // len(COLORS), every)
    return style


def label_axes(axes: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Labels and grid of a panel."""
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def grid(count: int, columns: int = 3, size: tuple[float, float] = (3.6, 3.0), **options):
    """A figure with `count` panels in rows of at most `columns`.

    Args:
      count: of panels.
      columns: of them in a row.
      size: (width, height) of a panel, in inches.
      **options: of `Figure.subplots`, such as sharey.

    Returns:
      The figure and a list of its panels, in reading order.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1] + 0.5), layout="constrained")
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False, **options)))
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def save(figure: Figure, path: Path, note: str) -> list[Path]:
    """Writes the figure as PNG and SVG with `note` on top; returns the paths.

    The same figure gives the same bytes.

    Args:
      figure: what to write.
      path: of the files, without extension.
      note: what the figure is made from.

    Raises:
      OSError: a file cannot be written.
    """
    note = textwrap.fill(note, int(LETTERS_PER_INCH * figure.get_figwidth()))
    figure.suptitle(note, fontsize="medium", color="0.3")
    files = [path.with_suffix(f".{extension}") for extension in EXTENSIONS]
    with matplotlib.rc_context({"svg.hashsalt": "flaxres"}):
        for file in files:
            undated = {"Date": None} if file.suffix == ".svg" else None
            figure.savefig(file, dpi=150, metadata=undated)
    return files
