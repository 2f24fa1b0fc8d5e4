"""What Orbax prints: nothing, because flaxres raises its errors itself.

The commands turn absl's log off. In a user's program it belongs to the user, so that only the
records are left out which Orbax writes for flaxres.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_thread = threading.local()
_lock = threading.Lock()
_contexts = 0  # number of entered contexts of `closed_event_loops_ignored`
_previous_hook: Callable[[Any], Any] = sys.unraisablehook


def _is_wanted(_: logging.LogRecord) -> bool:
    return not getattr(_thread, "is_quiet", False)


@contextlib.contextmanager
def logs_disabled() -> Iterator[None]:
    """Context in which records that this thread gives to absl's log are left out."""
    logging.getLogger("absl").addFilter(_is_wanted)  # the same filter is added only once
    before = getattr(_thread, "is_quiet", False)
    _thread.is_quiet = True
    try:
        yield
    finally:
        _thread.is_quiet = before


def _ignore_closed_event_loop(unraisable: sys.UnraisableHookArgs) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        _previous_hook(unraisable)


@contextlib.contextmanager
def closed_event_loops_ignored() -> Iterator[None]:
    """Context without the tracebacks of array reads and writes that end after a failed one.

    Orbax closes its event loop when it cannot read or write an array. TensorStore's threads then
    fail to report the remaining arrays to it, which adds nothing to the first error. The contexts
    of several threads may overlap.
    """
    global _contexts, _previous_hook
    with _lock:
        if not _contexts:
            _previous_hook = sys.unraisablehook
            sys.unraisablehook = _ignore_closed_event_loop
        _contexts += 1
    try:
        yield
    finally:
        with _lock:
            _contexts -= 1
            if not _contexts and sys.unraisablehook is _ignore_closed_event_loop:
                sys.unraisablehook = _previous_hook
