"""Figures of `experiments.analyses.batch_norm`, from the rows of its CSV files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.results import plot_style

Rows = Sequence[dict[str, object]]

LOOKS = {
    "batch": plot_style.curve_style(2),
    "running": plot_style.curve_style(3) | {"linestyle": "--"},
}
NORMAL = {"color": plot_style.GRAY, "linestyle": ":", "linewidth": 1.4}
QUANTITIES = {
    "input": "input of the norm",
    "normalised": "normalised",
    "output": "scaled and shifted",
}
COLUMNS = 4  # of nets


def draw(tables: dict[str, Rows], note: Callable[[str], str], output: Path) -> list[Path]:
    """Draws the gap, the parameters, and the histograms of a run of each net; returns the files.

    Args:
      tables: rows of errors, gap, parameters and histograms.
      note: takes what a figure shows and returns what stands on top of it.
      output: the directory of the files.
    """
    files = draw_gap(tables["gap"], tables["errors"], note, output / "batch_norm_gap")
    files += draw_parameters(tables["parameters"], note, output / "batch_norm_parameters")
    for net in _nets(tables["histograms"]):
        rows = [row for row in tables["histograms"] if row["net"] == net]
        rows = [row for row in rows if row["run"] == rows[0]["run"]]
        split = tables["errors"][0]["split"]
        files += draw_histograms(rows, split, note, output / f"batch_norm_histograms_{net}")
    return files


def _nets(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["net"] for row in rows))


def _by_layer(rows: Rows, field: str) -> tuple[list[int], np.ndarray]:
    """Numbers of the layers, and the mean over seeds of a field."""
    values: dict[int, list[float]] = {}
    for row in rows:
        values.setdefault(row["number"], []).append(row[field])
    return list(values), np.array([np.mean(own) for own in values.values()])


def _panels(rows: Rows, **options: object) -> tuple[Figure, list[Axes], list[str]]:
    nets = _nets(rows)
    return *plot_style.grid(len(nets), COLUMNS, (2.7, 2.5), **options), nets


def _finish(panels: list[Axes], nets: list[str], label: str) -> None:
    for number, (axes, net) in enumerate(zip(panels, nets, strict=True)):
        below = "norm, in order" if number + COLUMNS >= len(nets) else ""
        plot_style.label_axes(axes, below, "" if number % COLUMNS else label)
        axes.set_title(net)


def draw_gap(rows: Rows, errors: Rows, note: Callable[[str], str], path: Path) -> list[Path]:
    """A panel for each net: by layer, how far means are from 0 and stds from 1; returns the files.

    Args:
      rows: of the gap.
      errors: with either kind of statistics.
      note: see `draw`.
      path: of the files, without extension.
    """
    figure, panels, nets = _panels(rows, sharey=True)
    fields = {"mean_rms": ("mean from 0", 2), "std_rms": ("std from 1", 3)}
    lines = {"batch": "-", "running": ":"}
    for axes, net in zip(panels, nets, strict=True):
        for kind, line in lines.items():
            own = [row for row in rows if row["net"] == net and row["statistics"] == kind]
            for field, (_, look) in fields.items():
                numbers, values = _by_layer(own, field)
                axes.plot(
                    numbers,
                    values,
                    **plot_style.curve_style(look, len(numbers)) | {"linestyle": line},
                )
        axes.set_yscale("log")
    _finish(panels, nets, "distance")
    for axes, net in zip(panels, nets, strict=True):
        means = []
        for kind in lines:
            own = [r for r in errors if r["net"] == net and r["statistics"] == kind]
            means.append(f"{np.mean([row['error'] for row in own]):.2f}% {kind}")
        axes.set_title(f"{net}\nerror {', '.join(means)}", fontsize="small")
    handles = [
        Line2D([], [], label=name, **plot_style.curve_style(look)) for name, look in fields.values()
    ]
    handles += [
        Line2D([], [], label=f"all norms by {kind} statistics", color="0.3", linestyle=line)
        for kind, line in lines.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    what = (
        f"channels of {errors[0]['split']} images by running statistics: distance from mean 0 and "
        "std 1, root mean square"
    )
    return plot_style.save(figure, path, note(what))


def draw_parameters(rows: Rows, note: Callable[[str], str], path: Path) -> list[Path]:
    """A panel for each net: scales and shifts by layer, mean and spread; returns the files.

    Args:
      rows: of the parameters.
      note: see `draw`.
      path: of the files, without extension.
    """
    figure, panels, nets = _panels(rows)
    looks = {"scale": 0, "shift": 2}
    for axes, net in zip(panels, nets, strict=True):
        own = [row for row in rows if row["net"] == net]
        for name, look in looks.items():
            numbers, mean = _by_layer(own, f"{name}_mean")
            std = _by_layer(own, f"{name}_std")[1]
            curve = plot_style.curve_style(look, len(numbers))
            axes.plot(numbers, mean, **curve)
            axes.fill_between(
                numbers, mean - std, mean + std, color=curve["color"], alpha=0.2, linewidth=0
            )
        axes.axhline(0, color=plot_style.GRAY, linewidth=0.8, zorder=0)
    _finish(panels, nets, "scale, shift")
    handles = [
        Line2D([], [], label=name, **plot_style.curve_style(look)) for name, look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    what = "learned scales and shifts, mean and standard deviation over channels"
    return plot_style.save(figure, path, note(what))


def draw_histograms(rows: Rows, split: str, note: Callable[[str], str], path: Path) -> list[Path]:
    """A column for each layer, a row for each quantity; returns the files.

    Args:
      rows: of the histograms of one run.
      split: whose images they are of.
      note: see `draw`.
      path: of the files, without extension.
    """
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure, panels = plot_style.grid(len(QUANTITIES) * len(layers), len(layers), (3.2, 2.0))
    places = [(quantity, layer) for quantity in QUANTITIES for layer in layers]
    for axes, (quantity, layer) in zip(panels, places, strict=True):
        own = [row for row in rows if (row["quantity"], row["layer"]) == (quantity, layer)]
        _histogram(axes, own, quantity == "normalised")
        title = layer if quantity == places[0][0] else ""
        plot_style.label_axes(
            axes, QUANTITIES[quantity], "density" if layer == layers[0] else "", title
        )
    handles = [
        Line2D([], [], label=f"{kind} statistics", **look | {"marker": ""})
        for kind, look in LOOKS.items()
    ]
    handles.append(Line2D([], [], label="standard normal", **NORMAL))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    what = f"batch norm in {rows[0]['run']}: all channels, {split} images"
    return plot_style.save(figure, path, note(what))


def _histogram(axes: Axes, rows: Rows, normalized: bool) -> None:
    """One panel, with the standard normal density beside what is normalised."""
    for kind, look in LOOKS.items():
        own = [row for row in rows if row["statistics"] == kind][1:-1]  # not what lies outside
        edges = [row["low"] for row in own] + [own[-1]["high"]]
        line = {key: look[key] for key in ("color", "linestyle", "linewidth")}
        density = np.array([row["density"] for row in own])
        axes.stairs(np.where(density > 0, density, np.nan), edges, baseline=None, **line)
    axes.set_yscale("log")
    if normalized:
        limits = axes.get_ylim()
        x = np.linspace(edges[0], edges[-1], 101)
        axes.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), zorder=0, **NORMAL)
        axes.set_ylim(limits)
