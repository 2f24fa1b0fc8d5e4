"""What the runs of an experiment left on disk: configs and metrics.

They are read from the workdirs where they were trained, or from a directory of results, which
holds what is worth keeping of each in the same places: config.json, info.json, the metrics as
metrics.csv, and responses.csv.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.results.run_names import run_directories
from flaxres.aliases import rename_fields
from flaxres.config import model_name
from flaxres.errors import WorkdirError
from flaxres.models.registry import FIELDS
from flaxres.run.metric_writers import Record, read_metrics
from flaxres.run.workdir import (
    CONFIG_FILE,
    INFO_FILE,
    differing_fields,
    read_config,
    read_info,
    write_atomically,
)

RESULTS_FILE = "metrics.csv"  # in a directory of results
RESPONSES_FILE = "responses.csv"  # see `experiments.analyses.responses`
PLAN_FILE = "sweep.json"  # the fields of every run that a sweep is for, by name


@dataclasses.dataclass(frozen=True)
class Run:
    """One net trained with one seed, finished or not.

    Attributes:
      net: its name, e.g. resnet-56, or that of the variant that a sweep made of it.
      config: fields by dotted name.
      info: what is known of it besides: params, device, versions.
      records: those of metrics.jsonl, by rising step; at least one.
      responses: standard deviation of each layer's response, from the first on; {} if not known.
    """

    variant: str
    config: dict[str, object]
    info: dict[str, object]
    records: list[Record]
    responses: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """It has made all its steps."""
        return self.records[-1]["step"] == self.config["num_steps"]

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps at which `metric` was recorded, and its values."""
        points = [(r["step"], r[metric]) for r in self.records if metric in r]
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps), np.array(values)

    def last(self, metric: str) -> float | None:
        """Its last value, None if there is none."""
        values = self.curve(metric)[1]
        return float(values[-1]) if len(values) else None

    def train_seconds(self) -> float:
        """Time of all steps so far, without compilation, evaluations and checkpoints."""
        images = np.diff([r["step"] for r in self.records], prepend=0) * self.config["batch_size"]
        return float(sum(images / np.array([r["images_per_second"] for r in self.records])))

    def images_per_second(self) -> float:
        """Mean speed of training."""
        return self.records[-1]["step"] * self.config["batch_size"] / self.train_seconds()


def find_runs(workdir: Path) -> dict[str, list[Run]]:
    """Runs with at least one record in WORKDIR/NET/seed-N; plain before residual, by depth.

    Raises:
      WorkdirError: there is none, or one cannot be read.
    """
    found = [run for path in run_directories(workdir) if (run := read_run(path)) is not None]
    if not found:
        raise WorkdirError(f"no run with metrics in {workdir}/NET/seed-N yet")
    return group_by_variant(found)


def group_by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each net, by seed; plain before residual nets, by depth."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.config["seed"]):
        groups.setdefault(run.variant, []).append(run)

    def place(net: str) -> tuple:
        config = groups[net][0].config
        return *(config[f"model.{field}"] for field in ("name", "depth", "shortcut")), net

    return {net: groups[net] for net in sorted(groups, key=place)}


def read_run(directory: Path) -> Run | None:
    """The run in NET/seed-N; None if it has no metrics yet.

    Raises:
      WorkdirError: it cannot be read.
    """
    config, results = read_config(directory), directory / RESULTS_FILE
    records = _read_csv(results) if results.exists() else read_metrics(directory)
    if not records:
        return None
    path = directory / RESPONSES_FILE
    responses = {row["layer"]: row["std"] for row in _read_csv(path)} if path.exists() else {}
    return Run(directory.parent.name, config, read_info(directory), records, responses)


def _read_csv(path: Path) -> list[dict]:
    """The rows of a file of ours: numbers as such, without the empty cells.

    Raises:
      WorkdirError: it is not of that form.
    """
    rows = []
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


def export(run: Run, directory: Path) -> None:
    """Writes what is worth keeping of a run to `directory`, NET/seed-N of a directory of results.

    The place of the data set on this machine is left out.

    Raises:
      OSError: it cannot be written.
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


def _nested(flat: dict[str, object]) -> dict[str, object]:
    """{'model.depth': 20} as {'model': {'depth': 20}}."""
    nested: dict = {}
    for field, value in flat.items():
        *path, name = field.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[name] = value
    return nested


def planned_runs(workdir: Path) -> dict[str, dict[str, object]]:
    """Fields of the runs that the sweep in `workdir` is for, by NET/seed-N; {} if it is no sweep.

    Raises:
      WorkdirError: the list cannot be read.
    """
    path = workdir / PLAN_FILE
    try:
        planned = json.loads(path.read_text())
        return {name: rename_fields(fields) for name, fields in planned.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{path} cannot be read ({error}); remove it") from error


def are_nets(runs: dict[str, list[Run]]) -> bool:
    """Whether the runs are of plain and residual nets, go by their names, and differ in no more."""
    for net, group in runs.items():
        model = ConfigDict(
            {field: group[0].config[f"model.{field}"] for field in ("name", *FIELDS)}
        )
        if model.name not in ("plain", "resnet") or net != model_name(model):
            return False
    configs = [run.config for group in runs.values() for run in group]
    return not any(_differences(configs[0], config) for config in configs)


def check_comparable(configs: list[dict[str, object]], workdir: Path) -> None:
    """Checks that flattened configs differ in net and seed alone.

    Raises:
      WorkdirError: with the first fields that differ otherwise.
    """
    for config in configs[1:]:
        if fields := _differences(configs[0], config):
            values = "; ".join(f"{f} is {configs[0][f]!r} and {config[f]!r}" for f in fields)
            raise WorkdirError(
                f"the runs in {workdir} are not of one experiment: {values}; "
                "choose another --workdir"
            )


def _differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Fields in which two configs differ, but for those that make the net and the seed."""
    own = ("seed", "model.name", "model.depth", "model.block", "model.shortcut", "warmup.enabled")
    return [field for field in differing_fields(one, other) if field not in own]


def mean_and_std(runs: list[Run], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps with a record in any run, with mean and standard deviation over those that have one.

    The standard deviation is that of a sample (n - 1), and 0 where there is a single run.
    """
    curves = [dict(zip(*run.curve(metric), strict=True)) for run in runs]
    steps = sorted(set().union(*curves))
    values = [[curve[step] for curve in curves if step in curve] for step in steps]
    mean = np.array([np.mean(v) for v in values])
    std = np.array([np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values])
    return np.array(steps), mean, std
