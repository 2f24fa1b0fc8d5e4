"""Checks of config fields, with one form of error message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flaxres.errors import ConfigError


class FieldChecker:
    """Checks fields of a config, and names the field and its value where one is wrong."""

    def __init__(self, fields: Mapping[str, object]):
        """Stores the fields by their dotted names, such as {'model.depth': 20}."""
        self._fields = fields

    def require(self, condition: bool, field: str, rule: str) -> None:
        """Checks a condition on a field.

        Args:
          condition: True if the value is allowed.
          field: dotted name, such as 'model.depth'.
          rule: the allowed values, to follow "must be" in the message.

        Raises:
          ConfigError: the condition does not hold.
        """
        if not condition:
            raise ConfigError(f"{field} must be {rule}, got {self._fields[field]!r}")

    def require_one_of(self, field: str, allowed: Iterable[object]) -> None:
        """Checks that a field has one of the allowed values.

        Raises:
          ConfigError: it has another value.
        """
        allowed = tuple(allowed)
        rule = f"one of {', '.join(map(str, allowed))}"
        self.require(self._fields[field] in allowed, field, rule)
