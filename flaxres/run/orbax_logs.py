"""Silence of Orbax's log, because flaxres raises Orbax's errors itself.

The commands turn absl's log off. In a user's program the log belongs to the user, so only the
records that Orbax writes for flaxres are left out.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator

from flaxres.shared_patch import SharedPatch

_thread = threading.local()


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
        closed_event_loops_ignored.previous(unraisable)


# Context without the tracebacks of array reads and writes that end after a failed one. Orbax closes
# its event loop after a failure. TensorStore's threads then fail to report the remaining arrays to
# it, which adds nothing to the first error.
closed_event_loops_ignored = SharedPatch(sys, "unraisablehook", _ignore_closed_event_loop)
