"""Runs that can be compared with each other, because they differ only in model and seed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from flaxres.config import model_name
from flaxres.errors import WorkdirError
from flaxres.experiments.results.plan_file import FlatConfig
from flaxres.experiments.results.runs import Run
from flaxres.models.fields import FIELDS
from flaxres.run.workdir import differing_fields

# Names of plain and residual models. A check of the config follows, which imports JAX.
DEGRADATION_MODEL = re.compile(r"(plain|resnet)-\d+(-(basic|bottleneck))?(-[A-Za-z]+)?")

# Fields that may differ between the runs of one comparison: they select the model and the seed.
COMPARED_FIELDS = (
    *("seed", "warmup.enabled"),
    *("model.name", "model.depth", "model.block", "model.shortcut"),
)


def is_degradation_experiment(runs: Mapping[str, Sequence[Run]]) -> bool:
    """Returns True if the runs are plain and residual models that differ only in model and seed.

    Variants must also have the names of their models, such as plain-56 and resnet-20-B.
    """
    if not all(DEGRADATION_MODEL.fullmatch(variant) for variant in runs):
        return False
    for variant, group in runs.items():
        model = ConfigDict(
            {field: group[0].config[f"model.{field}"] for field in ("name", "norm", *FIELDS)}
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
