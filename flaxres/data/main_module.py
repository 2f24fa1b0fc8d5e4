"""Start of decode workers without the program's main module, which may have no guard.

A process that Python starts afresh (spawn) first imports the program's main module under another
name. A script without `if __name__ == "__main__":` would then run again in the worker, and start
workers of its own. Decode workers use nothing of the main module.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from multiprocessing import spawn
from typing import Any

WORKER_NAME = "grain-process-prefetch"  # start of the names that Grain gives its processes

_lock = threading.Lock()
_contexts = 0  # number of entered contexts
_previous: Callable[[str], dict[str, Any]] = spawn.get_preparation_data


def _preparation_data(name: str) -> dict[str, Any]:
    """Returns what Python tells a new process, for a worker without the main module."""
    data = _previous(name)
    if name.startswith(WORKER_NAME):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


@contextlib.contextmanager
def workers_without_main_module() -> Iterator[None]:
    """Context in which new worker processes of Grain do not import the main module.

    Grain starts them in threads of its own. The contexts of several threads may overlap.
    """
    global _contexts, _previous
    with _lock:
        if not _contexts:
            _previous = spawn.get_preparation_data
            spawn.get_preparation_data = _preparation_data
        _contexts += 1
    try:
        yield
    finally:
        with _lock:
            _contexts -= 1
            if not _contexts and spawn.get_preparation_data is _preparation_data:
                spawn.get_preparation_data = _previous  # type: ignore[assignment]
