"""Runs of a sweep as they are on disk: configs, metrics and layer responses.

Runs are read from the workdirs where they were trained, or from a results directory. A results
directory has the same layout, but holds only small files for each run: config.json, info.json,
metrics.csv and responses.csv.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from flaxres.errors import DamagedFileError, WorkdirError, print_note
from flaxres.experiments.results.csv_files import read_metrics_csv, read_responses_csv
from flaxres.experiments.results.plan_file import FlatConfig, read_plan
from flaxres.experiments.results.run_names import check_inside, run_directories
from flaxres.files import write_atomically
from flaxres.run.checkpoint_files import CHECKPOINTS_DIRECTORY, is_complete
from flaxres.run.info_file import INFO_FILE, read_info
from flaxres.run.records import MetricColumns, read_columns
from flaxres.run.workdir import CONFIG_FILE, read_config

RESULTS_FILE = "metrics.csv"  # metrics of a run in a results directory
RESPONSES_FILE = "responses.csv"  # written by `experiments.analyses.responses`


@dataclasses.dataclass(frozen=True)
class Run:
    """A model trained with one seed, finished or not.

    Attributes:
      variant: name of the directory above seed-N: a model such as resnet-56, or the name that a
        sweep gives to a model with changed fields.
      config: fields of the config by dotted name.
      info: contents of info.json, such as params, device and versions.
      metrics: records of metrics.jsonl; at least one.
      responses: standard deviation of the response of each layer, in the order of the layers; {}
        if they have not been measured.
      has_last_checkpoint: False if there are checkpoints, but not a complete one of the last step.
    """

    variant: str
    config: FlatConfig
    info: dict[str, Any]
    metrics: MetricColumns
    responses: dict[str, float] = dataclasses.field(default_factory=dict)
    has_last_checkpoint: bool = True

    @property
    def step(self) -> int:
        """Step of the last record."""
        return int(self.metrics.steps[-1])

    @property
    def finished(self) -> bool:
        """True if the last record is that of the last step, and its checkpoint is complete."""
        return self.step == self.config["num_steps"] and self.has_last_checkpoint

    def curve(self, metric: str) -> tuple[Num[np.ndarray, " points"], Num[np.ndarray, " points"]]:
        """Returns the steps at which `metric` was recorded, and its values."""
        return self.metrics.curve(metric)

    def last(self, metric: str) -> float | None:
        """Returns the last value of `metric`, or None if it was never recorded."""
        values = self.curve(metric)[1]
        return float(values[-1]) if len(values) else None

    def train_seconds(self) -> float | None:
        """Returns the time of all steps so far, without compilation, evaluation and checkpoints.

        It is None if a record has no speed.
        """
        images = np.diff(self.metrics.steps, prepend=0) * self.config["batch_size"]
        speeds = self.curve("images_per_second")[1]
        return float(sum(images / speeds)) if len(speeds) == len(images) else None

    def images_per_second(self) -> float | None:
        """Returns the mean training speed; None if a record has no speed."""
        seconds = self.train_seconds()
        return None if seconds is None else self.step * self.config["batch_size"] / seconds


@dataclasses.dataclass(frozen=True)
class RunCollection:
    """The runs of a workdir.

    Attributes:
      runs_by_variant: runs with metrics, grouped and ordered by `group_by_variant`.
      damaged: why a run is left out, by its name; also entries of sweep.json, or that file.
    """

    runs_by_variant: dict[str, list[Run]]
    damaged: dict[str, str] = dataclasses.field(default_factory=dict)


def read_runs(workdir: Path) -> RunCollection:
    """Reads the runs in WORKDIR/VARIANT/seed-N that have at least one record.

    A run that cannot be read hides none of the others; a note on standard error names it.

    Raises:
      WorkdirError: there is no run with metrics.
    """
    runs, damaged = _read_directories(workdir)
    damaged = read_plan(workdir)[1] | damaged
    if not runs:
        reasons = "".join(f"; {name} is left out: {text}" for name, text in damaged.items())
        raise WorkdirError(f"no run with metrics in {workdir}/VARIANT/seed-N yet{reasons}")
    _note_left_out(damaged)
    return RunCollection(group_by_variant(runs), damaged)


def read_pytorch_runs(directory: Path) -> RunCollection:
    """Reads the finished runs in PyTorch, DIRECTORY/VARIANT/seed-N.

    The others are in `damaged`, with the name of the directory before theirs; a note on standard
    error names them.
    """
    runs, damaged = _read_directories(directory)
    for run in runs:
        if not run.finished:
            name = f"{run.variant}/seed-{run.config['seed']}"
            damaged[name] = f"unfinished: step {run.step:,} of {run.config['num_steps']:,}"
    damaged = {f"{directory.name}/{name}": reason for name, reason in damaged.items()}
    _note_left_out(damaged)
    return RunCollection(group_by_variant(run for run in runs if run.finished), damaged)


def _read_directories(workdir: Path) -> tuple[list[Run], dict[str, str]]:
    """Returns the runs with metrics in VARIANT/seed-N, and why others cannot be read, by name."""
    runs: list[Run] = []
    damaged: dict[str, str] = {}
    for directory in run_directories(workdir):
        try:
            check_inside(directory, workdir)
            if run := read_run(directory):
                runs.append(run)
        except DamagedFileError as error:
            damaged[str(directory.relative_to(workdir))] = str(error)
    return runs, damaged


def _note_left_out(damaged: Mapping[str, str]) -> None:
    for name, reason in damaged.items():
        print_note(f"{name} is left out: {reason}")


def find_runs(workdir: Path) -> dict[str, list[Run]]:
    """Returns the `runs_by_variant` of `read_runs`."""
    return read_runs(workdir).runs_by_variant


def group_by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Groups runs by variant: plain before residual models, by depth; seeds in rising order."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.config["seed"]):
        groups.setdefault(run.variant, []).append(run)

    def sort_key(variant: str) -> tuple[Any, ...]:
        config = groups[variant][0].config
        return *(config[f"model.{field}"] for field in ("name", "depth", "shortcut")), variant

    return {variant: groups[variant] for variant in sorted(groups, key=sort_key)}


def read_run(directory: Path, config: FlatConfig | None = None) -> Run | None:
    """Reads the run in VARIANT/seed-N; returns None if it has no metrics yet.

    Args:
      directory: directory of the run.
      config: its config, if it has been read already.

    Raises:
      DamagedFileError: a file of the run cannot be read.
    """
    config = read_config(directory) if config is None else config
    results = directory / RESULTS_FILE
    metrics = read_metrics_csv(results) if results.exists() else read_columns(directory)
    if not len(metrics):
        return None
    try:
        responses = read_responses_csv(directory / RESPONSES_FILE)
    except DamagedFileError as error:  # `experiments.analyze responses` writes the file again
        print_note(f"{error}; the file is ignored")
        responses = {}
    return Run(
        directory.parent.name,
        config,
        read_info(directory),
        metrics,
        responses,
        _has_last_checkpoint(directory, config),
    )


def _has_last_checkpoint(directory: Path, config: FlatConfig) -> bool:
    """Returns False if a run has checkpoints, but not a complete one of its last step.

    Runs of a results directory have none. Seeds trained in one program share those of their parent.
    """
    is_seed = (directory.parent / CONFIG_FILE).exists()
    path = directory.parent if is_seed else directory
    if not os.path.lexists(path / CHECKPOINTS_DIRECTORY):
        return True
    return is_complete(path, config["num_steps"])


def export_run(run: Run, directory: Path) -> None:
    """Writes config, info and metrics of a run to VARIANT/seed-N of a results directory.

    The path of the data set (dataset.data_dir), which depends on the machine, is left out.

    Raises:
      OSError: a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = _nested({**run.config, "dataset.data_dir": None})
    for name, content in ((CONFIG_FILE, config), (INFO_FILE, run.info)):
        write_atomically(directory / name, json.dumps(content, indent=1) + "\n")
    write_atomically(directory / RESULTS_FILE, "".join(_csv_lines(run.metrics)))


