"""Test error with population statistics of batch norm, by the number of images they are taken from.

python -m experiments.analyze population --workdir=runs/degradation

Running statistics are of the last steps of training, with weights that have changed since;
population statistics are of training images with the weights of the newest checkpoint. Wu and
Johnson 2021 (arXiv 2105.07576), section 3, count how many images they take. Only the statistics
change, no weight does. See `flaxres.inference.population_statistics`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from ml_collections import ConfigDict

from experiments.analyses.base import Evaluation, TrainedRun, measure_all, note, write_rows
from experiments.results import plot_style
from flaxres.inference.population_statistics import (
    MomentAccumulator,
    check_has_statistics,
    epoch_batches,
    make_batch_statistics,
)

METRICS = {
    "error": ("population", "error (%)"),
    "loss": ("population_loss", "cross-entropy (nats)"),
}
POPULATION = plot_style.curve_style(2)
RUNNING = {"color": plot_style.COLORS[3], "linestyle": "--", "linewidth": 1.6}
BETWEEN_TICKS = 2.5  # each that has a label is so many times the one before, or more


@dataclasses.dataclass(frozen=True)
class Options:
    """How much is measured.

    Attributes:
      trials: random choices of the images.
      seed: of the choices.
    """

    trials: int = 5
    seed: int = 0


def define_flags() -> None:
    """A flag for each of the options."""
    own = Options()
    flags.DEFINE_integer("trials", own.trials, "Random choices of the images.", lower_bound=1)
    flags.DEFINE_integer("seed", own.seed, "Of the random choices.", lower_bound=0)


def image_counts(num_images: int, batch_size: int) -> list[int]:
    """Batches of one, two, four and so on, in images; and all images."""
    counts = []
    while batch_size < num_images:
        counts.append(batch_size)
        batch_size *= 2
    return [*counts, num_images]


def measure(
    run: TrainedRun, options: Options, done: Callable[[str, float], None] = lambda what, cost: None
) -> list[dict[str, object]]:
    """A row for each number of images: error in percent and loss in nats on the test split.

    In a trial the images are those of the first batches of a random order of the training split, a
    function of (seed, trial); so a larger number adds to those of a smaller one, and the order
    matters for all images too, as it says which of them make a batch.

    Args:
      run: the trained net.
      options: how much is measured.
      done: told of each trial: the run's name, and its cost in layers.

    Returns:
      Means and standard deviations (n - 1) over the trials, and the same with running statistics.

    Raises:
      ConfigError: see `flaxres.inference.population_statistics.check_has_statistics`.
    """
    batch_statistics = make_batch_statistics(run.config, run.dataset)
    evaluation = Evaluation(run, run.dataset.test)
    size, batch_size = len(run.dataset.train), run.config.batch_size
    found: dict[int, list[dict[str, float]]] = {
        count: [] for count in image_counts(size, batch_size)
    }
    for trial in range(options.trials):
        pool = MomentAccumulator()
        for number, rows in enumerate(epoch_batches(size, batch_size, options.seed, trial)):
            pool.add(batch_statistics(run.variables, rows, number), len(rows))
            if pool.count in found:
                statistics = {"batch_stats": pool.statistics()}
                found[pool.count].append(evaluation({**run.variables, **statistics}))
        done(run.name, run.config.model.depth)
    names = {"run": run.name, "net": run.net, "step": run.step}
    running = {f"running_{key}": value for key, value in evaluation(run.variables).items()}
    summaries = ({"images": count} | _summary(trials) for count, trials in found.items())
    return [names | summary | running for summary in summaries]


def _summary(trials: list[dict[str, float]]) -> dict[str, object]:
    summary: dict[str, object] = {"trials": len(trials)}
    for metric in METRICS:
        values = [trial[metric] for trial in trials]
        summary[metric] = float(np.mean(values))
        std = np.std(values, ddof=1) if len(values) > 1 else 0.0
        summary[f"{metric}_std"] = round(float(std), 9)  # of equal values it is not quite 0
    return summary


def analyze(directories: Sequence[Path], output: Path) -> list[Path]:
    """Measures and draws the runs as the flags say; returns the files.

    Raises:
      UserError: a net without such statistics, or no checkpoint yet.
    """
    values = flags.FLAGS.flag_values_dict()
    return study(directories, output, Options(values["trials"], values["seed"]))


def study(directories: Sequence[Path], output: Path, options: Options) -> list[Path]:
    """Measures the runs; writes population.csv and figures of error and loss, and returns these.

    Args:
      directories: of runs.
      output: where the files go.
      options: how much is measured.

    Raises:
      UserError: a net without such statistics, or no checkpoint yet.
    """

    def cost(config: ConfigDict) -> int:
        check_has_statistics(config)
        return config.model.depth * options.trials

    rows, runs = measure_all(directories, cost, lambda run, done: measure(run, options, done))
    files = [write_rows(rows, output / "population.csv")]
    for metric, (name, _) in METRICS.items():
        files += draw(rows, runs, options, metric, output / name)
    return files


def draw(
    rows: Sequence[dict[str, object]],
    runs: Sequence[TrainedRun],
    options: Options,
    metric: str,
    path: Path,
) -> list[Path]:
    """Draws a panel for each net; returns the files.

    Several seeds of a net make one curve: their mean, and in the bars also their spread.

    Args:
      rows: of `measure`, of all runs.
      runs: those measured.
      options: how much was measured.
      metric: error or loss.
      path: of the files, without extension.
    """
    nets = list(dict.fromkeys(run.net for run in runs))
    figure, panels = plot_style.grid(len(nets), columns=4, size=(2.7, 2.4))
    for number, (axes, net) in enumerate(zip(panels, nets, strict=True)):
        _panel(axes, [row for row in rows if row["net"] == net], metric)
        label = METRICS[metric][1] if number % 4 == 0 else ""
        plot_style.label_axes(
            axes, "training images" if number + 4 >= len(nets) else "", label, net
        )
    handles = [
        Line2D([], [], label="population statistics", **POPULATION),
        Line2D([], [], label="running statistics", **RUNNING),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    what = f"test {metric} by the images of batch norm's statistics"
    if options.trials > 1:
        what += f", mean and standard deviation of {options.trials} choices"
    return plot_style.save(figure, path, note(runs, what))


def _panel(axes: Axes, rows: Sequence[dict[str, object]], metric: str) -> None:
    by_count: dict[int, list[dict[str, object]]] = {}
    for row in rows:
        by_count.setdefault(row["images"], []).append(row)
    counts = sorted(by_count)
    mean, std = [], []
    for count in counts:
        means = [row[metric] for row in by_count[count]]
        within = [row[f"{metric}_std"] ** 2 for row in by_count[count]]
        mean.append(np.mean(means))
        std.append(np.sqrt(np.mean(within) + np.var(means)))
    axes.errorbar(counts, mean, std, capsize=2.5, elinewidth=1.0, **POPULATION)
    axes.axhline(np.mean([row[f"running_{metric}"] for row in rows]), zorder=1, **RUNNING)
    axes.set_xscale("log")
    ticks = counts[-1:]
    for count in reversed(counts):
        if count * BETWEEN_TICKS <= ticks[-1]:
            ticks.append(count)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks(counts, minor=True)
    axes.xaxis.set_minor_formatter("")
