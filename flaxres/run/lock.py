"""A lock on a directory: two processes must never write one."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from flaxres.errors import InUseError, WorkdirError

LOCK_FILE = "lock"  # stays in the directory; only a lock on it says that somebody is there


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Context in which this process alone uses `directory`; the system ends it with the process.

    Raises:
      InUseError: another live process uses it.
      WorkdirError: the file system has no locks.
      OSError: the lock file cannot be written.
    """
    path = directory / LOCK_FILE
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise WorkdirError(
                    f"workdir {directory} cannot be locked ({error.strerror}); choose one on a "
                    "file system with locks"
                ) from error
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise InUseError(
                f"workdir {directory} is in use by {owner}; wait for it, stop it, or choose "
                "another --workdir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield
