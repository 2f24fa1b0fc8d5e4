"""Figures of loss and error along lines and planes, for `experiments.analyses.landscape`.

A cross marks a point whose loss is not finite; on a line it is drawn at the largest finite loss.
The note above the figure counts the crosses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import matplotlib.patheffects as effects
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from flaxres.experiments.results import plot_style
from flaxres.experiments.results.plot_style import CurveStyle
from flaxres.experiments.results.tables import Row

MAX_DECADE = 99  # exponent beyond that of any loss
MIN_LOSS = 1e-6  # nats; smaller losses are drawn here on logarithmic axes
MAX_RATIO_ON_LINEAR_AXIS = 30  # of the largest loss to the smallest
DISTANCE_LABEL = "distance (filter norms)"
MAX_MODELS_IN_PANEL = 4
NUM_TICKS = 5  # on a distance axis
MAX_LEVELS = 16  # contours of all panels
MIN_RATIO_FOR_CONTOURS = 1.05  # of the largest loss to the smallest
# Contour levels within a decade, from the finest choice to the coarsest.
LEVELS_OF_A_DECADE = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
# Low losses are white; high losses are light enough for black labels.
GRAYS = LinearSegmentedColormap.from_list("light grays", ["1.0", "0.65"])


def group_by_run(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each run, in their order."""
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(row["run"], []).append(row)
    return runs


def drawable_losses(
    losses: Float[np.ndarray, " points"],
) -> tuple[Float[np.ndarray, " points"], str]:
    """Replaces losses that a logarithmic axis cannot show.

    Args:
      losses: losses in nats, not all of them finite.

    Returns:
      The losses to draw, and a text for the note if some are not finite.
    """
    is_finite = np.isfinite(losses)
    max_loss = losses[is_finite].max(initial=MIN_LOSS)
    drawn = np.where(is_finite, np.maximum(losses, MIN_LOSS), max_loss)
    num_missing = int((~is_finite).sum())
    text = f"; crosses: {num_missing:,} of {losses.size:,} losses are not finite"
    return drawn, text if num_missing else ""


def _drawable_rows(rows: Sequence[Row]) -> tuple[list[Row], Float[np.ndarray, " points"], str]:
    """Returns rows with drawable losses and a column 'finite', the losses, and a note."""
    losses = np.array([row["loss"] for row in rows])
    drawn, text = drawable_losses(losses)
    columns = zip(rows, drawn, np.isfinite(losses), strict=True)
    return [row | {"loss": loss, "finite": ok} for row, loss, ok in columns], drawn, text


def _draw_crosses(axes: Axes, rows: Sequence[Row], y: str) -> None:
    """Draws crosses where losses are not finite, with the column `y` as their height."""
    missing = [row for row in rows if not row["finite"]]
    if missing:
        points = np.array([(row["x"], row[y]) for row in missing])
        axes.plot(points[:, 0], points[:, 1], "x", color="black", markersize=5)


def draw_lines(rows: Sequence[Row], groups: dict[str, str], path: Path, note: str) -> list[Path]:
    """Draws the loss left and the training error right, a curve for each run.

    The runs of a model share a style. More than `MAX_MODELS_IN_PANEL` models are drawn in a row of
    panels for each group.

    Args:
      rows: rows of lines, as returned by `landscape.measure`.
      groups: title of the panels of each model.
      path: path of the files, without extension.
      note: note above the figure.

    Returns:
      The paths of the files.
    """
    rows, losses, text = _drawable_rows(rows)
    variants = {title: [v for v in groups if groups[v] == title] for title in groups.values()}
    if len(groups) <= MAX_MODELS_IN_PANEL:
        variants = {"": list(groups)}
    figure = Figure(figsize=(10, 0.8 + 3.2 * len(variants)), layout="constrained")
    panel_rows = figure.subplots(len(variants), 2, sharex=True, sharey="col", squeeze=False)
    for (title, members), panels in zip(variants.items(), panel_rows, strict=True):
        for run_rows in group_by_run(rows).values():
            variant = run_rows[0]["net"]
            if variant in members:
                style = plot_style.curve_style(members.index(variant), len(run_rows))
                _draw_curves(panels, run_rows, style)
        _label_panels(panels, DISTANCE_LABEL if title == list(variants)[-1] else "")
        panels[0].set_title(title, loc="left")
        panels[0].set_xticks(np.linspace(rows[0]["x"], rows[-1]["x"], NUM_TICKS))
        lines = {line.get_label(): line for line in panels[-1].get_lines()}
        handles = [lines[plot_style.label_of(variant)] for variant in members]
        panels[-1].legend(
            handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
        )
    _set_limits(panel_rows[0], losses)
    return plot_style.save(figure, path, note + text)


def draw_between(rows: Sequence[Row], path: Path, note: str) -> list[Path]:
    """Draws the loss left and the training error right, between two runs.

    Args:
      rows: rows returned by `landscape.measure_between`.
      path: path of the files, without extension.
      note: note above the figure.

    Returns:
      The paths of the files.
    """
    rows, losses, text = _drawable_rows(rows)
    figure = Figure(figsize=(10, 4.0), layout="constrained")
    panels = figure.subplots(1, 2)
    _draw_curves(panels, rows, plot_style.curve_style(2, len(rows)))
    _label_panels(panels, f"0: {rows[0]['run']}, 1: {rows[0]['other']}")
    _set_limits(panels, losses)
    return plot_style.save(figure, path, note + text)


