"""Runs of a sweep as they are on disk: configs, metrics and layer responses.

Runs are read from the workdirs where they were trained, or from a results directory. A results
directory has the same layout, but holds only small files for each run: config.json, info.json,
metrics.csv and responses.csv.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num
from ml_collections import ConfigDict

from experiments.results.run_names import run_directories
from flaxres.aliases import rename_fields
from flaxres.config import model_name
from flaxres.errors import WorkdirError
from flaxres.files import write_atomically
from flaxres.models.registry import FIELDS
from flaxres.run.checkpoint_files import CHECKPOINTS_DIRECTORY, is_complete
from flaxres.run.metric_writers import Record, read_metrics
from flaxres.run.workdir import (
    CONFIG_FILE,
    INFO_FILE,
    differing_fields,
    read_config,
    read_info,
)

FlatConfig = dict[str, Any]  # fields of a config by dotted name, such as 'model.depth'

RESULTS_FILE = "metrics.csv"  # metrics of a run in a results directory
RESPONSES_FILE = "responses.csv"  # written by `experiments.analyses.responses`
PLAN_FILE = "sweep.json"  # configs of all planned runs of a sweep, by run name

# Fields that may differ between the runs of one comparison: they select the model and the seed.
COMPARED_FIELDS = (
    *("seed", "warmup.enabled"),
    *("model.name", "model.depth", "model.block", "model.shortcut"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A model trained with one seed, finished or not.

    Attributes:
      variant: name of the directory above seed-N: a model such as resnet-56, or the name that a
        sweep gives to a model with changed fields.
      config: fields of the config by dotted name.
      info: contents of info.json, such as params, device and versions.
      records: records of metrics.jsonl by rising step; at least one.
      responses: standard deviation of the response of each layer, in the order of the layers; {}
        if they have not been measured.
      has_last_checkpoint: False if there are checkpoints, but not a complete one of the last step.
    """

    variant: str
    config: FlatConfig
    info: dict[str, Any]
    records: list[Record]
    responses: dict[str, float] = dataclasses.field(default_factory=dict)
    has_last_checkpoint: bool = True

    @property
    def finished(self) -> bool:
        """True if the last record is that of the last step, and its checkpoint is complete."""
        return self.records[-1]["step"] == self.config["num_steps"] and self.has_last_checkpoint

    def curve(self, metric: str) -> tuple[Num[np.ndarray, " points"], Num[np.ndarray, " points"]]:
        """Returns the steps at which `metric` was recorded, and its values."""
        points = [(r["step"], r[metric]) for r in self.records if metric in r]
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps), np.array(values)

    def last(self, metric: str) -> float | None:
        """Returns the last value of `metric`, or None if it was never recorded."""
        values = self.curve(metric)[1]
        return float(values[-1]) if len(values) else None

    def train_seconds(self) -> float:
        """Returns the time of all steps so far, without compilation, evaluation and checkpoints."""
        images = np.diff([r["step"] for r in self.records], prepend=0) * self.config["batch_size"]
        return float(sum(images / np.array([r["images_per_second"] for r in self.records])))

    def images_per_second(self) -> float:
        """Returns the mean training speed."""
        return self.records[-1]["step"] * self.config["batch_size"] / self.train_seconds()


def find_runs(workdir: Path) -> dict[str, list[Run]]:
    """Reads the runs in WORKDIR/VARIANT/seed-N that have at least one record.

    Returns:
      Runs grouped and ordered by `group_by_variant`.

    Raises:
      WorkdirError: there is no run with metrics, or a run cannot be read.
    """
    runs = [run for path in run_directories(workdir) if (run := read_run(path)) is not None]
    if not runs:
        raise WorkdirError(f"no run with metrics in {workdir}/VARIANT/seed-N yet")
    return group_by_variant(runs)


def group_by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Groups runs by variant: plain before residual models, by depth; seeds in rising order."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.config["seed"]):
        groups.setdefault(run.variant, []).append(run)

    def sort_key(variant: str) -> tuple[Any, ...]:
        config = groups[variant][0].config
        return *(config[f"model.{field}"] for field in ("name", "depth", "shortcut")), variant

    return {variant: groups[variant] for variant in sorted(groups, key=sort_key)}


