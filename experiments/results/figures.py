"""Curves of sweeps, and figures after 1, 6 and 7 of He15 (arXiv 1512.03385)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.results import plot_style
from experiments.results.runs import Run, are_nets, mean_and_std, planned_runs

TRAINING = {"linestyle": "--", "linewidth": 1.0}
TEST = {"linestyle": "-", "linewidth": 2.2}
MAX_RATIO_ON_LINEAR_AXIS = 30  # the largest value over the smallest


def draw_sweep(runs: dict[str, list[Run]], directory: Path) -> list[Path]:
    """Draws the runs of any sweep into `directory`; returns the files written.

    Where they are nets of different depth and nothing else, the degradation figures; else 'curves':
    training error left and test error right, a colour for each variant.
    """
    if are_nets(runs):
        return draw_figures(runs, directory)
    looks = {net: plot_style.curve_style(i) for i, net in enumerate(runs)}
    rows = -(-len(runs) // 4)  # of the legend
    figure = Figure(figsize=(10, 4.0 + 0.25 * rows), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    metrics = {"train_error": "training error", "test_error": "test error"}
    for axes, (metric, title) in zip(panels, metrics.items(), strict=True):
        for net, group in runs.items():
            _curve(axes, group, metric, looks[net])
        _finish(axes, runs, title)
    panels[1].set_ylabel("")
    _limit(panels, runs)
    handles = [Line2D([], [], label=net, **look) for net, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return _save(figure, directory / "curves", runs)


def draw_figures(runs: dict[str, list[Run]], directory: Path) -> list[Path]:
    """Draws what can be drawn of `runs` into `directory`; returns the files written.

    figure6: error against iterations, plain nets left and residual nets right, training error
    dashed and thin, test error bold. figure1: the shallowest and the deepest plain net, training
    error left and test error right. With several seeds: mean, and a band of one standard deviation.
    figure7, of the runs whose layer responses are known: their standard deviation in the order of
    the layers, and sorted by size.
    """
    depths = sorted({_depth(net) for net in runs})
    # By depth, so that a plain net and its residual twin look alike.
    looks = {depth: plot_style.curve_style(i) for i, depth in enumerate(depths)}
    plain = {net: group for net, group in runs.items() if net.startswith("plain")}
    residual = {net: group for net, group in runs.items() if net not in plain}

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, nets, title in zip(panels, (plain, residual), ("plain", "residual"), strict=True):
        for net, group in nets.items():
            look = looks[_depth(net)]
            _curve(axes, group, "train_error", look | TRAINING)
            _curve(axes, group, "test_error", look | TEST)
        _finish(axes, nets, title)
        _legend(axes, nets, looks)
    panels[1].set_ylabel("")
    _limit(panels, runs)
    lines = {"training error": TRAINING, "test error": TEST}
    handles = [Line2D([], [], color="0.3", label=name, **line) for name, line in lines.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    files = _save(figure, directory / "figure6", runs)

    if len(plain) > 1:
        ends = {net: plain[net] for net in (next(iter(plain)), next(reversed(plain)))}
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, metric, title in zip(
            panels, ("train_error", "test_error"), ("training error", "test error"), strict=True
        ):
            for net, group in ends.items():
                _curve(axes, group, metric, looks[_depth(net)])
            _finish(axes, ends, title)
            _legend(axes, ends, looks)
        panels[1].set_ylabel("")
        _limit(panels, ends)
        files += _save(figure, directory / "figure1", ends, chosen=True)
    known = {net: [run for run in group if run.responses] for net, group in runs.items()}
    if known := {net: group for net, group in known.items() if group}:
        files += draw_responses(known, directory / "figure7")
    return files


def draw_responses(runs: dict[str, list[Run]], path: Path) -> list[Path]:
    """Standard deviation of the layers' responses, the mean over seeds; returns the files.

    Of nets that differ in depth alone those of the paper, as far as they are there, in one look for
    each depth; plain nets are dashed.

    Args:
      runs: by net, all with responses.
      path: of the files, without extension.
    """
    depths = {net: _depth(net) for net in runs} if are_nets(runs) else {}
    chosen = [net for net in runs if net not in depths]
    for kind in ("plain", "resnet"):
        own = [depth for net, depth in depths.items() if net.startswith(kind)]
        ends = (min(own, default=0), max(own, default=0), 56, 110)
        chosen += [net for net, d in depths.items() if net.startswith(kind) and d in ends]
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    order = sorted({depths.get(net, net) for net in chosen}, key=str)
    for net in chosen:
        responses = np.mean([list(run.responses.values()) for run in runs[net]], axis=0)
        look = plot_style.curve_style(order.index(depths.get(net, net)), len(responses))
        look["linestyle"] = "--" if net.startswith("plain") else "-"
        for axes, values in zip(panels, (responses, -np.sort(-responses)), strict=True):
            axes.plot(range(1, len(values) + 1), values, label=net, **look)
    for axes, label in zip(panels, ("layer, in order", "layer, sorted by response"), strict=True):
        plot_style.label_axes(axes, label, "standard deviation")
    shown = [values for line in panels[0].lines for values in line.get_ydata()]
    if max(shown) > MAX_RATIO_ON_LINEAR_AXIS * max(min(shown), 1e-9):
        panels[0].set_yscale("log")
    else:
        panels[0].set_ylim(bottom=0)
    panels[0].legend(frameon=False, ncols=2)
    shown = {net: runs[net] for net in chosen}
    return _save(figure, path, shown, "responses of 3x3 layers after batch norm", chosen=True)


def _depth(net: str) -> int:
    return int(net.split("-")[1])


def _scale(runs: dict[str, list[Run]]) -> tuple[float, str]:
    """Unit of the iterations' axis, and its label."""
    longest = max(run.config["num_steps"] for group in runs.values() for run in group)
    return (1e4, "iterations (1e4)") if longest >= 10_000 else (1, "iterations")


