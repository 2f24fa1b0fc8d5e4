"""Start of child processes without the program's main module, which may have no guard.

A child process that Python starts afresh (spawn) first imports the program's main module under
another name. A script without `if __name__ == "__main__":` would then run again in the child, and
start children of its own. Decode workers use nothing of the main module.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from multiprocessing import spawn
from typing import Any

_thread = threading.local()
_python_preparation_data = spawn.get_preparation_data


def _preparation_data(name: str) -> dict[str, Any]:
    """Returns what a new child process must know, as Python does for all other threads."""
    data: dict[str, Any] = _python_preparation_data(name)
    if getattr(_thread, "leaves_out_main", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


@contextlib.contextmanager
def without_main_module() -> Iterator[None]:
    """Context in which processes that this thread starts do not import the main module."""
    spawn.get_preparation_data = _preparation_data
    _thread.leaves_out_main = True
    try:
        yield
    finally:
        _thread.leaves_out_main = False
