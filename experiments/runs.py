"""What the runs of an experiment left on disk: configs and metrics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from flaxres.errors import WorkdirError
from flaxres.workdir import CONFIG_FILE, differing_fields, read_config, read_info
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
        config = read_config(path.parent)
        records = read_metrics(path.parent)
        if records:
            key = tuple(config[f"model.{field}"] for field in ("name", "depth", "shortcut"))
            found.setdefault(key, []).append(
                Run(path.parent.parent.name, config, read_info(path.parent), records)
            )
    check_comparable([run.config for group in found.values() for run in group], workdir)
    if not found:
        raise WorkdirError(f"no run with metrics in {workdir}/NET/seed-N yet")
    runs = [found[key] for key in sorted(found)]
    return {same_net[0].net: same_net for same_net in runs}


def check_comparable(configs: list[dict[str, object]], workdir: Path) -> None:
    """Checks that flattened configs differ in net and seed alone.

    Raises:
      WorkdirError: with the first fields that differ otherwise.
    """
    for config in configs[1:]:
        fields = [
            field
            for field in differing_fields(configs[0], config)
            if not field.startswith(("seed", "model.", "warmup.enabled"))
        ]
        if fields:
            values = "; ".join(f"{f} is {configs[0][f]!r} and {config[f]!r}" for f in fields)
            raise WorkdirError(
                f"the runs in {workdir} are not of one experiment: {values}; "
                "choose another --workdir"
            )


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
