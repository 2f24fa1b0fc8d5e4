"""Figures of the gradients analysis: quantities by layer, and gradients over training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from flaxres.errors import counted
from flaxres.experiments.results import plot_style
from flaxres.experiments.results.plot_style import CurveStyle
from flaxres.run.workdir import LAYERS_FILE
from flaxres.training.layer_statistics import QUANTITIES

# {'step': step, quantity: {layer: number, or None if it is not finite}, ...}
LayerRecord = Mapping[str, Any]
LABELS = {
    "gradient": "gradient of the kernel (L2 norm)",
    "backward": "gradient of the outputs (L2 norm)",
    "activation": "outputs (root mean square)",
}
# Relative depths of the layers that are drawn over training.
DEPTHS = {
    **{"first layer": 0, "layer at 1/4 of the depth": 1 / 4, "layer at 1/2 of the depth": 1 / 2},
    **{"layer at 3/4 of the depth": 3 / 4, "last layer": 1},
}
COLUMNS = 3  # of the figure over training
AXIS_RANGE = (1e-12, 1e12)  # of the logarithmic axes
CLIPPING_NOTE = "; values outside 1e-12 to 1e12 are drawn at the edge"
MAX_CURVES = len(plot_style.COLORS) * len(plot_style.LINES)  # with different styles

NORMS = {"batch": "with batch norm", "none": "without a norm"}  # titles of panels


class Curve(NamedTuple):
    """Place and look of a model's curve.

    Attributes:
      panel: title of its panel; '' if all curves share one.
      label: name in the legend.
      style: color, line style and marker.
    """

    panel: str
    label: str
    style: CurveStyle


def plan_curves(configs: Mapping[str, ConfigDict]) -> dict[str, Curve]:
    """Chooses panel, name and style of each model's curve in `draw_layers`.

    Models with different norms are in different panels. The color stands for depth and init_gain,
    and plain models are dashed, as in figure 7 (`results.figures.draw_responses`). Models that
    this would not tell apart share one panel and have a style each.

    Args:
      configs: config of each model, by its name.
    """
    norms = sorted({config.model.norm for config in configs.values()})
    keys = {name: (c.model.depth, c.model.init_gain) for name, c in configs.items()}
    colors = sorted(set(keys.values()))
    has_gains = len({gain for _, gain in keys.values()}) > 1
    curves: dict[str, Curve] = {}
    for name, config in configs.items():
        model, (depth, gain) = config.model, keys[name]
        panel = NORMS.get(model.norm, f"with {model.norm} norm") if len(norms) > 1 else ""
        label = f"{model.name}-{depth}" + (f", gain {gain:g}" if has_gains else "")
        style = plot_style.curve_style(colors.index(keys[name]))
        style["linestyle"] = "--" if model.name == "plain" else "-"
        curves[name] = Curve(panel, label if panel else plot_style.label_of(name), style)
    looks = {(c.panel, c.style["color"], c.style["linestyle"]) for c in curves.values()}
    if len(looks) == len(curves):
        return curves
    return {
        name: Curve("", plot_style.label_of(name), plot_style.curve_style(number))
        for number, name in enumerate(configs)
    }


def draw_layers(
    runs: Mapping[str, Sequence[LayerRecord]], plan: Mapping[str, Curve], path: Path, dataset: str
) -> list[Path]:
    """Draws each quantity by layer, before the first step and at the last record.

    Runs whose last record has values that are not finite have diverged. They are not drawn at the
    last record, and the note names them.

    Args:
      runs: records of each model, by its name.
      plan: panel, name and style of each model's curve, by its name.
      path: path of the files, without extension.
      dataset: name of the data set, for the note.

    Returns:
      The paths of the files.
    """
    titles = sorted({plan[name].panel for name in runs})
    columns, size = 2 * len(titles), (5.0, 2.9) if len(titles) == 1 else (3.4, 2.9)
    figure, panels = plot_style.grid(len(QUANTITIES) * columns, columns, size, sharey="row")
    last_records = {name: records[-1] for name, records in runs.items()}
    diverged = [name for name, record in last_records.items() if not _is_finite(record)]
    times = (
        ("before the first step", {name: records[0] for name, records in runs.items()}),
        (
            _describe_last([record for n, record in last_records.items() if n not in diverged]),
            {name: record for name, record in last_records.items() if name not in diverged},
        ),
    )
    places = [
        (quantity, *time, title) for quantity in QUANTITIES for time in times for title in titles
    ]
    num_layers = max(len(records[0][QUANTITIES[0]]) for records in runs.values())
    for number, (axes, (quantity, time, drawn, title)) in enumerate(
        zip(panels, places, strict=True)
    ):
        for name, record in drawn.items():
            if plan[name].panel == title:
                values = _clip(record[quantity].values())
                style = plan[name].style | {"markevery": _mark_every(plan[name].style, len(values))}
                axes.plot(range(1, len(values) + 1), values, label=plan[name].label, **style)
        _label_axes(axes, "layer, in order", LABELS[quantity] if number % columns == 0 else "")
        plot_style.number_axis(axes, num_layers, max_ticks=8)
        axes.set_title("\n".join(filter(None, (time, title))) if number < columns else "")
    _draw_legend(figure, panels[: columns // 2])
    text = f"{dataset}: gradients and outputs of each layer, for one training batch"
    if diverged:
        text += f"; diverged and not shown {times[1][0]}: {', '.join(diverged)}"
    return plot_style.save(figure, path, text + _clipping_note(panels))


def _is_finite(record: LayerRecord) -> bool:
    return all(value is not None for quantity in QUANTITIES for value in record[quantity].values())


def _describe_last(records: Sequence[LayerRecord]) -> str:
    """Returns the title of the panels of the last records."""
    steps = {record["step"] for record in records}
    return f"after {counted(min(steps), 'step')}" if len(steps) == 1 else "at the last record"


def _mark_every(style: CurveStyle, num_points: int) -> tuple[int, int]:
    """Returns the points of a curve with a marker, other ones for each style."""
    number = plot_style.MARKERS.index(style["marker"])
    start, every = plot_style.curve_style(number, num_points)["markevery"]
    return start, every


def draw_training(
    runs: Mapping[str, Sequence[LayerRecord]],
    path: Path,
    dataset: str,
    left_out: Sequence[str] = (),
) -> list[Path]:
    """Draws the gradient of the outputs of a few layers over training, one panel for each run.

    The layers have the same relative depth in all panels, because models may differ in depth. The
    note names the models in `left_out`, which have no log.
    """
    columns = 2 if len(runs) in (2, 4) else COLUMNS
    figure, panels = plot_style.grid(len(runs), columns, sharex=True, sharey=True)
    counts = {len(records[0]["backward"]) for records in runs.values()}
    for index, (axes, (name, records)) in enumerate(zip(panels, runs.items(), strict=True)):
        layers = list(records[0]["backward"])
        steps = [record["step"] for record in records]
        for number, (label, fraction) in enumerate(DEPTHS.items()):
            position = round(fraction * (len(layers) - 1))
            values = _clip(record["backward"].get(layers[position]) for record in records)
            if len(counts) == 1:
                label = f"layer {position + 1} of {len(layers)}"
            axes.plot(steps, values, label=label, **plot_style.curve_style(number, len(steps)))
        is_bottom, is_left = index + columns >= len(runs), index % columns == 0
        _label_axes(axes, "steps" if is_bottom else "", LABELS["backward"] if is_left else "")
        axes.set_title(name, fontsize="medium")
    _draw_legend(figure, panels[:1])
    text = f"{dataset}: gradients over training, each for one training batch"
    if left_out:
        text += f"; not shown, because they have no {LAYERS_FILE}: {', '.join(left_out)}"
    return plot_style.save(figure, path, text + _clipping_note(panels))


def _clip(values: Iterable[float | None]) -> Float[np.ndarray, " values"]:
    """Clips values to the range of the axis, so that 0 is drawn at its lower end; None is NaN."""
    numbers = np.array([np.nan if value is None else value for value in values], float)
    return np.clip(numbers, *AXIS_RANGE)


def _clipping_note(panels: Sequence[Axes]) -> str:
    """Returns a text for the note if a value is drawn at the edge of `AXIS_RANGE`."""
    lines = [line for axes in panels for line in axes.get_lines()]
    is_clipped = any(np.isin(line.get_ydata(), AXIS_RANGE).any() for line in lines)
    return CLIPPING_NOTE if is_clipped else ""


def _label_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    plot_style.label_axes(axes, xlabel, ylabel)
    axes.set_yscale("log")


def _draw_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Lists the curves of panels below the figure, each label once."""
    unique: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        unique |= dict(zip(map(str, labels), handles, strict=True))
    columns = 2 if len(unique) == 4 else 3
    figure.legend(
        unique.values(), unique.keys(), loc="outside lower center", ncols=columns, frameon=False
    )
