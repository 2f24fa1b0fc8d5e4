"""Plans of a sweep: named runs, each of which is a config file with overrides."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flaxres.aliases import rename_fields
from flaxres.data import dataset_shape
from flaxres.errors import ConfigError, UserError
from flaxres.experiments.executors.base import Task
from flaxres.experiments.results.logs import LOG_FILE
from flaxres.experiments.results.tables import as_flag
from flaxres.experiments.sweeps.entries import (
    Entry,
    check_distinct,
    check_entry,
    check_name,
    check_overrides,
    check_same_model,
)
from flaxres.field_checks import shown
from flaxres.models import create_model
from flaxres.models.layer_counts import summarize
from flaxres.overrides import FieldDict, load_config
from flaxres.user_files import file_error, find_sweep, import_file


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run of a sweep, checked and ready to start.

    Attributes:
      name: directory below the workdir of the sweep, VARIANT/seed-N. For a run of several replicas
        it is VARIANT, because the run creates the directories seed-N.
      source: config file and model, such as configs/digits.py:resnet-20.
      overrides: values of config fields, by dotted name.
      config: the config with its overrides.
      flags: further flags of the command.
    """

    name: str
    source: str
    overrides: Mapping[str, object]
    config: ConfigDict
    flags: tuple[str, ...] = ()

    def task(self, workdir: Path) -> Task:
        """Returns the command that trains the run below `workdir`, which also works by hand."""
        flags = [f"--config.{field}={as_flag(value)}" for field, value in self.overrides.items()]
        flags += self.flags
        command = ("-m", "flaxres.main", f"--config={self.source}", *flags)
        directory = workdir.absolute() / self.name
        return Task(
            name=self.name,
            command=(sys.executable, *command, f"--workdir={directory}"),
            directory=Path.cwd(),
            log=directory / LOG_FILE,
        )

    def count_params_and_macs(self) -> tuple[int, int]:
        """Returns the number of parameters, and of multiply-adds in the forward pass of one image.

        Raises:
          DatasetError: the size of the images cannot be found.
        """
        return _count_params_and_macs(self.config.model.to_json(), self.config.dataset.to_json())


@functools.lru_cache
def _count_params_and_macs(model: str, dataset: str) -> tuple[int, int]:
    shape, num_classes = dataset_shape(ConfigDict(json.loads(dataset)))
    layers = summarize(create_model(ConfigDict(json.loads(model)), num_classes), shape)
    return sum(layer.params for layer in layers), sum(layer.macs for layer in layers)


def grid(
    config: str,
    variants: Mapping[str, tuple[str, FieldDict]] | Sequence[str],
    seeds: Sequence[int] = (0,),
    one_program: bool = False,
) -> list[Entry]:
    """Returns the runs of a sweep: every variant with every seed.

    Args:
      config: name or path of a config file, such as 'digits' or 'configs/digits.py'.
      variants: model and overrides of each variant, by name: {'slow': ('resnet-20',
        {'learning_rate': 0.01})}; or names of models, such as ['plain-20', 'resnet-20'].
      seeds: seeds of each variant.
      one_program: if True, one program trains all seeds of a variant, which must be consecutive
        numbers (`flaxres.parallel.replicas`). This is faster for small models.

    Raises:
      ConfigError: an argument has another type, or `one_program` is True and the seeds are not
        consecutive.
    """
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(
            "config must be the name or path of a config file, such as 'digits', got "
            f"{shown(config)}"
        )
    variants, seeds = _variants_of(variants), _seeds_of(seeds)
    if one_program:
        if not seeds or list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))):
            raise ConfigError(
                f"the seeds of one program must be consecutive, such as range(3), got {seeds!r}"
            )
        replicas = {"seed": seeds[0], "num_replicas": len(seeds)}
        return [
            {"name": name, "config": f"{config}:{model}", "overrides": {**overrides, **replicas}}
            for name, (model, overrides) in variants.items()
        ]
    return [
        {
            "name": f"{name}/seed-{seed}",
            "config": f"{config}:{model}",
            "overrides": {**overrides, "seed": seed},
        }
        for seed in seeds
        for name, (model, overrides) in variants.items()
    ]


