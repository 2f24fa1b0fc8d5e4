"""Figures of loss and error along lines and planes; see `experiments.analyses.landscape`.

Where a loss is not finite there is a cross: on a line at the largest finite loss. The note counts
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from experiments.results import plot_style

Rows = Sequence[dict[str, object]]

FAR = 99  # a decade that no loss comes to
LEAST = 1e-6  # nats; what is below is drawn there on logarithmic axes
SPAN = 30  # the largest value over the smallest on a linear axis
DISTANCE = "distance (norms of the filters)"
MOST_NETS = 4  # in one panel
TICKS = 5  # of an axis of distances
MOST_LEVELS = 16  # contours, in all panels together
FLAT = 1.05  # the largest loss over the smallest of a plane without contours
# Numbers of a decade to draw contours at, from the finest choice to the coarsest.
LEVELS_OF_A_DECADE = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
# Light enough for black labels: low losses are white.
GREYS = LinearSegmentedColormap.from_list("light greys", ["1.0", "0.65"])


def by_run(rows: Rows) -> dict[str, list[dict[str, object]]]:
    """The rows of each run, in their order."""
    runs: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        runs.setdefault(row["run"], []).append(row)
    return runs


def drawable(losses: np.ndarray) -> tuple[np.ndarray, str]:
    """Losses that a logarithmic axis can show, and what was done for it, for the note.

    Args:
      losses: in nats, some of them not finite.
    """
    finite = np.isfinite(losses)
    top = losses[finite].max(initial=LEAST)
    shown = np.where(finite, np.maximum(losses, LEAST), top)
    missing = int((~finite).sum())
    said = f"; crosses: {missing:,} of {losses.size:,} losses are not finite"
    return shown, said if missing else ""


def _drawable_rows(rows: Rows) -> tuple[list[dict[str, object]], np.ndarray, str]:
    """The rows with losses as they are drawn, and whether they are finite; see `drawable`."""
    found = np.array([row["loss"] for row in rows])
    losses, said = drawable(found)
    marked = zip(rows, losses, np.isfinite(found), strict=True)
    return [row | {"loss": loss, "finite": ok} for row, loss, ok in marked], losses, said


def _cross(axes: Axes, rows: Rows, height: str) -> None:
    """Crosses where losses are not finite, at the values `height` of the rows."""
    missing = [row for row in rows if not row["finite"]]
    if missing:
        at = [row["x"] for row in missing], [row[height] for row in missing]
        axes.plot(*at, "x", color="black", markersize=5)


def draw_lines(rows: Rows, groups: dict[str, str], path: Path, note: str) -> list[Path]:
    """Loss left and training error right, a curve for each run; returns the files.

    Runs of one net look alike. More than `MOST_NETS` are drawn in a row of panels for each group.

    Args:
      rows: of `landscape.measure`, of lines.
      groups: by net, what its panels are called.
      path: of the files, without extension.
      note: what stands on top.
    """
    rows, losses, said = _drawable_rows(rows)
    nets = {group: [net for net in groups if groups[net] == group] for group in groups.values()}
    if len(groups) <= MOST_NETS:
        nets = {"": list(groups)}
    figure = Figure(figsize=(10, 0.8 + 3.2 * len(nets)), layout="constrained")
    lines = figure.subplots(len(nets), 2, sharex=True, sharey="col", squeeze=False)
    for (group, own), panels in zip(nets.items(), lines, strict=True):
        for row in by_run(rows).values():
            if row[0]["net"] in own:
                _curves(panels, row, plot_style.curve_style(own.index(row[0]["net"]), len(row)))
        _finish(panels, DISTANCE if group == list(nets)[-1] else "")
        panels[0].set_title(group, loc="left")
        panels[0].set_xticks(np.linspace(rows[0]["x"], rows[-1]["x"], TICKS))
        lines_of = {line.get_label(): line for line in panels[-1].get_lines()}
        handles = {net: lines_of[net] for net in own}
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}
        panels[-1].legend(handles=list(handles.values()), **beside)
    _limit(lines[0], losses)
    return plot_style.save(figure, path, note + said)


def draw_between(rows: Rows, path: Path, note: str) -> list[Path]:
    """Loss left and training error right, between two runs; returns the files.

    Args:
      rows: of `landscape.measure_between`.
      path: of the files, without extension.
      note: what stands on top.
    """
    rows, losses, said = _drawable_rows(rows)
    figure = Figure(figsize=(10, 4.0), layout="constrained")
    panels = figure.subplots(1, 2)
    _curves(panels, rows, plot_style.curve_style(2, len(rows)))
    _finish(panels, f"0: {rows[0]['run']}, 1: {rows[0]['other']}")
    _limit(panels, losses)
    return plot_style.save(figure, path, note + said)


def _curves(panels: Sequence[Axes], rows: Rows, look: dict[str, object]) -> None:
    for axes, metric in zip(panels, ("loss", "error"), strict=True):
        values = [row[metric] for row in rows]
        axes.plot([row["x"] for row in rows], values, label=rows[0].get("net"), **look)
        _cross(axes, rows, metric)


def _finish(panels: Sequence[Axes], label: str) -> None:
    plot_style.label_axes(panels[0], label, "loss (nats)")
    plot_style.label_axes(panels[1], label, "training error (%)")


def _limit(panels: Sequence[Axes], losses: np.ndarray) -> None:
    """The y axes: losses from 0, or logarithmic where they differ much; errors from 0 to 100."""
    if losses.max() > SPAN * losses.min():
        panels[0].set_yscale("log")
    else:
        panels[0].set_ylim(bottom=0)
    panels[1].set_ylim(0, 102)


def _label(run: str, runs: Sequence[str]) -> str:
    """The net alone, where there is one run of each."""
    net = run.partition("/")[0]
    return net if sum(other.partition("/")[0] == net for other in runs) == 1 else run


def levels(lowest: float, highest: float) -> np.ndarray:
    """Losses to draw contours at: round numbers at equal ratios, `MOST_LEVELS` at most.

    Where they would be fewer than three, as lowest and highest are close, equal parts; none where
    those would look equal.

    Args:
      lowest: of what is drawn, positive.
      highest: of what is drawn.
    """
    decades = range(int(np.floor(np.log10(lowest))), int(np.ceil(np.log10(highest))) + 1)
    choices = [[n * 10.0**d for d in decades for n in numbers] for numbers in LEVELS_OF_A_DECADE]
    choices += [[10.0**d for d in decades if d % every == 0] for every in range(2, 39)]
    for choice in choices:
        inside = [level for level in choice if lowest < level < highest]
        if len(inside) <= MOST_LEVELS:
            break
    if len(inside) > 2:
        return np.array(inside)
    return np.linspace(lowest, highest, 7)[1:-1] if highest > FLAT * lowest else np.array([])


def draw_plane(rows: Rows, path: Path, note: str) -> list[Path]:
    """A panel of contours for each run, all with the same levels; returns the files.

    Args:
      rows: of `landscape.measure`, of a plane.
      path: of the files, without extension.
      note: what stands on top.
    """
    rows, losses, said = _drawable_rows(rows)
    runs = by_run(rows)
    chosen = levels(losses.min(), losses.max())
    columns = 2 if len(runs) in (2, 4) else 3
    figure, panels = plot_style.grid(
        len(runs), columns=columns, size=(4.2, 4.0), sharex=True, sharey=True
    )
    size = len(losses) // len(runs)
    for i, ((run, own), axes) in enumerate(zip(runs.items(), panels, strict=True)):
        x = np.unique([row["x"] for row in own])
        found = np.ma.array([row["loss"] for row in own], mask=[not row["finite"] for row in own])
        _contours(axes, x, found.reshape(len(x), len(x)), chosen)
        _cross(axes, own, "y")
        middle = own[size // 2]
        said_of_it = f"{middle['loss']:.2g} nats, {middle['error']:.3g}%"
        axes.set_title(f"{_label(run, runs)} (at +: {said_of_it})", fontsize="medium")
        axes.plot(0, 0, marker="+", color="black", markersize=9)
        axes.set_aspect("equal")
        ticks = np.linspace(x[0], x[-1], TICKS)
        axes.set(xticks=ticks, yticks=ticks)
        if i % columns == 0:
            axes.set_ylabel(DISTANCE)
        if i + columns >= len(runs):
            axes.set_xlabel(DISTANCE)
    return plot_style.save(figure, path, f"{note}{said}; lines: nats")


def _contours(axes: Axes, x: np.ndarray, plane: np.ma.MaskedArray, chosen: np.ndarray) -> None:
    """Lines with their losses, and grey between them; where there is no line, the range."""
    if plane.mask.all():
        return
    logarithms, at = np.ma.log10(plane), np.log10(chosen)
    shades = GREYS(np.linspace(0, 1, len(at) + 1))
    axes.contourf(x, x, logarithms, [-FAR, *at, FAR], colors=shades)
    inside = at[(at > logarithms.min()) & (at < logarithms.max())]
    halo = [effects.withStroke(linewidth=2.5, foreground="white")]
    if len(inside):
        look = {"colors": "black", "linewidths": 0.8, "negative_linestyles": "solid"}
        lines = axes.contour(x, x, logarithms, inside, **look)
        texts = {level: _as_text(10**level) for level in inside}
        for text in axes.clabel(lines, fmt=texts, fontsize=8):
            text.set_path_effects(halo)
    else:
        said = " to ".join(dict.fromkeys(_as_text(loss) for loss in (plane.min(), plane.max())))
        axes.text(0.5, 0.6, said, ha="center", transform=axes.transAxes, path_effects=halo)


def _as_text(loss: float) -> str:
    return f"{loss:,.0f}" if 100 <= loss < 1e7 else f"{loss:.3g}"
