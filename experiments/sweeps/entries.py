"""Entries of a sweep file: checks of their form, their names, and overrides for all runs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxres.aliases import rename_fields
from flaxres.config import flatten, model_name
from flaxres.errors import ConfigError
from flaxres.field_checks import shown
from flaxres.overrides import read_config
from flaxres.parallel import replicas
from flaxres.suggestions import did_you_mean

Entry = dict[str, Any]  # a run in a sweep file: 'name', 'config' and 'overrides'

KEYS = ("name", "config", "overrides")
MAX_NAME_BYTES = 200  # of VARIANT; names of files that begin with it have at most 255
VARIANT = r"[\w=+-][\w.=+-]*"
SEED = r"seed-(0|[1-9][0-9]*)"


def check_entry(entry: object) -> None:
    """Checks the form of a run in a sweep file.

    Raises:
      ConfigError: it is not a dict with the name, the config and the overrides of a run.
    """
    if not isinstance(entry, dict) or {"name", "config"} - entry.keys():
        raise ConfigError(
            "a run of a sweep must be a dict with 'name', 'config' and 'overrides', "
            f"got {shown(entry)}"
        )
    name, config, overrides = entry["name"], entry["config"], entry.get("overrides", {})
    if not isinstance(name, str):
        raise ConfigError(f"the name of a run must be text, VARIANT/seed-N, got {shown(name)}")
    for key in entry:
        if key not in KEYS:
            hint = did_you_mean(str(key), KEYS)
            raise ConfigError(
                f"run {shown(name)}: unknown key {shown(key)} besides 'name', 'config' and "
                f"'overrides'{hint}"
            )
    if not isinstance(config, str):
        raise ConfigError(
            f"run {shown(name)}: the config must be a path with a model, such as "
            f"'configs/digits.py:resnet-20', got {shown(config)}"
        )
    if not isinstance(overrides, Mapping | ConfigDict) or not all(
        isinstance(key, str) for key in overrides
    ):
        raise ConfigError(
            f"run {shown(name)}: the overrides must be a dict of config fields, such as "
            f"{{'learning_rate': 0.1}}, got {shown(overrides)}"
        )


def check_name(name: str, config: ConfigDict) -> None:
    """Checks that the name of a run is a relative path of the right form, with its own seed.

    Args:
      name: the name, VARIANT/seed-N or, for several replicas, VARIANT.
      config: the checked config of the run.

    Raises:
      ConfigError: the name has another form, is too long or has the seed of another run.
    """
    has_replicas = config.num_replicas > 1
    form = "VARIANT" if has_replicas else "VARIANT/seed-N"
    match = re.fullmatch(VARIANT if has_replicas else f"{VARIANT}/{SEED}", name)
    if not match:
        because = f", as num_replicas is {config.num_replicas}" if has_replicas else ""
        raise ConfigError(
            f"the name of a run must be {form} of letters, digits and . _ = + -{because}, got "
            f"{shown(name)}"
        )
    if len(name.partition("/")[0].encode()) > MAX_NAME_BYTES:
        raise ConfigError(
            f"the name of a variant must have at most {MAX_NAME_BYTES} bytes, got {shown(name)}"
        )
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise ConfigError(
            f"the name of a run must have characters of {sys.getfilesystemencoding()}, the "
            f"encoding of this locale, got {shown(name)}; set a UTF-8 locale, e.g. LC_ALL=C.UTF-8"
        ) from None
    if not has_replicas and int(match[1]) != config.seed:
        raise ConfigError(f"run {name!r} must have the seed of its name, got seed {config.seed}")


def check_overrides(
    entries: Sequence[Entry], overrides: Mapping[str, object], seed_hint: str
) -> None:
    """Checks that overrides for all runs keep what distinguishes the runs.

    Args:
      entries: the runs of the sweep.
      overrides: overrides for all runs.
      seed_hint: where the user sets the seeds.

    Raises:
      ConfigError: an override sets the seed, the number of replicas or a field in which the runs
        of the sweep differ.
    """
    for field in ("seed", "num_replicas"):
        if field in overrides:
            raise ConfigError(
                f"--config.{field}={overrides[field]} cannot be set for all runs of a sweep: "
                f"{seed_hint}"
            )
    own_overrides = {entry["name"]: rename_fields(entry.get("overrides", {})) for entry in entries}
    for field in overrides:
        names: dict[str, str] = {}  # text of each different value -> name of its first run
        for name, fields in own_overrides.items():
            text = shown(fields[field], max_length=None) if field in fields else "no value"
            names.setdefault(text, name)
        if len(names) > 1:
            (first, first_name), (second, second_name), *_ = names.items()
            raise ConfigError(
                f"--config.{field} cannot be set for all runs, because they differ in it: the "
                f"sweep sets {first} for {first_name} and {second} for {second_name}"
            )


def check_same_model(entry: Entry, config: ConfigDict, overrides: Mapping[str, object]) -> None:
    """Checks that overrides for all runs do not turn the model of a run into another one.

    Args:
      entry: the run.
      config: its config with all overrides.
      overrides: overrides for all runs.

    Raises:
      ConfigError: the model has another name than without the overrides.
    """
    name = model_name(config.model)
    planned_name = model_name(read_config(entry["config"], entry.get("overrides", {})).model)
    if name != planned_name:
        changed = ", ".join(f"--config.{f}" for f in overrides if f.startswith("model."))
        raise ConfigError(
            f"{changed} would train {name} under the name {entry['name']} instead of "
            f"{planned_name}; choose models by their names"
        )


def check_distinct(configs: Mapping[str, ConfigDict]) -> None:
    """Checks that no two runs have the same config or the same directory.

    Args:
      configs: the config of each run by name.

    Raises:
      ConfigError: two runs are the same.
    """
    names: dict[str, str] = {}
    directories: dict[Path, str] = {}
    for name, config in configs.items():
        key = json.dumps(flatten(config), sort_keys=True)
        if key in names:
            raise ConfigError(
                f"the runs {names[key]!r} and {name!r} of the sweep have the same config; keep one "
                "of them"
            )
        names[key] = name
        for path in replicas.replica_runs(config, Path(name)) or [Path(name)]:
            if path in directories:
                raise ConfigError(
                    f"the runs {directories[path]!r} and {name!r} of the sweep have the same "
                    f"directory {path}"
                )
            directories[path] = name
