"""Configs from FILE.py:MODEL with overrides, loaded without flags."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import TypeAlias

from ml_collections import ConfigDict

from flaxres.aliases import rename_fields, rename_in_config
from flaxres.config import flatten, unknown_field
from flaxres.config_durations import convert_durations
from flaxres.data import num_train_images
from flaxres.errors import ConfigError, UserError
from flaxres.field_checks import shown
from flaxres.user_files import call_get_config, check_is_config, file_error

# Values of fields by name; a ConfigDict is no Mapping.
FieldDict: TypeAlias = Mapping[str, object] | ConfigDict


def load_config(source: str, overrides: Mapping[str, object], prefix: str = "") -> ConfigDict:
    """Loads and checks the config of FILE.py:MODEL with overrides; durations are in steps.

    Args:
      source: FILE.py or FILE.py:MODEL.
      overrides: values of fields, by dotted name.
      prefix: text that begins each error message.

    Raises:
      ConfigError: the file fails, a field does not exist, or a value is invalid.
      DatasetError: a duration is in epochs, and the data set cannot be opened.
    """
    try:
        config = convert_durations(
            read_config(source, overrides),
            lambda dataset: _num_train_images(dataset.to_json()),
        )
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None
    return config


@functools.lru_cache
def _num_train_images(dataset: str) -> int:
    return num_train_images(ConfigDict(json.loads(dataset)))


def read_config(source: str, overrides: Mapping[str, object]) -> ConfigDict:
    """Loads the config of FILE.py:MODEL with overrides, without the checks of `check_config`.

    Args:
      source: FILE.py or FILE.py:MODEL.
      overrides: values of fields, by dotted name.

    Raises:
      ConfigError: the file fails, a field does not exist, or a value has the wrong type.
    """
    path = source.partition(":")[0]
    config = check_is_config(call_get_config(source), path)
    try:
        rename_in_config(config)
        flatten(config)
    except UserError:
        raise
    except Exception as error:  # such as a required field without a value
        raise file_error("config", path, error) from error
    override_fields(config, overrides)
    return config


def override_fields(config: ConfigDict, overrides: Mapping[str, object]) -> None:
    """Sets fields of a config, in place.

    Args:
      config: config of an experiment.
      overrides: values of fields, by dotted name.

    Raises:
      ConfigError: a field does not exist, or a value has the wrong type.
    """
    fields = flatten(config)
    for field, value in rename_fields(overrides).items():
        if field not in fields:
            raise ConfigError(unknown_field(field))
        try:
            config.update_from_flattened_dict({field: value})
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"{field} must be like {shown(fields[field])}, got {shown(value)}"
            ) from error
