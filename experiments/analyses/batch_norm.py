"""Inputs and outputs of batch norm, with batch statistics as in training and running statistics.

flaxres analyze batch_norm --workdir=runs/degradation

The analysis reports histograms of the input, the normalized input and the output of the first, the
middle and the last norm; the gap between batch and running statistics at each norm, in error and in
loss; and the learned scales and shifts. All norms of a model use the same kind of statistics, so a
deeper norm sees the effect of that choice on the layers before it. Images are not augmented,
dropout is off, and batches have the size used in training. `experiments.analyses.norms` measures
the values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float

from flaxres.errors import ConfigError, counted
from flaxres.experiments.analyses import batch_norm_figures as figures
from flaxres.experiments.analyses.base import (
    TrainedRun,
    figure_note,
    write_rows,
)
from flaxres.experiments.analyses.model_sources import ModelSource, each_measured
from flaxres.experiments.analyses.norms import (
    STATISTICS,
    NormMeasurements,
    NormVariables,
    bin_edges,
    measure_norms,
    read_norms,
)
from flaxres.experiments.analyses.progress import Advance, no_progress, progress_bar
from flaxres.experiments.results.tables import Row
from flaxres.field_checks import FieldChecker

SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the analysis.

    Attributes:
      split: split whose images are measured, 'train' or 'test'.
      images: number of images, from the start of the split; 0 for all.
    """

    split: str = "test"
    images: int = 0

    def __post_init__(self) -> None:
        check = FieldChecker(dataclasses.asdict(self))
        check.require_one_of("split", SPLITS)
        check.require(self.images >= 0, "images", "at least 0")


DEFAULT_OPTIONS = Options()


def define_flags() -> None:
    """Defines a flag for each option."""
    default = Options()
    flags.DEFINE_enum("split", default.split, SPLITS, "Split whose images are measured.")
    flags.DEFINE_integer(
        "images",
        default.images,
        "Number of images, from the start of the split; 0 for all.",
        lower_bound=0,
    )


def statistics_gap(
    norm: NormVariables,
    mean: Float[np.ndarray, " channels"],
    var: Float[np.ndarray, " channels"],
    epsilon: float,
) -> dict[str, float]:
    """Returns the moments of a norm's input after normalization by running statistics.

    Without a gap the mean is 0 and the standard deviation is 1. Epsilon is added to both variances,
    so that the standard deviation is also 1 in channels that hardly vary.

    Args:
      norm: variables of the norm, with its running statistics.
      mean: mean of the norm's input.
      var: variance of the norm's input.
      epsilon: epsilon of the norm.

    Returns:
      Over channels: average, root mean square and maximum absolute value of the mean; average, root
      mean square distance from 1, minimum and maximum of the standard deviation.
    """
    means = (mean - norm["mean"]) / np.sqrt(norm["var"] + epsilon)
    stds = np.sqrt((var + epsilon) / (norm["var"] + epsilon))
    return {
        "mean": float(np.mean(means)),
        "mean_rms": float(np.sqrt(np.mean(means**2))),
        "mean_most": float(np.max(np.abs(means))),
        "std": float(np.mean(stds)),
        "std_rms": float(np.sqrt(np.mean((stds - 1) ** 2))),
        "std_min": float(np.min(stds)),
        "std_max": float(np.max(stds)),
    }


def parameter_summary(norm: NormVariables) -> dict[str, float]:
    """Returns mean, standard deviation, minimum and maximum of a norm's scales and shifts."""
    summary: dict[str, float] = {}
    for name, values in (("scale", norm["scale"]), ("shift", norm["bias"])):
        summary |= {
            f"{name}_mean": float(np.mean(values)),
            f"{name}_std": float(np.std(values)),
            f"{name}_min": float(np.min(values)),
            f"{name}_max": float(np.max(values)),
        }
    return summary


def histogram_rows(
    norms: dict[str, NormVariables], statistics: str, measured: NormMeasurements
) -> list[Row]:
    """Returns one row for each bin of each histogram.

    The first and the last bin have no bounded width, so their density is 0.
    """
    rows: list[Row] = []
    for (name, quantity), counts in measured.histograms.items():
        edges = [-np.inf, *map(float, bin_edges(norms[name], quantity)), np.inf]
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
            row = {"layer": name, "quantity": quantity, "statistics": statistics}
            bounds = {"low": low, "high": high, "count": int(count)}
            rows.append(row | bounds | {"density": count / counts.sum() / (high - low)})
    return rows


def analyze(sources: Sequence[ModelSource], output: Path) -> list[Path]:
    """Analyzes the models with the options given by the flags and returns the files.

    Raises:
      UserError: a model has no batch norm, or a run has no checkpoint.
    """
    return analyze_runs(sources, output, Options(flags.FLAGS.split, flags.FLAGS.images))


def analyze_runs(
    sources: Sequence[ModelSource], output: Path, options: Options = DEFAULT_OPTIONS
) -> list[Path]:
    """Measures the models, writes batch_norm_*.csv and the figures, and returns the files.

    Args:
      sources: the models.
      output: directory of the files.
      options: options of the analysis.

    Raises:
      UserError: a model has no batch norm, or a run has no checkpoint.
    """
    for source in sources:  # all models are checked before the first is measured
        norm = source.config.model.norm
        if norm != "batch":
            raise ConfigError(
                f"{source}: this analysis requires a model with model.norm='batch', got {norm!r}"
            )
    runs = []
    tables: dict[str, list[Row]] = {"errors": [], "gap": [], "parameters": [], "histograms": []}
    with progress_bar(len(sources)) as advance:
        for _, run in each_measured(sources, lambda source: source.load()):
            runs.append(run)
            for table, rows in measure_run(run, options.split, advance, options.images).items():
                tables[table] += [run.columns | row for row in rows]
    files = [write_rows(rows, output / f"batch_norm_{name}.csv") for name, rows in tables.items()]
    num_images = len(getattr(runs[0].dataset, options.split))
    images = f"{options.split} images"
    if options.images:
        images = counted(min(options.images, num_images), f"{options.split} image")
    return files + figures.draw(tables, images, lambda text: figure_note(runs, text), output)


def measure_run(
    run: TrainedRun, split: str, advance: Advance = no_progress, max_images: int = 0
) -> dict[str, list[Row]]:
    """Returns the rows of one run by table: 'errors', 'gap', 'histograms' and 'parameters'.

    Args:
      run: a run whose model has batch norm.
      split: 'train' or 'test'.
      advance: called after each batch with the run's name and the share of the run that is done.
      max_images: number of images to use, from the start of the split; 0 for all.
    """
    norms, epsilon = read_norms(run), run.config.model.norm_epsilon
    size = len(getattr(run.dataset, split))
    cost = len(STATISTICS) * min(max_images or size, size)
    tables: dict[str, list[Row]] = {"errors": [], "gap": [], "histograms": []}
    for statistics in STATISTICS:
        measured = measure_norms(
            run,
            statistics,
            split,
            lambda label, images: advance(label, images / cost),
            max_images,
        )
        errors: Row = {"split": split, "statistics": statistics}
        tables["errors"].append(errors | measured.averages)
        for number, (name, norm) in enumerate(norms.items(), start=1):
            mean, var = measured.moments[name]
            row: Row = {"number": number, "layer": name, "statistics": statistics}
            tables["gap"].append(row | statistics_gap(norm, mean, var, epsilon))
        tables["histograms"] += histogram_rows(norms, statistics, measured)
    tables["parameters"] = [
        {"number": number, "layer": name, **parameter_summary(norm)}
        for number, (name, norm) in enumerate(norms.items(), start=1)
    ]
    return tables
