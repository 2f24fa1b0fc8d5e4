"""The type checker that the tests apply to every annotation of flaxres, shapes and dtypes too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float

# Checkers of nested functions, by module, name and parameters. A nested function is created again
# at every call of the function around it, and beartype would generate its code each time.
_nested: dict[tuple[object, ...], Callable[..., Any]] = {}


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that checks its arguments and its result against their annotations.

    Args:
      function: a function that jaxtyping makes for the check; it has the signature of the function
        in flaxres, and does nothing.
    """
    if "<locals>" not in function.__qualname__:
        return _check(function)
    key = (function.__module__, function.__qualname__, function.__code__.co_varnames)
    if key not in _nested:
        _nested[key] = _check(function)
    return _nested[key]
