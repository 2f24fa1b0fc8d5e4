"""Lock on a directory, which keeps two processes from writing to it, and notices when it moves."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from flaxres.errors import InUseError, WorkdirError
from flaxres.files import open_regular

# The file stays in the directory. Only a lock on it means that a process uses the directory.
LOCK_FILE = "lock"
OWNER = re.compile(r"process \d+ on \S*\n?")


class LockedDirectory:
    """A directory on which this process holds the lock."""

    def __init__(self, path: Path, descriptor: int):
        """Remembers which directory a path names.

        Args:
          path: the directory.
          descriptor: its open file descriptor, which keeps its identity in use.
        """
        self._path = path.absolute()
        self._descriptor = descriptor
        # Some network file systems give a directory a new number at every call.
        self._has_stable_identity = self._is_in_place()

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False
        except OSError:  # the file system does not answer; reads and writes report that
            return True

    def check_in_place(self) -> None:
        """Checks that the path still leads to the locked directory.

        Raises:
          WorkdirError: the directory was renamed or deleted.
        """
        if not self._has_stable_identity or self._is_in_place():
            return
        try:  # Linux knows the new path
            path = os.readlink(f"/proc/self/fd/{self._descriptor}")
        except OSError:
            path = ""
        if os.path.isdir(path) and not path.endswith(" (deleted)"):
            raise WorkdirError(
                f"workdir {self._path} was renamed to {path} while it was in use; rerun the "
                f"command with --workdir={path} to resume"
            )
        raise WorkdirError(
            f"workdir {self._path} was renamed or deleted while it was in use; rerun the command "
            "with its new path, or to start over"
        )


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[LockedDirectory]:
    """Context in which no other process can lock the directory.

    The operating system releases the lock when the process ends, however it ends.

    Args:
      directory: an existing directory.

    Yields:
      The directory, which can be asked whether it is still in its place.

    Raises:
      InUseError: another live process holds the lock.
      WorkdirError: the file system does not support locks, or the directory has a file of this name
        that is not a lock.
      OSError: the lock file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        file_descriptor = open_regular(LOCK_FILE, os.O_RDWR | os.O_CREAT, descriptor)
        file = stack.enter_context(os.fdopen(file_descriptor, "r+", errors="replace"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise WorkdirError(
                    f"workdir {directory} cannot be locked ({error.strerror}); choose a --workdir "
                    "on a file system that supports locks"
                ) from error
            owner = file.read(1_000).strip() or "another process"
            raise InUseError(
                f"workdir {directory} is in use by {owner}; wait for it, stop it, or choose "
                "another --workdir"
            ) from None
        content = file.read(1_000)
        if os.fstat(file_descriptor).st_nlink != 1 or (content and not OWNER.fullmatch(content)):
            raise WorkdirError(
                f"{directory / LOCK_FILE} is not a lock of flaxres; move it away or choose another "
                "--workdir"
            )
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield LockedDirectory(directory, descriptor)
