"""Types of config fields and their check, which does not import JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxres.field_checks import FieldChecker

WEIGHT_DECAY_ON = ("all", "kernels")
OPTIMIZERS = ("sgd", "adamw", "lars", "lamb")
SCHEDULES = ("piecewise-constant", "cosine", "polynomial", "one-cycle", "wsd")
COOLDOWN_SHAPES = ("1-sqrt", "linear")

# Types of the elements of tuples whose default is empty.
ELEMENT_TYPES: dict[str, type] = {
    "dataset.classes": str,
    "model.hidden": int,
    "transfer.frozen": str,
    "transfer.image_std": float,
}


def check_types(flat: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Checks that every field has the type of its default.

    Args:
      flat: fields of the config by dotted name.
      defaults: fields of the default config by dotted name.

    Raises:
      ConfigError: a value has another type, is not finite or does not fit into 64 bits.
    """
    fields = FieldChecker(flat)
    for field, default in defaults.items():
        is_filled_tuple = isinstance(default, list | tuple) and default
        first_type = type(default[0]) if is_filled_tuple else str
        fields.require_type(field, default, ELEMENT_TYPES.get(field, first_type))
