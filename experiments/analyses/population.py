"""Test error with population statistics of batch norm, against the number of images they use.

flaxres analyze population --workdir=runs/degradation

Running statistics average over the last training steps, whose weights differ from the final ones.
Population statistics are recomputed from training images with the weights of the newest checkpoint
(`flaxres.inference.population_statistics`). Wu and Johnson 2021 (arXiv 2105.07576), section 3, ask
how many images they need. The weights do not change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from ml_collections import ConfigDict

from flaxres.experiments.analyses.base import (
    Evaluation,
    TrainedRun,
    figure_note,
    write_rows,
)
from flaxres.experiments.analyses.model_sources import ModelSource, measure_runs
from flaxres.experiments.analyses.progress import Advance, no_progress
from flaxres.experiments.analyses.trials import mean_over_seeds, sample_std
from flaxres.experiments.results import plot_style
from flaxres.experiments.results.plot_style import CurveStyle
from flaxres.experiments.results.tables import Row
from flaxres.field_checks import FieldChecker
from flaxres.inference.population_statistics import (
    MomentAccumulator,
    check_has_statistics,
    epoch_batches,
    make_batch_statistics,
)

# Metric -> (name of the figure, label of the y axis).
METRICS = {
    "error": ("population", "error (%)"),
    "loss": ("population_loss", "cross-entropy (nats)"),
}
COLUMNS = 4  # panels in a row
POPULATION_STYLE = plot_style.curve_style(2)
RUNNING_STYLE: CurveStyle = {
    "color": plot_style.COLORS[3],
    "linestyle": "--",
    "linewidth": 1.6,
}
MIN_TICK_RATIO = 2.5  # smallest ratio between neighboring ticks with a label
MAX_TICKS = 4  # labels of a panel


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the analysis.

    Attributes:
      trials: number of random choices of the images.
      seed: seed of the random choices.
      images: number of test images, from the start of the split; 0 for all.
      train_images: largest number of training images of the statistics; 0 for all.
    """

    trials: int = 5
    seed: int = 0
    images: int = 0
    train_images: int = 0

    def __post_init__(self) -> None:
        check = FieldChecker(dataclasses.asdict(self))
        check.require(self.trials >= 1, "trials", "at least 1")
        check.require(self.seed >= 0, "seed", "at least 0")
        check.require(self.images >= 0, "images", "at least 0")
        check.require(self.train_images >= 0, "train_images", "at least 0")


def define_flags() -> None:
    """Defines a flag for each option."""
    default = Options()
    flags.DEFINE_integer(
        "trials", default.trials, "Number of random samples of training images.", lower_bound=1
    )
    flags.DEFINE_integer("seed", default.seed, "Seed of the random choices.", lower_bound=0)
    flags.DEFINE_integer(
        "images",
        default.images,
        "Number of test images, from the start of the split; 0 for all.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "train_images",
        default.train_images,
        "Largest number of training images for the statistics, e.g. 8192; 0 for all.",
        lower_bound=0,
    )


def image_counts(num_images: int, batch_size: int) -> list[int]:
    """Returns the numbers of images to measure: one batch, two, four, ..., and `num_images`."""
    counts = []
    while batch_size < num_images:
        counts.append(batch_size)
        batch_size *= 2
    return [*counts, num_images]


def measure(run: TrainedRun, options: Options, advance: Advance = no_progress) -> list[Row]:
    """Returns one row for each number of images, with error in percent and loss in nats.

    A trial uses the first batches of a random order of the training split, which is a function of
    (seed, trial). A larger number of images therefore includes the images of a smaller one. Trials
    also differ when all images are used, because the order decides which images share a batch.

    Args:
      run: the run to measure.
      options: options of the analysis.
      advance: called after each trial with the run's name and the number of layers.

    Returns:
      Rows with means and standard deviations (n - 1) over the trials on the test split, and the
      same metrics with running statistics.

    Raises:
      ConfigError: the model's norm has no statistics, or the run has several replicas.
    """
    batch_statistics = make_batch_statistics(run.config, run.dataset)
    evaluation = Evaluation(run, run.dataset.test, max_images=options.images)
    size, batch_size = len(run.dataset.train), run.config.batch_size
    max_count = min(options.train_images or size, size)
    metrics: dict[int, list[dict[str, float]]] = {
        count: [] for count in image_counts(max_count, batch_size)
    }
    for trial in range(options.trials):
        accumulator = MomentAccumulator()
        for number, rows in enumerate(epoch_batches(size, batch_size, options.seed, trial)):
            if accumulator.count == max_count:
                break
            rows = rows[: max_count - accumulator.count]
            accumulator.add(batch_statistics(run.variables, rows, number), len(rows))
            if accumulator.count in metrics:
                statistics = {"batch_stats": accumulator.statistics()}
                metrics[accumulator.count].append(evaluation({**run.variables, **statistics}))
        advance(run.name, run.config.model.depth)
    running = {f"running_{key}": value for key, value in evaluation(run.variables).items()}
    return [
        run.columns | {"images": count} | _summarize(trials) | running
        for count, trials in metrics.items()
    ]


