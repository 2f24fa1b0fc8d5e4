"""Notices about data sets on standard error."""

from __future__ import annotations

import sys

import jax

from flaxres.errors import printable

_printed: set[str] = set()


def print_notice(text: str) -> None:
    """Prints one line on standard error, in the main process only and only once.

    Programs open a data set several times, for example to read the names of its classes.
    """
    if text in _printed:
        return
    _printed.add(text)
    if not jax.distributed.is_initialized() or jax.process_index() == 0:
        print(printable(text), file=sys.stderr)
