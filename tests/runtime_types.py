"""The type checker that the tests apply to every annotation of flaxres, shapes and dtypes too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that checks its arguments and its result against their annotations."""
    return _check(function)
