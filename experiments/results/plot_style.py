"""Common style of all figures: colors, line styles, markers, axes and file formats."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from flaxres.errors import printable
from flaxres.files import write_atomically

CurveStyle = dict[str, Any]  # keyword arguments of `Axes.plot` and `Line2D`

# Palette of Okabe and Ito, which color-blind readers can tell apart.
COLORS = ("#E69F00", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # tell curves apart in black and white
LINES = ("-", "--", ":")  # for figures with more curves than colors
GRAY = "0.6"  # color of lines that are not data
MARKERS_PER_CURVE = 8
EXTENSIONS = ("png", "svg")
CHARACTERS_PER_INCH = 12  # of the note above a figure
PADDING = 0.02  # room for markers at the edge of a panel, as a fraction of its size


def curve_style(number: int, num_points: int | None = None) -> CurveStyle:
    """Returns color, line style and marker of a curve, as arguments for `Axes.plot`.

    Args:
      number: index of the curve, from 0. Use the same number for the same variant in all panels.
      num_points: number of points of the curve, to mark some of them; None marks all points.
    """
    i = number % len(COLORS)
    style: CurveStyle = {
        "color": COLORS[i],
        "linestyle": LINES[number // len(COLORS) % len(LINES)],
        "linewidth": 1.6,
        "marker": MARKERS[i],
        "markersize": 4.5,
    }
    if num_points is not None:
        every = max(1, round(num_points / MARKERS_PER_CURVE))
        style["markevery"] = (i * every // len(COLORS), every)
    return style


def label_of(name: str) -> str:
    """Returns a name as a label. Matplotlib leaves labels that begin with _ out of legends."""
    return f" {name}" if name.startswith("_") else name


def show_texts_as_written(figure: Figure) -> None:
    """Makes a figure show names in its texts as they are.

    Matplotlib would set text between two dollars as a formula. Control characters become escape
    sequences. The numbers on axes keep their formulas, such as powers of ten.
    """
    numbers = {
        text
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for text in axis.findobj(Text)
        if text is not axis.label
    }
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in numbers:
            text.set_parse_math(False)
            text.set_text("\n".join(map(printable, text.get_text().split("\n"))))


def label_axes(axes: Axes, xlabel: str, ylabel: str, title: str = "") -> None:
    """Sets labels, title and grid of a panel."""
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def number_axis(axes: Axes, count: int, max_ticks: int = 10) -> None:
    """Sets the horizontal axis to numbers from 1 to `count`, such as those of layers."""
    steps = MaxNLocator(max_ticks, integer=True, steps=[1, 2, 5, 10]).tick_values(1, count)
    axes.set_xticks([1, *(int(step) for step in steps if 1 < step <= count)])
    padding = max(0.5, PADDING * count)
    axes.set_xlim(1 - padding, count + padding)


def limit_values(panels: Sequence[Axes], highest: float) -> bool:
    """Sets the vertical axis of panels that share it from 0 to `highest`.

    There is room for markers at 0, and markers that the upper or right edge would cut are left out.

    Returns:
      True if values above `highest` are hidden.
    """
    panels[0].set_ylim(-PADDING * highest, highest)
    is_hidden = False
    for axes in panels:
        right = (1 - PADDING) * axes.get_xlim()[1]
        for line in axes.lines:
            x, y = (np.asarray(values) for values in line.get_data())
            is_hidden |= bool((y > highest).any())
            if isinstance(every := line.get_markevery(), tuple):
                marked = np.arange(len(x))[every[0] :: every[1]]
                inside = (x[marked] < right) & (y[marked] < (1 - PADDING) * highest)
                line.set_markevery(marked[inside].tolist())
    return is_hidden


def grid(
    num_panels: int, columns: int = 3, size: tuple[float, float] = (3.6, 3.0), **options: Any
) -> tuple[Figure, list[Axes]]:
    """Creates a figure with panels in rows of at most `columns`.

    Args:
      num_panels: number of panels.
      columns: maximum number of panels in a row.
      size: (width, height) of a panel, in inches.
      **options: arguments of `Figure.subplots`, such as sharey.

    Returns:
      The figure and its panels in reading order.
    """
    columns = min(columns, num_panels)
    rows = -(-num_panels // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1] + 0.5), layout="constrained")
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False, **options)))
    for axes in panels[num_panels:]:
        axes.remove()
    for axes in panels[num_panels - columns : num_panels]:  # sharex labels only the last row
        axes.tick_params(axis="x", which="both", labelbottom=True)
    return figure, panels[:num_panels]


def save(figure: Figure, path: Path, note: str) -> list[Path]:
    """Writes a figure as PNG and SVG with a note above it; returns the paths of the files.

    Its texts are shown as written (`show_texts_as_written`).

    The same figure gives the same bytes.

    Args:
      figure: figure to write.
      path: path of the files, without extension.
      note: origin of the data and explanation of the lines, shown above the figure.

    Raises:
      OSError: a file cannot be written.
    """
    note = textwrap.fill(note, int(CHARACTERS_PER_INCH * figure.get_figwidth()))
    figure.suptitle(note, fontsize="medium", color="0.3")
    show_texts_as_written(figure)
    files = [path.with_suffix(f".{extension}") for extension in EXTENSIONS]
    with matplotlib.rc_context({"svg.hashsalt": "flaxres"}):
        for file in files:
            no_date = {"Date": None} if file.suffix == ".svg" else None
            content = io.BytesIO()
            figure.savefig(content, format=file.suffix[1:], dpi=150, metadata=no_date)
            write_atomically(file, content.getvalue())
    return files