def _csv_lines(metrics: MetricColumns) -> Iterator[str]:
    """Yields the lines of metrics.csv, with six significant digits and whole steps."""
    yield ",".join(("step", *metrics.values)) + "\n"
    for step, *values in zip(metrics.steps, *metrics.values.values(), strict=True):
        cells = ("" if np.isnan(value) else f"{value:.6g}" for value in values)
        yield ",".join((str(step), *cells)) + "\n"


def _nested(flat: FlatConfig) -> dict[str, Any]:
    """Turns {'model.depth': 20} into {'model': {'depth': 20}}."""
    nested: dict[str, Any] = {}
    for field, value in flat.items():
        *path, name = field.split(".")
        group = nested
        for part in path:
            group = group.setdefault(part, {})
        group[name] = value
    return nested


def mean_and_std(
    runs: Sequence[Run], metric: str
) -> tuple[Num[np.ndarray, " steps"], Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """Averages a metric over runs, at each step at which any run recorded it.

    Returns:
      Steps, mean and standard deviation over the runs that recorded the metric at that step. The
      standard deviation is that of a sample (n - 1), and 0 for a single run.
    """
    curves = [run.curve(metric) for run in runs]
    steps = curves[0][0]
    if not all(np.array_equal(steps, others) for others, _ in curves):
        steps = np.array(sorted(set().union(*(others.tolist() for others, _ in curves))))
    values = np.full((len(curves), len(steps)), np.nan)
    for row, (run_steps, run_values) in zip(values, curves, strict=True):
        row[np.searchsorted(steps, run_steps)] = run_values
    counts = np.sum(~np.isnan(values), axis=0)
    mean = np.nansum(values, axis=0) / counts
    squares = np.nansum(np.square(values - mean), axis=0)
    return steps, mean, np.sqrt(squares / np.maximum(counts - 1, 1))
