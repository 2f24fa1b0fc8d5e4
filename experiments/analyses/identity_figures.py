"""Figure of the identity analysis: errors over training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from ml_collections import ConfigDict

from flaxres.errors import counted
from flaxres.experiments.analyses.identity_runs import METRICS, DeeperRun, shallow_errors
from flaxres.experiments.results import plot_style
from flaxres.experiments.results.runs import Run, mean_and_std

TICKS = (0, 1, 10, 100)  # of the error axis
LINEAR_BELOW = 1  # percent; the rest of the error axis is logarithmic


def draw(runs: Sequence[DeeperRun], path: Path) -> list[Path]:
    """Draws error against steps, averaged over seeds, with a row of panels for each model pair.

    Args:
      runs: runs of all pairs; runs without records are not drawn.
      path: path of the files, without extension.

    Returns:
      The paths of the files.
    """
    groups: dict[tuple[str, str], list[DeeperRun]] = {}
    for run in runs:
        pair = run.model.pair
        groups.setdefault((pair.shallow, pair.deeper), []).append(run)
    figure, panels = plot_style.grid(2 * len(groups), columns=2, size=(4.6, 2.9), sharey="row")
    for (shallow, deeper), group, left, right in zip(
        groups, groups.values(), panels[::2], panels[1::2], strict=True
    ):
        for axes, metric in ((left, "train_error"), (right, "test_error")):
            _draw_panel(axes, group, metric, shallow)
            ylabel = "error (%)" if axes is left else ""
            plot_style.label_axes(axes, "steps", ylabel, f"{deeper}, {METRICS[metric]}")
        # Errors range from below 1% to 100%, and 0 must be visible.
        left.set_yscale("symlog", linthresh=LINEAR_BELOW, linscale=0.5)
        left.set_ylim(-0.1, 100)
        left.set_yticks(TICKS, [str(tick) for tick in TICKS])
        left.yaxis.set_minor_locator(NullLocator())
        right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return plot_style.save(figure, path, _note(runs))


def _draw_panel(axes: Axes, group: Sequence[DeeperRun], metric: str, shallow: str) -> None:
    """Draws one metric of the runs of a model pair."""
    variants = list(dict.fromkeys(run.variant for run in group))
    for number, variant in enumerate(variants):
        seeds = [run for run in group if run.variant == variant]
        begun = [read for run in seeds if (read := run.read()) is not None]
        label = _label(seeds[0], shallow)
        _draw_curve(axes, begun, metric, label, number, marker_shift=number / len(variants))
    models = {run.model for run in group}
    level = float(np.mean([shallow_errors(model)[metric] for model in models]))
    label_of_shallow = plot_style.label_of(shallow)
    axes.axhline(level, color="black", linestyle=(0, (5, 2)), linewidth=1.2, label=label_of_shallow)
    config = group[0].config
    for step in _boundaries(config):
        axes.axvline(step, color=plot_style.GRAY, linestyle=":", linewidth=1.0, zorder=0)
    padding = plot_style.PADDING * config.num_steps
    axes.set_xlim(-padding, config.num_steps + padding)


def _boundaries(config: ConfigDict) -> Sequence[int]:
    """Returns the steps at which the learning rate drops."""
    return config.boundaries if config.schedule == "piecewise-constant" else ()


def _label(run: DeeperRun, shallow: str) -> str:
    """Returns the origin of a run's initial weights and its learning rate, for the legend."""
    origin = shallow if run.origin == "deepened" else "random weights"
    return f"from {origin}, learning rate {run.config.learning_rate:g}"


def _draw_curve(
    axes: Axes, runs: list[Run], metric: str, label: str, number: int, marker_shift: float
) -> None:
    """Draws the mean over seeds, with a band of one standard deviation.

    `marker_shift` moves the markers by a fraction of their distance, so that overlapping curves
    can be told apart.
    """
    if not runs:
        return
    steps, mean, std = mean_and_std(runs, metric)
    style = plot_style.curve_style(number, len(steps))
    every = style["markevery"][1]
    style["markevery"] = (int(marker_shift * every), every)
    axes.plot(steps, mean, label=label, **style)
    if std.any():
        axes.fill_between(steps, mean - std, mean + std, color=style["color"], alpha=0.2, lw=0)


def _note(runs: Sequence[DeeperRun]) -> str:
    """Returns the note above the figure, with the number of finished runs if some are missing."""
    config = runs[0].config
    num_seeds = len({run.config.seed for run in runs})
    is_random = any(run.origin == "random" for run in runs)
    text = (
        f"{config.dataset.name}, {counted(config.num_steps, 'step')} from "
        f"{'random weights and from ' if is_random else ''}trained models with identity layers; "
        "dashed: the trained model; step 0: before training, running statistics, no augmentation; "
        f"axes are linear below {LINEAR_BELOW}%, logarithmic above"
    )
    if any(_boundaries(run.config) for run in runs):
        text += "; dotted: the learning rate drops"
    if num_seeds > 1:
        text += f"; mean and standard deviation of {num_seeds} seeds"
    read_runs = [run.read() for run in runs]
    num_finished = sum(run is not None and run.finished for run in read_runs)
    if num_finished < len(runs):
        text += f"; incomplete: {num_finished} of {len(runs)} runs finished"
    return text
