"""Several seeds of one run in one program: `config.num_replicas`.

Such a run keeps one state, with a leading axis for the seeds, in its checkpoints. Its metrics.jsonl
holds means over the seeds; seed N has its own config and metrics in WORKDIR/seed-N, as a run of its
own would have. With one replica nothing has that axis and there are no such directories.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

# A record of metrics whose values may be lists, one value for each seed.
StackedRecord = Mapping[str, float | list[float]]


def seeds(config: ConfigDict) -> list[int]:
    """Those that the run trains."""
    return [config.seed + i for i in range(config.num_replicas)]


def replica_runs(config: ConfigDict, workdir: Path) -> dict[Path, ConfigDict]:
    """Workdir and config of each seed; {} where there is one replica."""
    if config.num_replicas == 1:
        return {}
    configs = {}
    for seed in seeds(config):
        own = configs[workdir / f"seed-{seed}"] = config.copy_and_resolve_references()
        own.seed, own.num_replicas = seed, 1
    return configs


def mean_record(record: StackedRecord) -> dict[str, float]:
    """The record with means over the seeds."""
    means = {name: float(np.mean(value)) for name, value in record.items()}
    return means | {"step": record["step"]} if "step" in record else means


def split_record(record: StackedRecord, num_replicas: int) -> list[dict[str, float]]:
    """A record for each seed; values that are no lists are those of all."""
    return [
        {name: value[i] if isinstance(value, list) else value for name, value in record.items()}
        for i in range(num_replicas)
    ]
