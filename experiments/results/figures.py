"""Figures of sweeps: learning curves, and figures 1, 6 and 7 of He15 (arXiv 1512.03385)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flaxres.errors import counted
from flaxres.experiments.results import paper, plot_style
from flaxres.experiments.results.comparability import is_degradation_experiment
from flaxres.experiments.results.plan_file import read_plan
from flaxres.experiments.results.plot_style import CurveStyle
from flaxres.experiments.results.runs import Run, mean_and_std

RunGroups = Mapping[str, Sequence[Run]]  # runs by variant

METRICS = {"train_error": "training error", "test_error": "test error"}
TRAINING: CurveStyle = {"linestyle": "--", "linewidth": 1.0}
AVERAGE: CurveStyle = {"linestyle": "-.", "linewidth": 1.2}  # test error of average weights
TEST: CurveStyle = {"linestyle": "-", "linewidth": 2.2}
PAPER_MARK: CurveStyle = {"marker": "<", "markersize": 7, "clip_on": False}
LEGEND: dict[str, Any] = {
    **{"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 5},
    **{"frameon": False, "columnspacing": 1.2, "handlelength": 1.5},
}
PAPER_DEPTHS = (56, 110)  # depths in figure 7 of He15, in addition to the shallowest and deepest
DROPS = "dotted lines: learning-rate drops"
MAX_RATIO_ON_LINEAR_AXIS = 30  # of the largest value to the smallest; log axis above


def draw_sweep(runs: RunGroups, directory: Path) -> list[Path]:
    """Draws the runs of any sweep; returns the files written.

    Plain and residual models that differ only in depth get the figures of the paper
    (`draw_figures`). All other sweeps get 'curves': training error on the left and test error on
    the right, with one color per variant. Dash-dotted lines on the right show the test error of
    average weights, for runs that have them.

    Args:
      runs: runs by variant.
      directory: directory for the files.
    """
    if is_degradation_experiment(runs):
        return draw_figures(runs, directory)
    styles = {variant: plot_style.curve_style(i) for i, variant in enumerate(runs)}
    legend_rows = -(-len(runs) // 4)
    figure = Figure(figsize=(10, 4.0 + 0.25 * legend_rows), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for variant, group in runs.items():
            _draw_curve(axes, group, metric, styles[variant])
        _finish_panel(axes, runs, title)
    for variant, group in runs.items():
        _draw_curve(panels[1], group, "ema_test_error", styles[variant] | AVERAGE)
    panels[1].set_ylabel("")
    hidden = _limit_errors(panels, runs)
    handles = [Line2D([], [], label=_label(v, runs[v]), **styles[v]) for v in runs]
    if any(run.last("ema_test_error") is not None for group in runs.values() for run in group):
        handles.append(Line2D([], [], color="0.3", label="average weights (EMA)", **AVERAGE))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return _save(figure, directory / "curves", runs, DROPS + hidden)


def draw_figures(runs: RunGroups, directory: Path) -> list[Path]:
    """Draws the figures of the paper for which there are runs; returns the files written.

    - figure6: error against steps, plain models on the left and residual models on the right. Thin
      dashed lines show the training error, bold lines the test error. Marks at the right edge show
    the final test errors of He15, for runs of its schedule on CIFAR-10.
    - figure1: the shallowest and the deepest plain model, training error on the left and test error
      on the right.
    - figure7: standard deviation of the layer responses, for runs whose responses are known.

    With several seeds, curves are means with a band of one standard deviation.

    Args:
      runs: runs of plain and residual models, by model name.
      directory: directory for the files.
    """
    depths = sorted({_depth(model) for model in runs})
    # By depth, so that a plain model and its residual counterpart look alike.
    styles = {depth: plot_style.curve_style(i) for i, depth in enumerate(depths)}
    plain = {model: group for model, group in runs.items() if model.startswith("plain")}
    residual = {model: group for model, group in runs.items() if model not in plain}
    files = _draw_figure_6(plain, residual, styles, directory / "figure6")
    if len(plain) > 1:
        extremes = {model: plain[model] for model in (next(iter(plain)), next(reversed(plain)))}
        files += _draw_figure_1(extremes, styles, directory / "figure1")
    measured = {model: [run for run in group if run.responses] for model, group in runs.items()}
    if measured := {model: group for model, group in measured.items() if group}:
        left_out = [model for model in runs if model not in measured]
        files += draw_responses(measured, directory / "figure7", left_out)
    return files


def _draw_figure_6(
    plain: RunGroups, residual: RunGroups, styles: Mapping[int, CurveStyle], path: Path
) -> list[Path]:
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, runs, title in zip(panels, (plain, residual), ("plain", "residual"), strict=True):
        for model, group in runs.items():
            style = styles[_depth(model)]
            _draw_curve(axes, group, "train_error", style | TRAINING)
            _draw_curve(axes, group, "test_error", style | TEST)
        _finish_panel(axes, runs, title)
        _draw_legend(axes, runs, styles)
    panels[1].set_ylabel("")
    all_runs = {**plain, **residual}
    paper_errors = _errors_of_paper(residual)
    for model, error in paper_errors.items():  # at the right edge
        color, transform = styles[_depth(model)]["color"], panels[1].get_yaxis_transform()
        panels[1].plot(1, error, color=color, transform=transform, **PAPER_MARK)
    hidden = _limit_errors(panels, all_runs, max(paper_errors.values(), default=0.0))
    lines = {"training error": TRAINING, "test error": TEST}
    if paper_errors:
        lines["He et al. 2015, CIFAR-10: final test error"] = PAPER_MARK | {"linestyle": "none"}
    handles = [Line2D([], [], color="0.3", label=name, **line) for name, line in lines.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return _save(figure, path, all_runs, DROPS + hidden)


def _draw_figure_1(runs: RunGroups, styles: Mapping[int, CurveStyle], path: Path) -> list[Path]:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for model, group in runs.items():
            _draw_curve(axes, group, metric, styles[_depth(model)])
        _finish_panel(axes, runs, title)
        _draw_legend(axes, runs, styles)
    panels[1].set_ylabel("")
    hidden = _limit_errors(panels, runs)
    return _save(figure, path, runs, DROPS + hidden, is_selection=True)


def draw_responses(runs: RunGroups, path: Path, left_out: Sequence[str] = ()) -> list[Path]:
    """Draws the standard deviation of each layer's response; returns the files written.

    The upper panel has the layers in order, the lower one from the largest response to the
    smallest; values are means over seeds. Of plain and residual models that differ only in depth,
    only the shallowest, the deepest and those of the paper are drawn, with one style per depth.
    Plain models are dashed. The note names the models that are not drawn.

    Args:
      runs: runs by variant, all with responses.
      path: path of the files, without extension.
      left_out: variants without responses, for the note.
    """
    depths = {model: _depth(model) for model in runs} if is_degradation_experiment(runs) else {}
    shown = [variant for variant in runs if variant not in depths]
    for kind in ("plain", "resnet"):
        models = {model: d for model, d in depths.items() if model.startswith(kind)}
        extremes = (min(models.values(), default=0), max(models.values(), default=0))
        shown += [model for model, d in models.items() if d in (*extremes, *PAPER_DEPTHS)]
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    style_keys = sorted({depths.get(variant, variant) for variant in shown}, key=str)
    for variant in shown:
        responses = np.mean([list(run.responses.values()) for run in runs[variant]], axis=0)
        number = style_keys.index(depths.get(variant, variant))
        style = plot_style.curve_style(number, len(responses))
        style["linestyle"] = "--" if variant.startswith("plain") else "-"
        for axes, values in zip(panels, (responses, -np.sort(-responses)), strict=True):
            label = _label(variant, runs[variant])
            axes.plot(range(1, len(values) + 1), values, label=label, **style)
    num_layers = max(len(runs[variant][0].responses) for variant in shown)
    for axes, label in zip(panels, ("in order", "sorted by response, largest first"), strict=True):
        plot_style.label_axes(axes, f"layer, {label}", "standard deviation")
        plot_style.number_axis(axes, num_layers)
        axes.tick_params(labelbottom=True)
    drawn_values = [value for line in panels[0].lines for value in line.get_ydata()]
    if max(drawn_values) > MAX_RATIO_ON_LINEAR_AXIS * max(min(drawn_values), 1e-9):
        panels[0].set_yscale("log")
    else:
        panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False, ncols=2)
    shown_runs = {variant: runs[variant] for variant in shown}
    what = "responses of 3x3 layers after batch norm"
    if left_out := [*left_out, *(variant for variant in runs if variant not in shown)]:
        what += f"; not shown: {', '.join(left_out)}"
    return _save(figure, path, shown_runs, what, is_selection=True)


def _depth(model: str) -> int:
    return int(model.split("-")[1])


def _step_unit(runs: RunGroups) -> tuple[float, str]:
    """Returns the unit and the label of the axis of steps."""
    num_steps = max(run.config["num_steps"] for group in runs.values() for run in group)
    return (1e4, "steps (1e4)") if num_steps >= 10_000 else (1, "steps")


def _draw_curve(axes: Axes, group: Sequence[Run], metric: str, style: CurveStyle) -> None:
    """Draws the mean of a metric over seeds, with a band of one standard deviation."""
    steps, mean, std = mean_and_std(group, metric)
    if not len(steps):
        return
    steps = steps / _step_unit({"": group})[0]
    number = plot_style.MARKERS.index(style["marker"])
    every = plot_style.curve_style(number, len(steps))["markevery"]
    axes.plot(steps, mean, **style, markevery=every)
    if std.any():
        color = style["color"]
        axes.fill_between(steps, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)


def _finish_panel(axes: Axes, runs: RunGroups, title: str) -> None:
    """Labels the axes of a panel and marks the steps at which the learning rate drops."""
    unit, label = _step_unit(runs) if runs else (1, "")
    plot_style.label_axes(axes, label, "error (%)", title)
    if not runs:
        return
    config = next(iter(runs.values()))[0].config
    for step in config["boundaries"] if config["schedule"] == "piecewise-constant" else ():
        axes.axvline(step / unit, color=plot_style.GRAY, linestyle=":", linewidth=1.0, zorder=0)
    axes.set_xlim(0, config["num_steps"] / unit)


def _draw_legend(axes: Axes, runs: RunGroups, styles: Mapping[int, CurveStyle]) -> None:
    """Lists the models of a panel below it."""
    if not runs:
        return
    handles = [
        Line2D([], [], label=_label(model, group), **styles[_depth(model)] | TEST)
        for model, group in runs.items()
    ]
    axes.legend(handles=handles, **LEGEND)


def _label(variant: str, group: Sequence[Run]) -> str:
    """Returns the name of a variant, with its last step if none of its runs is finished."""
    label = plot_style.label_of(variant)
    if any(run.finished for run in group):
        return label
    return f"{label}, unfinished: step {max(run.step for run in group):,}"


def _errors_of_paper(runs: RunGroups) -> dict[str, float]:
    """Returns the final test errors of the paper, for runs of its schedule on CIFAR-10."""
    return {
        model: paper.TEST_ERRORS[model]
        for model, group in runs.items()
        if model in paper.TEST_ERRORS
        and group[0].config["num_steps"] == paper.NUM_STEPS
        and paper.has_cifar10_test_set(group[0].config)
    }


def _limit_errors(panels: Sequence[Axes], runs: RunGroups, at_least: float = 0.0) -> str:
    """Sets the error axis from 0 to just above `at_least` and all curves after their first quarter.

    Errors of the first steps are near chance and would compress the rest of the curves. Returns a
    text for the note if they are hidden.
    """
    top = max(1.0, at_least)
    for group in runs.values():
        for metric in METRICS:
            steps, mean, std = mean_and_std(group, metric)
            if len(steps):
                top = max(top, (mean + std)[steps > 0.25 * steps[-1]].max())
    limit = min(100, math.ceil(1.08 * top))
    return f"; errors above {limit}% not shown" * plot_style.limit_values(panels, limit)


def _save(
    figure: Figure, path: Path, runs: RunGroups, what: str, is_selection: bool = False
) -> list[Path]:
    """Writes a figure with a note on its runs; returns the files written.

    The note also says if planned runs are not finished yet.

    Args:
      figure: figure to write.
      path: path of the files, without extension, in the directory of the sweep.
      runs: runs in the figure, by variant.
      what: description of the figure for the note.
      is_selection: if True, the figure shows only some variants of the sweep, and only planned runs
        of these variants count.
    """
    group = next(iter(runs.values()))
    config = group[0].config
    seeds = sorted({len(group) for group in runs.values()})
    note = f"{config['dataset.name']}, {counted(config['num_steps'], 'step')}"
    if seeds[-1] > 1:
        counts = " to ".join(map(str, (seeds[0], seeds[-1])[len(seeds) == 1 :]))
        has_bands = what.startswith(DROPS)
        note += f", mean {'and standard deviation ' if has_bands else ''}of {counts} seeds"
    note += f"; {what}"
    finished = sum(run.finished for group in runs.values() for run in group)
    planned = [name.rpartition("/")[0] for name in read_plan(path.parent)[0]]
    planned = [variant for variant in planned if variant in runs or not is_selection]
    total = max(len(planned), sum(map(len, runs.values())))
    note += f"; incomplete: {finished} of {total} runs finished" if finished < total else ""
    return plot_style.save(figure, path, note)
