"""Plans of a sweep: named runs, each of which is a config file with overrides."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from experiments.executors.base import Task
from flaxres.aliases import rename_fields, rename_in_config
from flaxres.config import check_config, flatten, unknown_field
from flaxres.data import dataset_shape
from flaxres.errors import ConfigError, UserError, one_line
from flaxres.models import create_model
from flaxres.models.layer_counts import summarize

Entry = dict[str, Any]  # a run in a sweep file: 'name', 'config' and 'overrides'

LOG_FILE = "output.log"  # in the workdir of a run: its command and everything that it prints


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
    variants: Mapping[str, tuple[str, Mapping[str, object]]],
    seeds: Sequence[int],
    one_program: bool = False,
) -> list[Entry]:
    """Returns the runs of a sweep file: every variant with every seed.

    Args:
      config: path of a config file, such as configs/digits.py.
      variants: model and overrides of each variant, by name: {'slow': ('resnet-20',
        {'learning_rate': 0.01})}.
      seeds: seeds of each variant.
      one_program: if True, one program trains all seeds of a variant, which must be consecutive
        numbers (`flaxres.parallel.replicas`). This is faster for small models.
    """
    if one_program:
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


def load_sweep(sweep: str, overrides: Mapping[str, object]) -> list[Plan]:
    """Loads the runs that a sweep file lists.

    Args:
      sweep: FILE.py, or FILE.py:CONFIG with the config file that is passed to its `get_sweep`.
      overrides: overrides for all runs, which take precedence over those of each run.

    Raises:
      ConfigError: the file fails, or a run in it is invalid.
    """
    path, _, config = sweep.partition(":")
    module = import_file(path, "sweep")
    if not hasattr(module, "get_sweep"):
        raise ConfigError(f"sweep file {path!r} has no get_sweep()")
    try:
        entries = module.get_sweep(config) if config else module.get_sweep()
    except UserError:
        raise
    except Exception as error:
        raise _file_error("sweep", path, error) from error
    return make_plans(entries, overrides)


def make_plans(entries: Sequence[Entry], overrides: Mapping[str, object]) -> list[Plan]:
    """Checks all runs of a sweep, before the first one starts.

    Args:
      entries: name, config (FILE.py:MODEL) and overrides of each run, as `grid` returns them.
      overrides: overrides for all runs, which take precedence over those of each run.

    Raises:
      ConfigError: a run is invalid; the message names the first one.
    """
    plans: dict[str, Plan] = {}
    for entry in entries:
        if not isinstance(entry, dict) or {"name", "config"} - entry.keys():
            raise ConfigError(
                f"a run of a sweep must be a dict with 'name', 'config' and 'overrides', "
                f"got {entry!r}"
            )
        name = entry["name"]
        if name in plans:
            raise ConfigError(f"two runs of the sweep have the name {name!r}")
        all_overrides = {**rename_fields(entry.get("overrides", {})), **overrides}
        config = load_config(entry["config"], all_overrides, f"run {name!r}: ")
        form, pattern = "VARIANT/seed-N", r"[\w=+-][\w.=+-]*/seed-\d+"
        if config.num_replicas > 1:
            form, pattern = "VARIANT", r"[\w=+-][\w.=+-]*"
        if not re.fullmatch(pattern, name):
            raise ConfigError(
                f"the name of a run must be {form} of letters, digits and . _ = + -, got {name!r}"
            )
        plans[name] = Plan(name, entry["config"], all_overrides, config)
    if not plans:
        raise ConfigError("the sweep has no runs")
    return list(plans.values())


def load_config(source: str, overrides: Mapping[str, object], prefix: str = "") -> ConfigDict:
    """Loads and checks the config of FILE.py:MODEL with overrides.

    Args:
      source: FILE.py or FILE.py:MODEL.
      overrides: values of fields, by dotted name.
      prefix: text that begins each error message.

    Raises:
      ConfigError: the file fails, a field does not exist, or a value is invalid.
    """
    path, _, model = source.partition(":")
    module = import_file(path, "config")
    try:
        config = module.get_config(model) if model else module.get_config()
        rename_in_config(config)
        fields = flatten(config)
        for field, value in rename_fields(overrides).items():
            if field not in fields:
                raise ConfigError(unknown_field(field))
            try:
                config.update_from_flattened_dict({field: value})
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"{field} must be like {fields[field]!r}, got {value!r}"
                ) from error
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None
    except UserError:
        raise
    except Exception as error:
        raise _file_error("config", path, error) from error
    return config


def import_file(path: str, kind: str) -> ModuleType:
    """Runs a Python file and returns it as a module.

    Args:
      path: path of the file.
      kind: kind of the file for messages, 'config' or 'sweep'.

    Raises:
      ConfigError: the file cannot be read, or fails.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{kind} file {path!r} cannot be read; give a Python file")
    spec = importlib.util.spec_from_file_location(f"{kind}_file", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{kind} file {path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _file_error(kind, path, error) from error
    return module


def _file_error(kind: str, path: str, error: Exception) -> ConfigError:
    text = f"{type(error).__name__}: {one_line(error, None)}"
    return ConfigError(f"{kind} file {path!r} fails: {text}")


def as_flag(value: object) -> str:
    """Formats a value for a flag --config.FIELD=VALUE."""
    return repr(tuple(value)) if isinstance(value, tuple | list) else str(value)
