"""Configs of experiments: their model, their checks, and their fields by dotted name.

Config files (`configs/`) start from `default_config()` and change the fields of their experiment.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from flaxres import durations
from flaxres.config_fields import default_config
from flaxres.config_types import check_types
from flaxres.errors import ConfigError, one_line
from flaxres.field_checks import shown
from flaxres.models.fields import FIELDS
from flaxres.suggestions import nearest_fields, suggestion

__all__ = [
    "check_config",
    "default_config",
    "default_fields",
    "directory_name",
    "flatten",
    "model_name",
    "set_model",
    "unknown_field",
]


def set_model(config: ConfigDict, model: str, stem: str = "cifar") -> ConfigDict:
    """Sets the model fields and the warm-up of a config, and returns the config.

    The warm-up of He15, section 4.2, is on for CIFAR's residual models of at least 110 layers.
    Fixup's models get a tenth of the learning rate for scalar parameters.

    Args:
      config: config of an experiment; changed in place.
      model: name of the model, such as 'plain-20', 'resnet-56' or 'resnet-56-B'
        (`flaxres.models.names`).
      stem: 'cifar' or 'imagenet', the variant of the model.

    Raises:
      ConfigError: no model has this name.
    """
    from flaxres.models.names import model_fields  # imports JAX
    from flaxres.models.nearest import model_hint

    try:
        fields = model_fields(model, stem)
    except ValueError as error:
        raise ConfigError(f"{error}{model_hint(model, stem)}") from None
    config.model.update(FIELDS)
    config.model.update(fields)
    if fields["name"] == "fixup":
        # The authors' code; otherwise fixup-56 diverges on CIFAR-10 at the learning rate 0.1.
        config.scalar_learning_rate_scale = 0.1
    is_deep = fields["name"] in ("resnet", "preact") and fields["depth"] >= 110
    starts_as_identity = fields.get("branch_scale", "none") != "none"  # needs no warm-up
    config.warmup.enabled = is_deep and stem == "cifar" and not starts_as_identity
    return config


def set_net(config: ConfigDict, net: str, stem: str = "cifar") -> ConfigDict:
    """Calls `set_model`, whose former name this is, for users' config files."""
    return set_model(config, net, stem)


def model_name(model: ConfigDict) -> str:
    """Calls `flaxres.models.names.model_name`: the name of a model, given its `config.model`."""
    from flaxres.models import names  # imports JAX

    return names.model_name(model)


net_name = model_name  # former name, for users' config files


def directory_name(config: ConfigDict) -> str:
    """Returns the name of an experiment for the name of a directory.

    Raises:
      ConfigError: it is not the name of one directory.
    """
    if "/" in config.name or config.name in (".", ".."):
        raise ConfigError(
            f"name must be one name without '/' and '..', got {shown(config.name)}; give "
            "--workdir for another directory"
        )
    return config.name


@functools.cache
def default_fields() -> Mapping[str, Any]:
    """Returns the flattened default config, which is built once; its values must not be changed."""
    return types.MappingProxyType(flatten(default_config()))


def flatten(config: ConfigDict | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields by dotted name: {'seed': 0, 'model.depth': 20, ...}.

    Args:
      config: a config, or a nested dict of the same form. Tuples become lists.
      prefix: start of every name, such as 'model.'.
    """
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def check_config(config: ConfigDict) -> None:
    """Checks everything in a config that can be checked without the data and the devices.

    Raises:
      ConfigError: a field is invalid; the message has its name, value and allowed values.
    """
    from flaxres.config_checks import check_values  # imports JAX

    durations.rename_epochs_in_config(config)
    try:
        flat = flatten(config)
    except config_dict.RequiredValueError as error:
        raise ConfigError(f"a config field has no value: {one_line(error)}") from None
    except TypeError as error:
        raise ConfigError(
            "a config field that is computed from others cannot use a duration that is text: "
            f"{one_line(error)}"
        ) from None
    defaults = flatten(default_config())
    _check_field_names(flat, defaults)
    config, flat = durations.with_stand_ins(config, flat)
    check_types(flat, defaults)
    check_values(config, flat, defaults)


def _check_field_names(flat: dict[str, Any], known: dict[str, Any]) -> None:
    for field in flat:
        if field not in known:
            raise ConfigError(unknown_field(field))
    for field in known:
        if field not in flat:
            raise ConfigError(f"config field {field!r} is missing")


def unknown_field(field: str) -> str:
    """Returns the error message for a config field that does not exist, with the closest match."""
    nearest = nearest_fields(field, flatten(default_config()))
    return f"unknown config field {field!r}{suggestion(nearest)}"
