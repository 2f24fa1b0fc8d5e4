"""Aliases: former names of config fields, their values and flags, which still work.

Former names are accepted on command lines, in config and sweep files, and in the files of older
runs. Each is replaced by the current name, with one notice on standard error. num_epochs, which is
short for a num_steps in epochs, is replaced without a notice (`flaxres.durations`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxres.durations import expand_arguments, rename_epochs, rename_epochs_in_config
from flaxres.errors import ConfigError, print_once

# Former name of a config field -> current name.
FIELDS = {
    "augment.area": "augment.area_range",
    "augment.aspect": "augment.aspect_ratio_range",
    "augment.colour": "augment.color",
    "augment.colour_values": "augment.color_eigenvalues",
    "augment.colour_vectors": "augment.color_eigenvectors",
    "augment.short_side": "augment.short_side_range",
    "transfer.body_rate": "transfer.backbone_learning_rate_scale",
    "transfer.std": "transfer.image_std",
}
# Name of a config field -> {former value: current value}, also for elements of tuples.
VALUES = {
    "augment.crop": {"area": "random-resized"},
    "schedule": {"drops": "piecewise-constant"},
    "transfer.frozen": {"body": "backbone"},
}
# Former name of a flag -> current name.
FLAGS = {
    "deep_nets": "deep_models",
    "nets": "models",
    "protocol": "test_crops",
    "rate_factors": "learning_rate_factors",
}
# Name of a flag -> {former value: current value}.
FLAG_VALUES = {
    "crop": {"area": "random-resized"},  # of benchmarks.streaming
    "test_crops": {"centre": "center"},
}


def rename_fields(fields: Mapping[str, Any], file: Path | None = None) -> dict[str, Any]:
    """Replaces former names in a flattened config.

    Args:
      fields: values by dotted name, such as {'augment.colour': 0.1}.
      file: file of an older run that holds the fields. The user cannot change its names, so there
        is one notice for all of them, and only for the first such file. None: the user wrote the
        fields.

    Returns:
      The fields in the same order. If a field is given under both names, the last one wins.
    """
    if file is not None and (old := [field for field in fields if field in FIELDS]):
        print_once(
            f"note: {file} has former names of config fields, such as {old[0]!r} for "
            f"{FIELDS[old[0]]!r}; flaxres/aliases.py lists them",
            key="stored config",
        )
    is_stored = file is not None
    renamed = {}
    for field, value in fields.items():
        name = FIELDS.get(field, field) if is_stored else _renamed(field, FIELDS, "config field")
        renamed[name] = _renamed_value(name, value, is_stored)
    return renamed if is_stored else rename_epochs(renamed)


def rename_in_config(config: ConfigDict) -> None:
    """Replaces former names in a config from a user's config file, in place.

    Raises:
      ConfigError: a value has the wrong type.
    """
    for old, new in FIELDS.items():
        group, _, name = old.rpartition(".")
        parent = config.get(group)
        if not isinstance(parent, ConfigDict) or name not in parent:
            continue
        value = dict(parent.items(preserve_field_references=True))[name]
        try:
            with config.unlocked():
                parent[new.rpartition(".")[2]] = value  # a FieldReference keeps its links
                del parent[name]
        except (TypeError, ValueError):
            default = parent[new.rpartition(".")[2]]
            raise ConfigError(f"{new} must be like {default!r}, got {parent[name]!r}") from None
        _notice("config field", old, new)
    for field in VALUES:
        group, _, name = field.rpartition(".")
        parent = config.get(group) if group else config
        if not isinstance(parent, ConfigDict) or name not in parent:
            continue
        if (value := _renamed_value(field, parent[name])) != parent[name]:
            parent[name] = value
    rename_epochs_in_config(config)


def explain_former_field(message: str) -> str | None:
    """Explains an error of a user's config file that reads a config field by its former name.

    Args:
      message: message of the error, which quotes the last part of the name.

    Returns:
      The explanation, or None if the message quotes no former name.
    """
    for old, new in FIELDS.items():
        name = old.rpartition(".")[2]
        if f"'{name}" in message or f'"{name}"' in message:
            return f"the config field {old!r} is now called {new!r}"
    return None


def rename_in_arguments(arguments: Sequence[str]) -> list[str]:
    """Replaces former names of flags, config fields and their values on a command line.

    Args:
      arguments: arguments without the program's name, such as ['--config.augment.colour=0.1'].

    Returns:
      The arguments with current names. Arguments after '--' are left alone.
    """
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    renamed: list[str] = []
    for argument in arguments[:end]:
        previous = renamed[-1] if renamed else ""
        match = re.fullmatch(r"(--?(?:no)?)([\w.]+)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            flag = re.fullmatch(r"--?([\w.]+)", previous)  # as in "--schedule drops"
            renamed.append(_renamed_text(flag[1], argument) if flag else argument)
            continue
        dashes, name, value = match.groups()
        prefix = "config." if name.startswith("config.") else ""
        table, kind = (FIELDS, "config field") if prefix else (FLAGS, "flag")
        name = prefix + _renamed(name.removeprefix(prefix), table, kind)
        assignment = "" if value is None else f"={_renamed_text(name, value)}"
        renamed.append(f"{dashes}{name}{assignment}")
    return expand_arguments(renamed + arguments[end:])


def _renamed(name: str, table: Mapping[str, str], kind: str) -> str:
    """Returns the current name, and prints a notice if `name` is a former one."""
    if name not in table:
        return name
    _notice(kind, name, table[name])
    return table[name]


def _renamed_value(field: str, value: Any, is_stored: bool = False) -> Any:
    """Replaces a former value of a field, also within a list or tuple.

    `is_stored` is True for values of an older run, which get no notice.
    """
    table = VALUES.get(field, {})
    if isinstance(value, list | tuple):
        return type(value)(_renamed_value(field, element, is_stored) for element in value)
    if not isinstance(value, str) or value not in table:
        return value
    return table[value] if is_stored else _renamed(value, table, f"value of {field}")


def _renamed_text(name: str, text: str) -> str:
    """Replaces former values in the text that follows a flag, such as "('body',)"."""
    is_field = name.startswith("config.")
    table = VALUES.get(name.removeprefix("config."), {}) if is_field else FLAG_VALUES.get(name, {})
    if not table:
        return text
    kind = f"value of {name.removeprefix('config.')}"
    return re.sub(r"\w+", lambda word: _renamed(word[0], table, kind), text)


def _notice(kind: str, old: str, new: str) -> None:
    """Prints a notice about a former name, once per name and process."""
    print_once(f"note: the {kind} {old!r} is now called {new!r}", key=f"former name {old}")