def _summarize(trials: list[dict[str, float]]) -> Row:
    summary: Row = {"trials": len(trials)}
    for metric in METRICS:
        values = [trial[metric] for trial in trials]
        summary[metric] = float(np.mean(values))
        summary[f"{metric}_std"] = sample_std(values)
    return summary


def analyze(sources: Sequence[ModelSource], output: Path) -> list[Path]:
    """Analyzes the models with the options given by the flags and returns the files.

    Raises:
      UserError: a model's norm has no statistics, or a run has no checkpoint.
    """
    values = flags.FLAGS
    options = Options(values.trials, values.seed, values.images, values.train_images)
    return analyze_runs(sources, output, options)


def analyze_runs(sources: Sequence[ModelSource], output: Path, options: Options) -> list[Path]:
    """Measures the models, writes population.csv and figures of error and loss, returns the files.

    Args:
      sources: the models.
      output: directory of the files.
      options: options of the analysis.

    Raises:
      UserError: a model's norm has no statistics, or a run has no checkpoint.
    """

    def cost(config: ConfigDict) -> int:
        check_has_statistics(config)
        return config.model.depth * options.trials

    rows, runs = measure_runs(sources, cost, lambda run, advance: measure(run, options, advance))
    files = [write_rows(rows, output / "population.csv")]
    for metric, (name, _) in METRICS.items():
        files += draw(rows, runs, options, metric, output / name)
    return files


def draw(
    rows: Sequence[Row], runs: Sequence[TrainedRun], options: Options, metric: str, path: Path
) -> list[Path]:
    """Draws one metric, with a panel for each model.

    The seeds of a model share a curve: their mean, with error bars for the spread over trials and
    seeds.

    Args:
      rows: rows of all runs, as returned by `measure`.
      runs: the measured runs.
      options: options of the analysis.
      metric: 'error' or 'loss'.
      path: path of the files, without extension.

    Returns:
      The paths of the files.
    """
    variants = list(dict.fromkeys(run.variant for run in runs))
    figure, panels = plot_style.grid(len(variants), columns=COLUMNS, size=(2.7, 2.4))
    for number, (axes, variant) in enumerate(zip(panels, variants, strict=True)):
        _draw_panel(axes, [row for row in rows if row["net"] == variant], metric)
        xlabel = "training images" if number + COLUMNS >= len(variants) else ""
        ylabel = METRICS[metric][1] if number % COLUMNS == 0 else ""
        plot_style.label_axes(axes, xlabel, ylabel, variant)
    handles = [
        Line2D([], [], label="population statistics", **POPULATION_STYLE),
        Line2D([], [], label="running statistics", **RUNNING_STYLE),
    ]
    columns = min(len(variants), 2)  # one panel has no room for both
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    num_images = len(runs[0].dataset.test)
    text = (
        f"{metric} on {min(options.images or num_images, num_images):,} test images against the "
        "number of images used for the population statistics"
    )
    if options.trials > 1:
        text += f", mean of {options.trials} random choices; bars: standard deviation"
    if len(variants) > 1:
        text += "; each panel has its own vertical scale"
    return plot_style.save(figure, path, figure_note(runs, text))


def _draw_panel(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    counts, mean, std = mean_over_seeds(rows, "images", metric)
    axes.errorbar(counts, mean, std, capsize=2.5, elinewidth=1.0, **POPULATION_STYLE)
    running = float(np.mean([row[f"running_{metric}"] for row in rows]))
    axes.axhline(running, zorder=1, **RUNNING_STYLE)
    axes.set_xscale("log")
    ticks = counts[-1:]
    ratio = max(MIN_TICK_RATIO, (counts[-1] / counts[0]) ** (1 / (MAX_TICKS - 1)))
    for count in reversed(counts):
        if count * ratio <= ticks[-1]:
            ticks.append(count)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks(counts, minor=True)
    axes.xaxis.set_minor_formatter("")
