"""File lock that keeps two processes from writing to the same workdir."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from flaxres.errors import InUseError, WorkdirError

# The file stays in the directory. Only a lock on it means that a process uses the directory.
LOCK_FILE = "lock"


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Context in which no other process can lock the directory.

    The operating system releases the lock when the process ends, however it ends.

    Args:
      directory: an existing directory.

    Raises:
      InUseError: another live process holds the lock.
      WorkdirError: the file system does not support locks.
      OSError: the lock file cannot be written.
    """
    path = directory / LOCK_FILE
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise WorkdirError(
                    f"workdir {directory} cannot be locked ({error.strerror}); choose a --workdir "
                    "on a file system that supports locks"
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
