"""Processes that tests start, and their ends."""

import time
from pathlib import Path


def is_running(pid):
    """Returns False for a process that has ended, even if nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_ended(pid, seconds=60):
    """Waits for the end of a process, since a signal takes effect later; returns True if it came.

    Args:
      pid: id of the process.
      seconds: time limit.
    """
    deadline = time.monotonic() + seconds
    while is_running(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