def read_run(directory: Path) -> Run | None:
    """Reads the run in VARIANT/seed-N; returns None if it has no metrics yet.

    Raises:
      WorkdirError: a file of the run cannot be read.
    """
    config, results = read_config(directory), directory / RESULTS_FILE
    records = _read_csv(results) if results.exists() else read_metrics(directory)
    if not records:
        return None
    path = directory / RESPONSES_FILE
    responses = {row["layer"]: row["std"] for row in _read_csv(path)} if path.exists() else {}
    return Run(
        directory.parent.name,
        config,
        read_info(directory),
        records,
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


def _read_csv(path: Path) -> list[dict[str, Any]]:
    """Reads metrics.csv or responses.csv: numbers as float, without the empty cells.

    Raises:
      WorkdirError: a cell is not a number, or a row has neither a layer nor a step.
    """
    rows: list[dict[str, Any]] = []
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file, strict=True):
                rows.append({k: v if k == "layer" else float(v) for k, v in row.items() if v != ""})
                rows[-1].get("layer") or rows[-1]["step"] + 0
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise WorkdirError(
            f"{path}, line {len(rows) + 2}, cannot be read ({error}); restore the file"
        ) from None
    return rows


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
    fields = dict.fromkeys(field for record in run.records for field in record)
    lines = [",".join(fields)]
    for record in run.records:
        cells = (f"{record[field]:.6g}" if field in record else "" for field in fields)
        lines.append(",".join(cells))
    write_atomically(directory / RESULTS_FILE, "\n".join(lines) + "\n")


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


def planned_runs(workdir: Path) -> dict[str, FlatConfig]:
    """Reads the configs of all planned runs of a sweep, by run name; {} without a sweep.json.

    Raises:
      WorkdirError: sweep.json cannot be read.
    """
    path = workdir / PLAN_FILE
    try:
        planned = json.loads(path.read_text())
        return {name: rename_fields(fields, path) for name, fields in planned.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{path} cannot be read ({error}); remove it") from error


def is_degradation_experiment(runs: Mapping[str, Sequence[Run]]) -> bool:
    """Returns True if the runs are plain and residual models that differ only in model and seed.

    Variants must also have the names of their models, such as plain-56 and resnet-20-B.
    """
    for variant, group in runs.items():
        model = ConfigDict(
            {field: group[0].config[f"model.{field}"] for field in ("name", *FIELDS)}
        )
        if model.name not in ("plain", "resnet") or variant != model_name(model):
            return False
    configs = [run.config for group in runs.values() for run in group]
    return not any(_uncompared_differences(configs[0], config) for config in configs)


def check_comparable(configs: Sequence[FlatConfig], workdir: Path) -> None:
    """Checks that flattened configs differ only in model and seed.

    Raises:
      WorkdirError: two configs differ in other fields, which the message lists.
    """
    for config in configs[1:]:
        if fields := _uncompared_differences(configs[0], config):
            values = "; ".join(f"{f} is {configs[0][f]!r} and {config[f]!r}" for f in fields)
            raise WorkdirError(
                f"the runs in {workdir} belong to different experiments: {values}; "
                "choose another --workdir"
            )


def _uncompared_differences(config: FlatConfig, other: FlatConfig) -> list[str]:
    return [field for field in differing_fields(config, other) if field not in COMPARED_FIELDS]


def mean_and_std(
    runs: Sequence[Run], metric: str
) -> tuple[Num[np.ndarray, " steps"], Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """Averages a metric over runs, at each step at which any run recorded it.

    Returns:
      Steps, mean and standard deviation over the runs that recorded the metric at that step. The
      standard deviation is that of a sample (n - 1), and 0 for a single run.
    """
    curves = [dict(zip(*run.curve(metric), strict=True)) for run in runs]
    steps = sorted(set().union(*curves))
    values = [[curve[step] for curve in curves if step in curve] for step in steps]
    mean = np.array([np.mean(v) for v in values])
    std = np.array([np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values])
    return np.array(steps), mean, std
