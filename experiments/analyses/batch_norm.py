"""What batch norm takes and gives, by batch statistics as in training and by running ones.

python -m experiments.analyze batch_norm --workdir=runs/degradation

Histograms of what the first, the middle and the last norm takes, of that normalised, and of what it
gives; the gap between the two kinds of statistics at each norm, and in error and loss; and the
learned scales and shifts. A net goes by one kind of statistics at all its norms, so deeper norms
take what that made of the images. Images are as they are, nothing is dropped, and batches are those
of training in size. The numbers: `experiments.analyses.norms`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from experiments.analyses import batch_norm_figures as figures
from experiments.analyses.base import TrainedRun, load, note, write_rows
from experiments.analyses.norms import STATISTICS, Measured, Norm, bins_of, measure, norms_of
from experiments.analyses.progress import progress
from flaxres.errors import ConfigError
from flaxres.run.workdir import read_run_config

SPLITS = ("train", "test")
Rows = list[dict[str, object]]


def define_flags() -> None:
    """The split that is looked at."""
    flags.DEFINE_enum("split", "test", SPLITS, "Images that are looked at.")


def gap_of(norm: Norm, mean: np.ndarray, var: np.ndarray, epsilon: float) -> dict[str, float]:
    """What is left after normalising by running statistics: mean 0 and std 1 if there is no gap.

    std is that of a channel plus epsilon over what it is divided by, so that it is 1 without a gap
    in channels too that hardly vary.

    Args:
      norm: with its running statistics.
      mean: of what it takes, (channels,).
      var: likewise.
      epsilon: of the norm.

    Returns:
      Over channels: mean, root mean square and largest size of the mean; mean, root mean square
      of the distance from 1, least and largest of the std.
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


def parameters_of(norm: Norm) -> dict[str, float]:
    """Mean, standard deviation, least and largest of the scales and of the shifts of a norm."""
    kinds = {"scale": norm["scale"], "shift": norm["bias"]}
    what = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
    return {f"{k}_{w}": float(f(v)) for k, v in kinds.items() for w, f in what.items()}


def histogram_rows(norms: dict[str, Norm], statistics: str, measured: Measured) -> Rows:
    """A row for each bin of each histogram, with density; those at the ends have no width."""
    rows: Rows = []
    for (name, quantity), counts in measured.histograms.items():
        edges = bins_of(norms[name], quantity)
        edges = [-np.inf, *map(float, edges), np.inf]
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
            row = {"layer": name, "quantity": quantity, "statistics": statistics}
            row |= {"low": low, "high": high, "count": int(count)}
            rows.append(row | {"density": count / counts.sum() / (high - low)})
    return rows


def analyze(directories: Sequence[Path], output: Path) -> list[Path]:
    """Measures and draws the runs on the split that the flags name; returns the files.

    Raises:
      UserError: a net without batch norm, or no checkpoint yet.
    """
    return study(directories, output, flags.FLAGS.flag_values_dict()["split"])


def study(directories: Sequence[Path], output: Path, split: str = "test") -> list[Path]:
    """Measures the runs; writes batch_norm_*.csv and the figures, and returns these.

    Args:
      directories: of runs.
      output: where the files go.
      split: train or test.

    Raises:
      UserError: a net without batch norm, or no checkpoint yet.
    """
    for directory in directories:  # all are looked at before the first is measured
        norm = read_run_config(directory).model.norm
        if norm != "batch":
            raise ConfigError(
                f"{directory}: this analysis is of nets with model.norm batch, got {norm!r}"
            )
    runs = []
    tables: dict[str, Rows] = {"errors": [], "gap": [], "parameters": [], "histograms": []}
    with progress(len(directories)) as done:
        for directory in directories:
            run = load(directory)
            runs.append(run)
            names = {"run": run.name, "net": run.net, "step": run.step}
            for table, rows in rows_of_run(run, split, done).items():
                tables[table] += [names | row for row in rows]
    files = [write_rows(rows, output / f"batch_norm_{name}.csv") for name, rows in tables.items()]
    return files + figures.draw(tables, lambda what: note(runs, what), output)


def rows_of_run(
    run: TrainedRun, split: str, done: Callable[[str, float], None] = lambda what, cost: None
) -> dict[str, Rows]:
    """The rows of one run, by table; `done` is told of the parts of one that are done."""
    norms, epsilon = norms_of(run), run.config.model.norm_epsilon
    cost = len(STATISTICS) * len(getattr(run.dataset, split))
    tables: dict[str, Rows] = {"errors": [], "gap": [], "histograms": []}
    for kind in STATISTICS:
        measured = measure(run, kind, split, lambda what, images: done(what, images / cost))
        tables["errors"].append({"split": split, "statistics": kind} | measured.averages)
        for number, (name, norm) in enumerate(norms.items(), start=1):
            row = {"number": number, "layer": name, "statistics": kind}
            tables["gap"].append(row | gap_of(norm, *measured.moments[name], epsilon))
        tables["histograms"] += histogram_rows(norms, kind, measured)
    tables["parameters"] = [
        {"number": number, "layer": name} | parameters_of(norm)
        for number, (name, norm) in enumerate(norms.items(), start=1)
    ]
    return tables
