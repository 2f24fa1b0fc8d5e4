"""Replicas: several seeds of one run, trained together in one program (`config.num_replicas`).

The checkpoints of such a run hold one state with a leading replica axis. Its metrics.jsonl holds
means over the seeds. Each seed also has a workdir of its own, WORKDIR/seed-SEED, with the config
and metrics that a separate run would have. With one replica, the state has no such axis and there
are no such directories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

# A record of metrics. A value is a list if it differs between replicas, with one entry for each.
StackedRecord = Mapping[str, float | list[float]]


def seeds(config: ConfigDict) -> range:
    """Returns the seeds of a run, one for each replica."""
    return range(config.seed, config.seed + config.num_replicas)


def stack_replicas(values: Sequence[Any]) -> Any:
    """Stacks the values of several replicas on a leading axis; returns that of a single one."""
    return values[0] if len(values) == 1 else np.stack(values)


def replica_runs(config: ConfigDict, workdir: Path) -> dict[Path, ConfigDict]:
    """Returns the config of each replica by its workdir; {} for a run with one replica.

    Args:
      config: config of the whole run.
      workdir: directory of the whole run.
    """
    if config.num_replicas == 1:
        return {}
    configs = {}
    for seed in seeds(config):
        replica_config = config.copy_and_resolve_references()
        replica_config.seed, replica_config.num_replicas = seed, 1
        configs[workdir / f"seed-{seed}"] = replica_config
    return configs


def mean_record(record: StackedRecord) -> dict[str, float]:
    """Returns a record with every list replaced by its mean over the replicas."""
    means = {name: float(np.mean(value)) for name, value in record.items()}
    step = record.get("step")
    if step is not None and not isinstance(step, list):
        means["step"] = step  # stays an integer
    return means


def split_record(record: StackedRecord, num_replicas: int) -> list[dict[str, float]]:
    """Returns one record for each replica. Values that are not lists are the same in all of them.

    Args:
      record: record of the whole run.
      num_replicas: number of replicas.
    """
    return [
        {name: value[i] if isinstance(value, list) else value for name, value in record.items()}
        for i in range(num_replicas)
    ]
