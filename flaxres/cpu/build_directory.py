"""Temporary directories of builds; a build removes those of builds that were killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from flaxres.files import open_regular

PREFIX = "flaxres-build-"
NEEDED_BYTES = 2 * 1024**2  # space for the library
MIN_AGE = 60.0  # seconds; a younger directory may not be locked yet
MAX_AGE = 3600.0  # seconds for which a build is taken to be alive where there are no locks


class BuildDirectory:
    """A new directory that only this user can enter, locked while its build is alive.

    Attributes:
      path: absolute path.
      lock: descriptor of the lock file; the lock lasts until all processes that have it have ended.
    """

    def __init__(self, parent: Path):
        """Creates a directory in `parent`, where it first removes those of killed builds.

        Raises:
          OSError: the directory cannot be created, or the disk is full.
        """
        remove_dead_builds(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        try:
            lock_file = self.path / "lock"
            self.lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(self.lock, bytes(NEEDED_BYTES)) < NEEDED_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(parent))
            os.truncate(self.lock, 0)
        except OSError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            raise OSError(error.errno, error.strerror, str(parent)) from None

    def remove(self) -> None:
        """Removes the directory with its files."""
        with contextlib.suppress(OSError):
            os.close(self.lock)
        shutil.rmtree(self.path, ignore_errors=True)


def remove_dead_builds(parent: Path) -> None:
    """Removes what killed builds of this user have left in a directory."""
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and _is_dead(path):
                shutil.rmtree(path, ignore_errors=True)
    # Version 0.1.0 wrote its libraries under temporary names in the cache itself.
    for path in parent.glob("kernels-????????.so"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > MAX_AGE:
                path.unlink()


def _is_dead(directory: Path) -> bool:
    """Returns True if no process holds the lock of a directory of a build.

    Raises:
      OSError: the directory cannot be examined.
    """
    age = time.time() - directory.stat().st_mtime
    if age < MIN_AGE:
        return False
    try:
        lock = open_regular(directory / "lock", os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return age > MAX_AGE
    finally:
        os.close(lock)
    return True
