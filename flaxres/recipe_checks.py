"""Checks of the fields of training recipes, called by `flaxres.config_checks.check_values`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from flaxres.field_checks import MAX_DECAY, FieldChecker


def check_recipe(config: ConfigDict, flat: Mapping[str, Any], fields: FieldChecker) -> None:
    """Checks the fields of recipes that have the right types, also against each other.

    Args:
      config: the config.
      flat: its fields by dotted name.
      fields: checks the fields and names them in errors.

    Raises:
      ConfigError: a field has a value that is not allowed.
    """
    _check_gradients(config, fields)
    is_decay = 0 <= flat["ema_decay"] <= MAX_DECAY
    fields.require(is_decay, "ema_decay", f"from 0 to {MAX_DECAY}")
    fields.require_default("ema_ramp", config.ema_decay > 0, "ema_decay is above 0")


def _check_gradients(config: ConfigDict, fields: FieldChecker) -> None:
    field, parts = "accumulation_steps", config.accumulation_steps
    fields.require(parts >= 1, field, "at least 1")
    divides = config.batch_size % parts == 0
    fields.require(divides, field, f"a divisor of batch_size ({config.batch_size:,})")
    if parts > 1:
        logs_no_layers = config.log_layers_every == 0
        fields.require(logs_no_layers, "log_layers_every", "0 if accumulation_steps is above 1")
    fields.require(config.sam_radius >= 0, "sam_radius", "0 or more")
