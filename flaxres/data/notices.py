"""Notices about data sets on standard error."""

from __future__ import annotations

import jax

from flaxres.errors import print_once


def print_notice(text: str) -> None:
    """Prints one line on standard error, in the main process only and only once.

    Programs open a data set several times, for example to read the names of its classes.
    """
    if not jax.distributed.is_initialized() or jax.process_index() == 0:
        print_once(text)