def _draw_curves(panels: Sequence[Axes], rows: Sequence[Row], style: CurveStyle) -> None:
    for axes, metric in zip(panels, ("loss", "error"), strict=True):
        x, y = [row["x"] for row in rows], [row[metric] for row in rows]
        axes.plot(x, y, label=plot_style.label_of(rows[0].get("net", "")), **style)
        _draw_crosses(axes, rows, metric)


def _label_panels(panels: Sequence[Axes], label: str) -> None:
    plot_style.label_axes(panels[0], label, "loss (nats)")
    plot_style.label_axes(panels[1], label, "training error (%)")


def _set_limits(panels: Sequence[Axes], losses: Float[np.ndarray, " points"]) -> None:
    """Sets the y axes: losses from 0, or logarithmic if they differ much; errors from 0 to 100."""
    if losses.max() > MAX_RATIO_ON_LINEAR_AXIS * losses.min():
        panels[0].set_yscale("log")
    else:
        panels[0].set_ylim(bottom=0)
    panels[1].set_ylim(0, 102)


def _label(run: str, runs: Collection[str]) -> str:
    """Returns the name of a run, without its seed if it is the only run of its model."""
    variant = run.partition("/")[0]
    return variant if sum(other.partition("/")[0] == variant for other in runs) == 1 else run


def contour_levels(lowest: float, highest: float) -> Float[np.ndarray, " levels"]:
    """Returns at most `MAX_LEVELS` losses to draw contours at: round numbers with similar ratios.

    If fewer than three round numbers lie in the range, the levels are evenly spaced. A range that
    is too narrow has no levels.

    Args:
      lowest: smallest loss, positive.
      highest: largest loss.
    """
    decades = range(int(np.floor(np.log10(lowest))), int(np.ceil(np.log10(highest))) + 1)
    choices = [[n * 10.0**d for d in decades for n in numbers] for numbers in LEVELS_OF_A_DECADE]
    choices += [[10.0**d for d in decades if d % every == 0] for every in range(2, 39)]
    for choice in choices:
        levels = [level for level in choice if lowest < level < highest]
        if len(levels) <= MAX_LEVELS:
            break
    if len(levels) > 2:
        return np.array(levels)
    has_contours = highest > MIN_RATIO_FOR_CONTOURS * lowest
    return np.linspace(lowest, highest, 7)[1:-1] if has_contours else np.array([])


def draw_plane(rows: Sequence[Row], path: Path, note: str) -> list[Path]:
    """Draws a panel of contours for each run, all with the same levels.

    Args:
      rows: rows of planes, as returned by `landscape.measure`.
      path: path of the files, without extension.
      note: note above the figure.

    Returns:
      The paths of the files.
    """
    rows, losses, text = _drawable_rows(rows)
    runs = group_by_run(rows)
    levels = contour_levels(losses.min(), losses.max())
    columns = 2 if len(runs) in (2, 4) else 3
    figure, panels = plot_style.grid(
        len(runs), columns=columns, size=(4.2, 4.0), sharex=True, sharey=True
    )
    figure.set_layout_engine("compressed")  # leaves room for the labels of square panels
    for i, ((run, run_rows), axes) in enumerate(zip(runs.items(), panels, strict=True)):
        x = np.unique([row["x"] for row in run_rows])
        mask = [not row["finite"] for row in run_rows]
        plane = np.ma.array([row["loss"] for row in run_rows], mask=mask)
        _draw_contours(axes, x, plane.reshape(len(x), len(x)), levels)
        _draw_crosses(axes, run_rows, "y")
        middle = run_rows[len(run_rows) // 2]
        values = f"{middle['loss']:.2g} nats, {middle['error']:.3g}%"
        axes.set_title(f"{_label(run, runs)} (at +: {values})", fontsize="medium")
        axes.plot(0, 0, marker="+", color="black", markersize=9)
        axes.set_aspect("equal")
        ticks = np.linspace(x[0], x[-1], NUM_TICKS)
        axes.set(xticks=ticks, yticks=ticks)
        if i % columns == 0:
            axes.set_ylabel(DISTANCE_LABEL)
        if i + columns >= len(runs):
            axes.set_xlabel(DISTANCE_LABEL)
    return plot_style.save(figure, path, f"{note}{text}; contour labels: nats")


def _draw_contours(
    axes: Axes,
    x: Float[np.ndarray, " points"],
    plane: np.ma.MaskedArray,
    levels: Float[np.ndarray, " levels"],
) -> None:
    """Draws labeled contours with gray between them, or the range if no contour is in the panel."""
    if plane.mask.all():
        return
    log_losses, log_levels = np.ma.log10(plane), np.log10(levels)
    shades = GRAYS(np.linspace(0, 1, len(log_levels) + 1))
    axes.contourf(x, x, log_losses, [-MAX_DECADE, *log_levels, MAX_DECADE], colors=shades)
    inside = log_levels[(log_levels > log_losses.min()) & (log_levels < log_losses.max())]
    halo: list[effects.AbstractPathEffect] = [effects.withStroke(linewidth=2.5, foreground="white")]
    if len(inside):
        style: CurveStyle = {
            "colors": "black",
            "linewidths": 0.8,
            "negative_linestyles": "solid",
        }
        lines = axes.contour(x, x, log_losses, inside, **style)
        labels = {level: _format_loss(10**level) for level in inside}
        for text in axes.clabel(lines, fmt=labels, fontsize=8):
            text.set_path_effects(halo)
    else:
        label = " to ".join(dict.fromkeys(map(_format_loss, (plane.min(), plane.max()))))
        axes.text(0.5, 0.6, label, ha="center", transform=axes.transAxes, path_effects=halo)


def _format_loss(loss: float) -> str:
    return f"{loss:,.0f}" if 100 <= loss < 1e7 else f"{loss:.3g}"