def _curve(axes: Axes, group: list[Run], metric: str, look: dict[str, object]) -> None:
    steps, mean, std = mean_and_std(group, metric)
    if not len(steps):
        return
    steps = steps / _scale({"": group})[0]
    every = plot_style.curve_style(plot_style.MARKERS.index(look["marker"]), len(steps))[
        "markevery"
    ]
    axes.plot(steps, mean, **look, markevery=every)
    if std.any():
        color = look["color"]
        axes.fill_between(steps, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)


def _finish(axes: Axes, nets: dict[str, list[Run]], title: str) -> None:
    """Axes and learning-rate drops of one panel."""
    unit, label = _scale(nets) if nets else (1, "")
    plot_style.label_axes(axes, label, "error (%)", title)
    if not nets:
        return
    config = next(iter(nets.values()))[0].config
    for step in config["boundaries"] if config["schedule"] == "piecewise-constant" else ():
        axes.axvline(step / unit, color=plot_style.GRAY, linestyle=":", linewidth=1.0, zorder=0)
    axes.set_xlim(0, config["num_steps"] / unit)


def _legend(axes: Axes, nets: dict[str, list[Run]], looks: dict) -> None:
    """The nets of a panel, below it."""
    if not nets:
        return
    handles = [Line2D([], [], label=net, **looks[_depth(net)] | TEST) for net in nets]
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 5}
    axes.legend(handles=handles, frameon=False, columnspacing=1.2, handlelength=1.5, **below)


def _limit(panels, runs: dict[str, list[Run]]) -> None:
    """Error axis from 0 to just above all but the first steps, which are near chance anyway."""
    top = 1.0
    for group in runs.values():
        for metric in ("train_error", "test_error"):
            steps, mean, std = mean_and_std(group, metric)
            settled = steps > 0.1 * group[0].config["num_steps"]
            if settled.any():
                top = max(top, (mean + std)[settled].max())
    panels[0].set_ylim(0, min(100, 1.08 * top))


def _save(
    figure: Figure, path: Path, runs: dict[str, list[Run]], what: str = "", chosen: bool = False
) -> list[Path]:
    """Writes the figure with lines on top of what it is made from, and of `what` if given.

    It is incomplete while planned runs are unfinished: those of the nets of `runs` if they were
    chosen from more, else those of all nets.
    """
    group = next(iter(runs.values()))
    seeds = sorted({len(group) for group in runs.values()})
    note = f"{group[0].config['dataset.name']}, {group[0].config['num_steps']:,} iterations"
    if seeds[-1] > 1:
        counts = " to ".join(map(str, (seeds[0], seeds[-1])[len(seeds) == 1 :]))
        note += f", mean {'' if what else 'and standard deviation '}of {counts} seeds"
    note += f"; {what}" if what else "; dotted: the learning rate drops"
    finished = sum(run.finished for group in runs.values() for run in group)
    planned = [name.rpartition("/")[0] for name in planned_runs(path.parent)]
    planned = [net for net in planned if net in runs or not chosen]
    total = max(len(planned), sum(map(len, runs.values())))
    note += f"; incomplete: {finished} of {total} runs finished" if finished < total else ""
    return plot_style.save(figure, path, note)
