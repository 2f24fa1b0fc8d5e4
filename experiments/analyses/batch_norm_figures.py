"""Figures of the batch_norm analysis, drawn from the rows of its CSV files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from flaxres.experiments.analyses.norms import NORMALIZED
from flaxres.experiments.results import plot_style
from flaxres.experiments.results.plot_style import CurveStyle
from flaxres.experiments.results.tables import Row

Note = Callable[[str], str]  # makes the note above a figure from its description

STYLES: dict[str, CurveStyle] = {
    "batch": plot_style.curve_style(2),
    "running": plot_style.curve_style(3) | {"linestyle": "--"},
}
NORMAL_STYLE: CurveStyle = {"color": plot_style.GRAY, "linestyle": ":", "linewidth": 1.4}
LABELS = {
    "input": "input of the norm",
    NORMALIZED: "normalized input",
    "output": "output (scaled and shifted)",
}
# Column of the table 'gap' -> label of the axis.
GAP_COLUMNS = {"mean_rms": "distance of mean from 0", "std_rms": "distance of std from 1"}
COLUMNS = 4  # panels in a row, in the figures with a panel for each model


def draw(tables: Mapping[str, Sequence[Row]], images: str, note: Note, output: Path) -> list[Path]:
    """Draws the gap, the parameters, and the histograms of one run of each model.

    Args:
      tables: rows of the tables 'errors', 'gap', 'parameters' and 'histograms'.
      images: measured images, for the notes, such as '1,000 test images'.
      note: makes the note above a figure.
      output: directory of the files.

    Returns:
      The paths of the files.
    """
    files = draw_gap(tables["gap"], tables["errors"], images, note, output / "batch_norm_gap")
    files += draw_parameters(tables["parameters"], note, output / "batch_norm_parameters")
    for variant in _variants(tables["histograms"]):
        rows = [row for row in tables["histograms"] if row["net"] == variant]
        rows = [row for row in rows if row["run"] == rows[0]["run"]]
        files += draw_histograms(rows, images, note, output / f"batch_norm_histograms_{variant}")
    return files


def _variants(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["net"] for row in rows))


def _select(rows: Sequence[Row], variant: str, statistics: str) -> list[Row]:
    """Returns the rows of one model with one kind of statistics."""
    return [row for row in rows if (row["net"], row["statistics"]) == (variant, statistics)]


def _mean_by_layer(
    rows: Sequence[Row], column: str
) -> tuple[list[int], Float[np.ndarray, " layers"]]:
    """Returns the numbers of the layers, and the mean of a column over seeds."""
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row["number"], []).append(row[column])
    return list(values), np.array([np.mean(of_layer) for of_layer in values.values()])


def _panel_size(variants: Sequence[str]) -> tuple[float, float]:
    """Returns (width, height) of a panel in inches. The legend needs more than one narrow panel."""
    return (2.7 if len(variants) > 1 else 3.6), 2.5


def _label_panels(panels: list[Axes], variants: list[str], label: str) -> None:
    for number, (axes, variant) in enumerate(zip(panels, variants, strict=True)):
        is_bottom = number + COLUMNS >= len(variants)
        xlabel, ylabel = "norm, in order" if is_bottom else "", "" if number % COLUMNS else label
        plot_style.label_axes(axes, xlabel, ylabel)
        axes.set_title(variant)


def draw_gap(
    rows: Sequence[Row], errors: Sequence[Row], images: str, note: Note, path: Path
) -> list[Path]:
    """Draws the gap between batch and running statistics by layer, two panels for each model.

    The upper one shows the distance of the means from 0, the lower one that of the standard
    deviations from 1.

    Args:
      rows: rows of the table 'gap'.
      errors: rows of the table 'errors'.
      images: measured images, for the note.
      note: makes the note above the figure.
      path: path of the files, without extension.

    Returns:
      The paths of the files.
    """
    variants = _variants(rows)
    columns = min(COLUMNS, len(variants))
    num_blocks = -(-len(variants) // columns)  # of two rows, with up to `columns` models
    num_panels = 2 * columns * num_blocks
    figure, panels = plot_style.grid(num_panels, columns, _panel_size(variants), sharey=True)
    for place in range(num_panels // 2):
        first = place // columns * 2 * columns + place % columns
        pair = panels[first], panels[first + columns]
        if place >= len(variants):
            for axes in pair:
                axes.remove()
            continue
        variant = variants[place]
        for axes, (column, label) in zip(pair, GAP_COLUMNS.items(), strict=True):
            for statistics, style in STYLES.items():
                selected = _select(rows, variant, statistics)
                layers, values = _mean_by_layer(selected, column)
                markers = plot_style.curve_style(list(STYLES).index(statistics) + 2, len(layers))
                axes.plot(layers, values, **style | {"markevery": markers["markevery"]})
            axes.set_yscale("log")
            ylabel = label if place % columns == 0 else ""
            plot_style.label_axes(axes, "norm, in order" if axes is pair[1] else "", ylabel)
            plot_style.number_axis(axes, len(layers), max_ticks=5)
        means = [
            f"{np.mean([row['error'] for row in _select(errors, variant, statistics)]):.2f}% "
            f"{statistics}"
            for statistics in STYLES
        ]
        pair[0].set_title(f"{variant}\nerror {', '.join(means)}", fontsize="small")
    handles = [
        Line2D([], [], label=f"all norms with {statistics} statistics", **style)
        for statistics, style in STYLES.items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(variants), 2), frameon=False
    )
    text = (
        f"channels of {images}, normalized by running statistics: RMS distance from mean 0 and "
        "std 1"
    )
    return plot_style.save(figure, path, note(text))


def draw_parameters(rows: Sequence[Row], note: Note, path: Path) -> list[Path]:
    """Draws mean and spread of scales and shifts by layer, one panel for each model.

    Args:
      rows: rows of the table 'parameters'.
      note: makes the note above the figure.
      path: path of the files, without extension.

    Returns:
      The paths of the files.
    """
    variants = _variants(rows)
    figure, panels = plot_style.grid(len(variants), COLUMNS, _panel_size(variants))
    numbers = {"scale": 0, "shift": 2}
    for axes, variant in zip(panels, variants, strict=True):
        selected = [row for row in rows if row["net"] == variant]
        for name, number in numbers.items():
            layers, mean = _mean_by_layer(selected, f"{name}_mean")
            std = _mean_by_layer(selected, f"{name}_std")[1]
            style = plot_style.curve_style(number, len(layers))
            axes.plot(layers, mean, **style)
            axes.fill_between(
                layers, mean - std, mean + std, color=style["color"], alpha=0.2, linewidth=0
            )
        axes.axhline(0, color=plot_style.GRAY, linewidth=0.8, zorder=0)
        plot_style.number_axis(axes, len(layers), max_ticks=5)
    _label_panels(panels, variants, "scale, shift")
    handles = [
        Line2D([], [], label=name, **plot_style.curve_style(number))
        for name, number in numbers.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    text = "learned scales and shifts, mean and standard deviation over channels"
    return plot_style.save(figure, path, note(text))


def draw_histograms(rows: Sequence[Row], images: str, note: Note, path: Path) -> list[Path]:
    """Draws the histograms of one run: a column for each layer, a row for each quantity.

    Args:
      rows: rows of the table 'histograms', of one run.
      images: measured images, for the note.
      note: makes the note above the figure.
      path: path of the files, without extension.

    Returns:
      The paths of the files.
    """
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure, panels = plot_style.grid(len(LABELS) * len(layers), len(layers), (3.2, 2.0))
    positions = [(quantity, layer) for quantity in LABELS for layer in layers]
    for axes, (quantity, layer) in zip(panels, positions, strict=True):
        selected = [row for row in rows if (row["quantity"], row["layer"]) == (quantity, layer)]
        _draw_histogram(axes, selected, show_normal=quantity == NORMALIZED)
        title = layer if quantity == positions[0][0] else ""
        ylabel = "density" if layer == layers[0] else ""
        plot_style.label_axes(axes, LABELS[quantity], ylabel, title)
    handles = [
        Line2D([], [], label=f"{kind} statistics", **style | {"marker": ""})
        for kind, style in STYLES.items()
    ]
    handles.append(Line2D([], [], label="standard normal", **NORMAL_STYLE))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    text = f"batch norm in {rows[0]['run']}: all channels, {images}"
    return plot_style.save(figure, path, note(text))


def _draw_histogram(axes: Axes, rows: Sequence[Row], show_normal: bool) -> None:
    """Draws one panel, optionally with the standard normal density."""
    for statistics, style in STYLES.items():
        # The first and the last row count the values outside the bins.
        bins = [row for row in rows if row["statistics"] == statistics][1:-1]
        edges = [row["low"] for row in bins] + [bins[-1]["high"]]
        line = {key: style[key] for key in ("color", "linestyle", "linewidth")}
        density = np.array([row["density"] for row in bins])
        axes.stairs(np.where(density > 0, density, np.nan), edges, baseline=None, **line)
    axes.set_yscale("log")
    if show_normal:
        limits = axes.get_ylim()
        x = np.linspace(edges[0], edges[-1], 101)
        axes.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), zorder=0, **NORMAL_STYLE)
        axes.set_ylim(limits)
