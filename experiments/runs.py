"""What the runs of an experiment left on disk: configs and metrics."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flaxres.config import flatten, net_name
from flaxres.errors import WorkdirError
from flaxres.workdir import CONFIG_FILE, INFO_FILE
from flaxres.writers import Record, read_metrics


@dataclasses.dataclass(frozen=True)
class Run:
    """One net trained with one seed, finished or not.

    Attributes:
      net: its name, e.g. resnet-56.
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


def find_runs(workdir: Path) -> dict[str, list[Run]]:
    """Runs with at least one record below `workdir`, by net; plain before residual, by depth.

    Raises:
      WorkdirError: there is none, or their configs differ in more than net and seed.
    """
    found: dict[tuple, list[Run]] = {}
    for path in sorted(workdir.glob(f"*/seed-*/{CONFIG_FILE}")):
        config = json.loads(path.read_text())
        info_path = path.with_name(INFO_FILE)
        info = json.loads(info_path.read_text()) if info_path.exists() else {}
        records = read_metrics(path.parent)
        if records:
            model = ConfigDict(config["model"])
            run = Run(net_name(model), flatten(config), info, records)
            found.setdefault((model.name, model.depth, model.shortcut), []).append(run)
    if not found:
        raise WorkdirError(f"no run with metrics in {workdir}/NET/seed-N yet")
    runs = [found[key] for key in sorted(found)]
    return {same_net[0].net: same_net for same_net in runs}


def mean_and_std(runs: list[Run], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps that all runs have recorded, with mean and standard deviation over the runs.

    The standard deviation is that of a sample (n - 1), and 0 for a single run.
    """
    curves = [dict(zip(*run.curve(metric), strict=True)) for run in runs]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = np.array([[curve[step] for step in steps] for curve in curves])
    std = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(steps))
    return np.array(steps), values.mean(axis=0), std
