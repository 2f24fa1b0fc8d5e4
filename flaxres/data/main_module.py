"""Start of decode workers without the program's main module, which may have no guard.

A process that Python starts afresh (spawn) first imports the program's main module under another
name. A script without `if __name__ == "__main__":` would then run again in the worker, and start
workers of its own. Decode workers use nothing of the main module.
"""

from __future__ import annotations

from multiprocessing import spawn
from typing import Any

from flaxres.shared_patch import SharedPatch

WORKER_NAME = "grain-process-prefetch"  # start of the names that Grain gives its processes


def _preparation_data(name: str) -> dict[str, Any]:
    """Returns what Python tells a new process, for a worker without the main module."""
    data: dict[str, Any] = workers_without_main_module.previous(name)
    if name.startswith(WORKER_NAME):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


# Context in which new worker processes of Grain do not import the main module. Grain starts them in
# threads of its own.
workers_without_main_module = SharedPatch(spawn, "get_preparation_data", _preparation_data)