def _variants_of(variants: object) -> Mapping[str, tuple[str, FieldDict]]:
    """Returns model and overrides by variant from the argument of `grid`."""
    if isinstance(variants, Mapping):
        if all(map(_is_variant, variants.values())):
            return variants
    elif isinstance(variants, Iterable) and not isinstance(variants, str | bytes):
        variants = list(variants)
        if all(isinstance(name, str) for name in variants):
            return {name: (name, {}) for name in variants}
    raise ConfigError(
        "variants must be names of models, such as ['resnet-20'], or a dict of models and "
        "overrides, such as {'slow': ('resnet-20', {'learning_rate': 0.01})}, got "
        f"{shown(variants)}"
    )


def _is_variant(value: object) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    return isinstance(value[0], str) and isinstance(value[1], Mapping | ConfigDict)


def _seeds_of(seeds: object) -> list[int]:
    """Returns the seeds from the argument of `grid`."""
    if isinstance(seeds, Iterable) and not isinstance(seeds, str | bytes):
        seeds = list(seeds)
        if all(isinstance(seed, int | np.integer) for seed in seeds):
            return list(map(int, seeds))
    raise ConfigError(f"seeds must be integers, such as [0, 1], got {shown(seeds)}")


def load_sweep(sweep: str, overrides: Mapping[str, object]) -> list[Plan]:
    """Loads the runs that a sweep file lists.

    Args:
      sweep: FILE.py, or FILE.py:CONFIG with the config file that is passed to its `get_sweep`. FILE
        may be a name that `find_sweep` finds.
      overrides: overrides for all runs, which take precedence over those of each run.

    Raises:
      ConfigError: the file fails, or a run in it is invalid.
    """
    path, _, config = find_sweep(sweep).partition(":")
    module = import_file(path, "sweep")
    if not hasattr(module, "get_sweep"):
        raise ConfigError(f"sweep file {path!r} has no get_sweep(); define it")
    try:
        entries = module.get_sweep(config) if config else module.get_sweep()
        if isinstance(entries, Iterable) and not isinstance(entries, str | bytes | Mapping):
            entries = list(entries)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise file_error("sweep", path, error) from error
    if not isinstance(entries, list):
        hint = "; is its return statement missing?" if entries is None else ""
        raise ConfigError(
            f"get_sweep() of sweep file {path!r} must return a list of runs, as "
            f"flaxres.experiments.sweeps.grid does, got {shown(entries)}{hint}"
        )
    return make_plans(entries, overrides, f"seeds are listed in the sweep file {path!r}")


def make_plans(
    entries: Sequence[Entry],
    overrides: Mapping[str, object],
    seed_hint: str = "each run has its own seed",
) -> list[Plan]:
    """Checks all runs of a sweep, before the first one starts.

    Args:
      entries: name, config (FILE.py:MODEL) and overrides of each run, as `grid` returns them.
      overrides: overrides for all runs, which take precedence over those of each run.
      seed_hint: where the user sets the seeds, for the error of an override of the seed.

    Raises:
      ConfigError: a run is invalid, two runs are the same, or an override would make runs equal
        that should differ; the message names the first one.
    """
    for entry in entries:
        check_entry(entry)
    # The overrides of an entry may be a ConfigDict.
    entries = [{**entry, "overrides": {**entry.get("overrides", {})}} for entry in entries]
    check_overrides(entries, overrides, seed_hint)
    plans: dict[str, Plan] = {}
    for entry in entries:
        name = entry["name"]
        if name in plans:
            raise ConfigError(f"two runs of the sweep have the name {name!r}")
        own_overrides = rename_fields(entry["overrides"])
        all_overrides = {**own_overrides, **overrides}
        config = load_config(entry["config"], all_overrides, f"run {name!r}: ")
        check_name(name, config)
        if any(field.startswith("model.") for field in overrides):
            check_same_model(entry, config, overrides)
        plans[name] = Plan(name, entry["config"], all_overrides, config)
    if not plans:
        raise ConfigError("the sweep has no runs")
    check_distinct({name: plan.config for name, plan in plans.items()})
    return list(plans.values())
