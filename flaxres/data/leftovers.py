"""Semaphores of the decode workers: named after their process, and removed after it was killed.

Python's queues between processes use semaphores, which are files in /dev/shm. Its resource tracker
removes those of a killed process, unless it is killed too, as with a whole job.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from multiprocessing import synchronize
from pathlib import Path

SEMAPHORES = Path("/dev/shm")
PATTERN = re.compile(r"sem\.flaxres-(\d+)-(\d+)-(\d+)-\w+")  # process, start, PID namespace


def name_semaphores() -> None:
    """Makes the names of this process's semaphores identify it; only on Linux."""
    if sys.platform == "linux" and _start_time(os.getpid()) is not None:
        # Not the prefix in the process's configuration, because joblib replaces the function too.
        synchronize.SemLock._make_name = staticmethod(_make_name)  # type: ignore[attr-defined]


def _make_name() -> str:
    process, random = os.getpid(), next(synchronize.SemLock._rand)  # type: ignore[attr-defined]
    return f"/flaxres-{process}-{_start_time(process)}-{_namespace()}-{random}"


def remove_leftovers() -> None:
    """Removes the semaphores of this user's processes that have ended."""
    with contextlib.suppress(OSError), os.scandir(SEMAPHORES) as entries:
        for entry in entries:
            if (match := PATTERN.fullmatch(entry.name)) and _has_ended(*map(int, match.groups())):
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
                        os.unlink(entry.path)


def _has_ended(process: int, start: int, namespace: int) -> bool:
    """Returns True if a process of this PID namespace has ended; False if that is unknown."""
    return namespace == _namespace() and _start_time(process) != start


def _namespace() -> int:
    """Returns the number of this process's PID namespace; containers may share /dev/shm."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _start_time(process: int) -> int | None:
    """Returns when a process started, in clock ticks since boot; None if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # zombies have ended
