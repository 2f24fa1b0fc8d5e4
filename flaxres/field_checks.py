"""Checks of config fields that share one form of error message: FIELD must be RULE, got VALUE."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from flaxres.errors import ConfigError
from flaxres.suggestions import did_you_mean

MAX_INT64 = 2**63 - 1
MAX_FLOAT32 = 3.4028234663852886e38  # fields are used in float32
MAX_DECAY = 0.9999999  # a decay closer to 1 is 1 in float32, so that nothing decays
MAX_SHOWN = 100  # characters of a value in a message
MAX_TEXT = 4_096  # characters; the longest path of Linux has as many bytes
MAX_ELEMENTS = 100_000  # of a list; ImageNet-21k has 21,841 class names

TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
TUPLE_NAMES = {
    int: "integers, such as (1, 2)",
    float: "numbers, such as (0.1, 0.2)",
    str: "names, such as ('a', 'b')",
}


class FieldChecker:
    """Checks config fields; errors have the field's name, value and allowed values."""

    def __init__(self, fields: Mapping[str, object], defaults: Mapping[str, object] | None = None):
        """Stores values by dotted name.

        Args:
          fields: values of the fields, such as {'model.depth': 20}.
          defaults: their defaults, which only `require_default` reads.
        """
        self._fields = fields
        self._defaults = defaults or {}

    def require(self, condition: bool, field: str, rule: str) -> None:
        """Checks a condition on a field.

        Args:
          condition: True if the value is allowed.
          field: dotted name, such as 'model.depth'.
          rule: the allowed values, in words that follow "must be".

        Raises:
          ConfigError: the condition is False.
        """
        if not condition:
            raise ConfigError(f"{field} must be {rule}, got {shown(self._fields[field])}")

    def require_default(self, field: str, is_read: bool, condition: str) -> None:
        """Checks that a field that nothing reads has its default, so that no value has no effect.

        Args:
          field: dotted name, such as 'momentum'.
          is_read: True if the field is read.
          condition: when it is read, in words that follow "unless".

        Raises:
          ConfigError: the field is not read and has another value.
        """
        default = self._defaults[field]
        shown_default = tuple(default) if isinstance(default, list) else default
        is_allowed = is_read or self._fields[field] == default
        self.require(is_allowed, field, f"{shown_default} (its default) unless {condition}")

    def require_one_of(self, field: str, allowed: Iterable[object]) -> None:
        """Checks that a field has one of the allowed values.

        Args:
          field: dotted name, such as 'model.depth'.
          allowed: the allowed values.

        Raises:
          ConfigError: the field has another value.
        """
        allowed = tuple(allowed)
        value = self._fields[field]
        if value not in allowed:
            names = [str(name) for name in allowed]
            hint = did_you_mean(value, names) if isinstance(value, str) else ""
            raise ConfigError(
                f"{field} must be one of {', '.join(names)}, got {shown(value)}{hint}"
            )

    def require_type(self, field: str, default: object, element_type: type) -> None:
        """Checks that the value of a field has the type of its default.

        Args:
          field: dotted name, such as 'model.depth'.
          default: default of the field. If it is None, text and None are allowed; if it is a list
            or tuple, only lists and tuples.
          element_type: type of the elements of a list or tuple.

        Raises:
          ConfigError: the value has another type, is not finite or does not fit into 64 bits.
        """
        value = self._fields[field]
        if isinstance(default, list | tuple):
            self._require_elements(field, value, element_type)
        elif default is None:
            self.require(value is None or _has_type(value, str), field, "text or None")
            self.require(_is_in_range(value), field, _limits(str))
        else:
            self._require_number_or_text(field, value, type(default))

    def _require_elements(self, field: str, values: object, element_type: type) -> None:
        rule = f"a tuple of {TUPLE_NAMES[element_type]}"
        if not isinstance(values, list | tuple) or len(values) > MAX_ELEMENTS:
            raise ConfigError(
                f"{field} must be {rule}, at most {MAX_ELEMENTS:,}, got {shown(values)}"
            )
        if element_type is str and len(values) == 1 and re.fullmatch(r"\(.*\)", str(values[0])):
            # The command line keeps text that is no Python tuple as one name.
            names = ",".join(f"'{name.strip()}'" for name in str(values[0])[1:-1].split(","))
            raise ConfigError(
                f'{field} must be {rule}, got {values[0]}; put the names in quotes: "({names})"'
            )
        are_valid = all(_has_type(value, element_type) for value in values)
        self.require(are_valid, field, rule)
        for value in values:
            if not _is_in_range(value):
                raise ConfigError(f"{field} must be {_limits(element_type)}, got {shown(value)}")

    def _require_number_or_text(self, field: str, value: object, kind: type) -> None:
        self.require(_has_type(value, kind), field, TYPE_NAMES[kind])
        self.require(_is_in_range(value), field, _limits(kind))


def _has_type(value: object, kind: type) -> bool:
    """Returns True for a value of a type; an integer is also a number, but a bool is none."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind or (kind is str and isinstance(value, str))


def _is_in_range(value: object) -> bool:
    """Returns False for numbers and text that programs and files cannot hold."""
    if isinstance(value, int):
        return abs(value) <= MAX_INT64
    if isinstance(value, float):
        return math.isfinite(value) and bool(abs(value) <= MAX_FLOAT32)
    if isinstance(value, str):
        is_unicode = not any("\ud800" <= letter <= "\udfff" for letter in value)
        return is_unicode and "\0" not in value and len(value) <= MAX_TEXT
    return True


def _limits(kind: type) -> str:
    if kind is str:
        return f"Unicode text of at most {MAX_TEXT:,} characters without null characters"
    return "an integer of 64 bits" if kind is int else "a finite number below 3.4e38"


def shown(value: object, max_length: int | None = MAX_SHOWN) -> str:
    """Returns a value as text of one line for a message.

    Args:
      value: any object.
      max_length: number of characters after which the text is cut off; None for no limit.
    """
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits, or an object with a bad __repr__
        text = f"{type(value).__name__} that cannot be printed"
    text = " ".join(text.split())
    if max_length is None or len(text) <= max_length:
        return text
    return f"{text[:max_length]}... ({len(text):,} characters)"
