"""What a sweep is made of: named runs, each a config file with overrides."""

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

from ml_collections import ConfigDict

from experiments.executors.base import Task
from flaxres.aliases import rename_fields, rename_in_config
from flaxres.config import check_config, flatten, unknown_field
from flaxres.data import dataset_shape
from flaxres.errors import ConfigError, UserError, one_line
from flaxres.models import create_model
from flaxres.models.layer_counts import summarize

LOG_FILE = "output.log"  # in the workdir of a run: all that it printed, and its command


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run of a sweep, checked and ready to be started.

    Attributes:
      name: its directory below that of the sweep, NAME/seed-N; runs of a name differ in the seed.
        NAME alone for a run of several replicas, which makes these directories itself.
      source: the config file and net, e.g. configs/digits.py:resnet-20.
      overrides: fields of the config by dotted name.
      config: all its fields.
    """

    name: str
    source: str
    overrides: Mapping[str, object]
    config: ConfigDict

    def task(self, workdir: Path) -> Task:
        """The command that trains it below `workdir`; anybody can run it by hand."""
        flags = [f"--config.{field}={as_flag(value)}" for field, value in self.overrides.items()]
        command = ("-m", "flaxres.main", f"--config={self.source}", *flags)
        directory = workdir.absolute() / self.name
        return Task(
            name=self.name,
            command=(sys.executable, *command, f"--workdir={directory}"),
            directory=Path.cwd(),
            log=directory / LOG_FILE,
        )

    def count(self) -> tuple[int, int]:
        """Params, and MACs of one image.

        Raises:
          DatasetError: the data set does not say how large its images are.
        """
        return _count(self.config.model.to_json(), self.config.dataset.to_json())


@functools.lru_cache
def _count(model: str, dataset: str) -> tuple[int, int]:
    shape, num_classes = dataset_shape(ConfigDict(json.loads(dataset)))
    layers = summarize(create_model(ConfigDict(json.loads(model)), num_classes), shape)
    return sum(layer.params for layer in layers), sum(layer.macs for layer in layers)


def grid(
    config: str,
    variants: Mapping[str, tuple[str, Mapping[str, object]]],
    seeds: Sequence[int],
    one_program: bool = False,
) -> list[dict[str, object]]:
    """The runs of a sweep file: every variant with every seed.

    Args:
      config: a config file, e.g. configs/digits.py.
      variants: net and overrides by the name of the variant, e.g. {'slow': ('resnet-20',
        {'learning_rate': 0.01})}.
      seeds: of each variant.
      one_program: train all seeds of a variant, which must follow one another, in one program
        (`flaxres.parallel.replicas`), which is faster for small nets.
    """
    if one_program:
        many = {"seed": seeds[0], "num_replicas": len(seeds)}
        return [
            {"name": name, "config": f"{config}:{net}", "overrides": {**overrides, **many}}
            for name, (net, overrides) in variants.items()
        ]
    return [
        {
            "name": f"{name}/seed-{seed}",
            "config": f"{config}:{net}",
            "overrides": {**overrides, "seed": seed},
        }
        for seed in seeds
        for name, (net, overrides) in variants.items()
    ]


def load_sweep(sweep: str, overrides: Mapping[str, object]) -> list[Plan]:
    """The runs that a sweep file lists.

    Args:
      sweep: FILE.py, or FILE.py:CONFIG with the config file that its `get_sweep` takes.
      overrides: of all runs, on top of their own.

    Raises:
      ConfigError: the file fails, or a run in it is not right.
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
        raise _fails("sweep", path, error) from error
    return make_plans(entries, overrides)


def make_plans(entries: Sequence[dict[str, object]], overrides: Mapping[str, object]) -> list[Plan]:
    """Checks the runs of a sweep, all of them before the first is started.

    Args:
      entries: a name, a config (FILE.py:NET) and overrides of each, as `grid` makes them.
      overrides: of all runs, on top of their own.

    Raises:
      ConfigError: with the first run that is not right, and why.
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
        both = {**rename_fields(entry.get("overrides", {})), **overrides}
        config = load_config(entry["config"], both, f"run {name!r}: ")
        form, pattern = "NAME/seed-N", r"[\w=+-][\w.=+-]*/seed-\d+"
        if config.num_replicas > 1:
            form, pattern = "NAME", r"[\w=+-][\w.=+-]*"
        if not re.fullmatch(pattern, name):
            raise ConfigError(
                f"the name of a run must be {form} of letters, digits and . _ = + -, got {name!r}"
            )
        plans[name] = Plan(name, entry["config"], both, config)
    if not plans:
        raise ConfigError("the sweep has no runs")
    return list(plans.values())


def load_config(source: str, overrides: Mapping[str, object], where: str = "") -> ConfigDict:
    """The config of FILE.py:NET with overrides, checked.

    Args:
      source: FILE.py or FILE.py:NET.
      overrides: values by dotted name.
      where: begins each error message.

    Raises:
      ConfigError: the file fails, a field does not exist, or a value is not right.
    """
    path, _, net = source.partition(":")
    module = import_file(path, "config")
    try:
        config = module.get_config(net) if net else module.get_config()
        rename_in_config(config)
        known = flatten(config)
        for field, value in rename_fields(overrides).items():
            if field not in known:
                raise ConfigError(unknown_field(field))
            try:
                config.update_from_flattened_dict({field: value})
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"{field} must be like {known[field]!r}, got {value!r}"
                ) from error
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    except UserError:
        raise
    except Exception as error:
        raise _fails("config", path, error) from error
    return config


def import_file(path: str, kind: str) -> ModuleType:
    """Runs a Python file and returns it as a module.

    Raises:
      ConfigError: it cannot be read, or fails.
    """
    if not Path(path).is_file():
        raise ConfigError(f"{kind} file {path!r} cannot be read; give a Python file")
    spec = importlib.util.spec_from_file_location(f"{kind}_file", path)
    if spec is None:
        raise ConfigError(f"{kind} file {path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _fails(kind, path, error) from error
    return module


def _fails(kind: str, path: str, error: Exception) -> ConfigError:
    text = f"{type(error).__name__}: {one_line(error, None)}"
    return ConfigError(f"{kind} file {path!r} fails: {text}")


def as_flag(value: object) -> str:
    """A value as `--config.FIELD=` reads it."""
    return repr(tuple(value)) if isinstance(value, tuple | list) else str(value)
