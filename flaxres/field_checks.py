"""Checks of config fields that share one form of error message: FIELD must be RULE, got VALUE."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flaxres.errors import ConfigError


class FieldChecker:
    """Checks config fields; errors have the field's name, value and allowed values."""

    def __init__(self, fields: Mapping[str, object]):
        """Stores the values of the fields by dotted name, such as {'model.depth': 20}."""
        self._fields = fields

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
            raise ConfigError(f"{field} must be {rule}, got {self._fields[field]!r}")

    def require_one_of(self, field: str, allowed: Iterable[object]) -> None:
        """Checks that a field has one of the allowed values.

        Args:
          field: dotted name, such as 'model.depth'.
          allowed: the allowed values.

        Raises:
          ConfigError: the field has another value.
        """
        allowed = tuple(allowed)
        rule = f"one of {', '.join(map(str, allowed))}"
        self.require(self._fields[field] in allowed, field, rule)
