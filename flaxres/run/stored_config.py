"""Configs in files of runs and weights: JSON objects, read into a `ConfigDict`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flaxres.aliases import rename_fields
from flaxres.config import check_config, default_config, default_fields
from flaxres.errors import ConfigError, DamagedFileError, one_line
from flaxres.run.schemas import (
    REQUIRED_CONFIG_FIELDS,
    check_config_fields,
    check_object,
    require_fields,
)


def stored_fields(stored: object, path: Path) -> dict[str, Any]:
    """Returns the fields of a stored config by dotted name, under their current names.

    Fields that were added after the config was stored get their defaults, which describe how the
    run was trained.

    Args:
      stored: the config, decoded from JSON.
      path: the file that holds it, for messages.

    Raises:
      DamagedFileError: it is no config, or a field has a wrong type.
    """
    fields = rename_fields(_flatten_stored(check_object(stored, str(path))), path)
    check_config_fields(fields, str(path))
    require_fields(fields, REQUIRED_CONFIG_FIELDS, str(path))
    return copy.deepcopy(dict(default_fields())) | fields


def _flatten_stored(stored: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a stored config; in contrast to `flatten`, keeps empty objects as values."""
    flat: dict[str, Any] = {}
    for key, value in stored.items():
        if isinstance(value, dict) and value:
            flat |= _flatten_stored(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def make_config(fields: Mapping[str, Any], path: Path) -> ConfigDict:
    """Returns the config with the fields that `stored_fields` returns.

    Args:
      fields: values by dotted name.
      path: the file that holds them, for messages.

    Raises:
      DamagedFileError: they are no valid config.
    """
    config = default_config()
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    try:
        config.update_from_flattened_dict(tuples)
        check_config(config)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        hint = ""
        if "model.name must be one of" in str(error):
            hint = "; a family that a config file adds needs --config with that file"
        raise DamagedFileError(f"{path} is not a valid config: {one_line(error)}{hint}") from error
    return config
