"""What the runs of an experiment left on disk: configs and metrics."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flaxres.config import net_name
from flaxres.errors import WorkdirError
from flaxres.workdir import CONFIG_FILE, differing_fields, read_config, read_info
from flaxres.writers import Record, read_metrics

PLAN_FILE = "sweep.json"  # the fields of every run that a sweep is for, by name


@dataclasses.dataclass(frozen=True)
class Run:
    """One net trained with one seed, finished or not.

    Attributes:
      net: its name, e.g. resnet-56, or that of the variant that a sweep made of it.
      config: fields by dotted name.
      info: what is known of it besides: params, device, versions.
      records: those of metrics.jsonl, by rising step; at least one.
    """

    net: str
    config: dict[str, object]
    info: dict[str, object]
    records: list[Record]

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
    found: dict[tuple, list[Run]] = {}
    for path in workdir.glob(f"*/seed-*/{CONFIG_FILE}"):
        config = read_config(path.parent)
        records = read_metrics(path.parent)
        if records:
            key = tuple(config[f"model.{field}"] for field in ("name", "depth", "shortcut"))
            net = path.parent.parent.name
            run = Run(net, config, read_info(path.parent), records)
            found.setdefault((*key, net), []).append(run)
    if not found:
        raise WorkdirError(f"no run with metrics in {workdir}/NET/seed-N yet")
    return {
        key[-1]: sorted(found[key], key=lambda run: run.config["seed"]) for key in sorted(found)
    }


def planned_runs(workdir: Path) -> dict[str, dict[str, object]]:
    """Fields of the runs that the sweep in `workdir` is for, by NET/seed-N; {} if it is no sweep.

    Raises:
      WorkdirError: the list cannot be read.
    """
    path = workdir / PLAN_FILE
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{path} cannot be read ({error}); remove it") from error


def are_nets(runs: dict[str, list[Run]]) -> bool:
    """Whether the runs differ in nothing but net and seed, and go by the names of their nets."""
    fields = ("name", "depth", "shortcut")
    for net, group in runs.items():
        model = ConfigDict({field: group[0].config[f"model.{field}"] for field in fields})
        if net != net_name(model):
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
    own = ("seed", "model.name", "model.depth", "model.shortcut", "warmup.enabled")
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
