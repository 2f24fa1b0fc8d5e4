"""Checks of the arguments of the Python API; errors have the argument's name and value."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import RequiredValueError

from flaxres.errors import ArgumentError
from flaxres.field_checks import shown
from flaxres.files import expand_home
from flaxres.overrides import FieldDict

T = TypeVar("T")


def of_type(value: object, types: type[T], name: str, rule: str) -> T:
    """Returns an argument that must have a type.

    Args:
      value: the argument.
      types: its type; bool is no int.
      name: its name, for the message.
      rule: what it must be, in words that follow "must be".

    Raises:
      ArgumentError: it has another type.
    """
    if not isinstance(value, types) or (types is int and isinstance(value, bool)):
        raise ArgumentError(f"{name} must be {rule}, got {shown(value)}")
    return value


def integer_of(value: object, name: str, minimum: int | None, rule: str = "") -> int:
    """Returns an integer argument, also of NumPy, as an int.

    Args:
      value: the argument.
      name: its name, for the message.
      minimum: its smallest value; None for no limit.
      rule: what it must be, in words that follow "must be" (default: an integer of at least
        `minimum`).

    Raises:
      ArgumentError: it is no integer, or below `minimum`.
    """
    number = int(value) if isinstance(value, int | np.integer) else None
    is_too_small = number is not None and minimum is not None and number < minimum
    if number is None or isinstance(value, bool) or is_too_small:
        rule = rule or f"an integer of at least {minimum}"
        raise ArgumentError(f"{name} must be {rule}, got {shown(value)}")
    return number


def bool_of(value: object, name: str) -> bool:
    """Returns an argument that must be True or False, also of NumPy, as a bool.

    Raises:
      ArgumentError: it is something else.
    """
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def texts_of(texts: object, name: str, rule: str) -> list[str]:
    """Returns one text or several as a list.

    Args:
      texts: the argument.
      name: its name, for the message.
      rule: what one text is, in words that follow "must be", such as "a name".

    Raises:
      ArgumentError: it is neither text nor a sequence of texts.
    """
    given = _one_or_several(texts, name, rule)
    return [of_type(text, str, name, f"{rule}, or a sequence of them") for text in given]


def paths_of(paths: object, name: str) -> list[str]:
    """Returns one path, source or name, or several, as a list of texts.

    Raises:
      ArgumentError: it is neither a path nor a sequence of paths.
    """
    return [path_text(path, name) for path in _one_or_several(paths, name, "text or a path")]


def _one_or_several(values: object, name: str, rule: str) -> Iterable[object]:
    if isinstance(values, str | os.PathLike):
        return [values]
    if not isinstance(values, Iterable) or isinstance(values, bytes):
        raise ArgumentError(f"{name} must be {rule}, or a sequence of them, got {shown(values)}")
    return values


def path_text(path: object, name: str) -> str:
    """Returns a path, a source or a name as text.

    Raises:
      ArgumentError: it is neither text nor a path, is empty, or has a zero character.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text:
        raise ArgumentError(f"{name} must be text or a path, and not empty, got {shown(path)}")
    return text


def path_of(path: object, name: str = "workdir") -> Path:
    """Returns a path, with ~ replaced by the home directory.

    Raises:
      ArgumentError: it is no path.
      ConfigError: its home directory is not known.
    """
    return expand_home(path_text(path, name), name)


def config_of(config: object) -> ConfigDict:
    """Returns a config whose fields can be set; a FrozenConfigDict is copied.

    Raises:
      ArgumentError: it is something else.
    """
    rule = "a config, such as flaxres.get_config('digits:resnet-20')"
    given = of_type(config, ConfigDict, "config", rule)
    return given.as_configdict() if isinstance(given, FrozenConfigDict) else given


def overrides_of(overrides: FieldDict) -> dict[str, object]:
    """Returns values of fields by dotted name, with plain Python values.

    Args:
      overrides: values by name. A group of fields is a dict or a ConfigDict, or its fields have
        dotted names. NumPy values become Python values, and paths become text.

    Raises:
      ArgumentError: num_steps and num_epochs, which both set the number of steps, are given, or a
        required field of a ConfigDict has no value.
    """
    try:
        fields = dict(_flatten(overrides))
    except RequiredValueError:
        raise ArgumentError(
            f"config fields must have values, but a required one of {', '.join(overrides)} has none"
        ) from None
    if "num_steps" in fields and "num_epochs" in fields:
        raise ArgumentError(
            f"give either num_steps or num_epochs, got num_steps={shown(fields['num_steps'])} and "
            f"num_epochs={shown(fields['num_epochs'])}"
        )
    return fields


def _flatten(overrides: FieldDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in overrides.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, np.ndarray):
            yield f"{prefix}{name}", tuple(value.tolist()) if value.ndim == 1 else value
        elif isinstance(value, np.generic):
            yield f"{prefix}{name}", value.item()
        else:
            yield f"{prefix}{name}", os.fspath(value) if isinstance(value, os.PathLike) else value
