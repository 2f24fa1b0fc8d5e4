"""Regular files: read, appended to and replaced without following a link or opening a device.

The last component of a path must be a regular file. A symbolic link there could lead to any file,
a named pipe would block, and replacing a device would remove it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from pathlib import Path

from flaxres.errors import ConfigError

TEMPORARY_PREFIX = ".flaxres-"  # of the files that `write_atomically` renames at the end
TEMPORARY = re.compile(r"\.flaxres-\d+-[0-9a-f]{8}|\w+\.jsonl?\.tmp\d+")


def open_regular(path: str | Path, flags: int, directory: int | None = None) -> int:
    """Opens a regular file; never blocks, and follows no symbolic link in the last component.

    Args:
      path: the file.
      flags: flags of `os.open`. A file that os.O_CREAT creates has the mode 0o666 & ~umask.
      directory: file descriptor of the directory to which a relative path refers.

    Returns:
      A file descriptor.

    Raises:
      OSError: the path is not a regular file, which `strerror` says, or it cannot be opened.
    """
    check_regular(path, directory)  # opening some devices has effects
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666, dir_fd=directory)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _not_regular_error(path, mode)
    os.set_blocking(descriptor, True)
    return descriptor


def read_regular(path: str | Path) -> bytes:
    """Reads a regular file; never blocks, and follows no symbolic link in the last component.

    Raises:
      OSError: the path is not a regular file, which `strerror` says, or it cannot be read.
    """
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        return file.read()


def expand_home(path: str | os.PathLike[str], name: str) -> Path:
    """Replaces a leading ~ or ~USER of a path that a user gave by the home directory.

    Args:
      path: the path.
      name: flag or config field of the path, for the message.

    Raises:
      ConfigError: there is no such user, or the home directory is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = os.fspath(path).partition("/")[0]
        raise ConfigError(
            f"{name}={path}: {user} is no known home directory; give the path without {user}"
        ) from None


def check_regular(path: str | Path, directory: int | None = None) -> None:
    """Checks that a path is a regular file or does not exist.

    Args:
      path: the file.
      directory: file descriptor of the directory to which a relative path refers.

    Raises:
      OSError: the path is something else, which `strerror` says, or it cannot be reached.
    """
    try:
        mode = os.stat(path, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise _not_regular_error(path, mode)


def file_kind(mode: int) -> str:
    """Returns what a path with this mode is if it is not a regular file: 'a directory', ..."""
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def _not_regular_error(path: str | Path, mode: int) -> OSError:
    text = f"{Path(path).name} is {file_kind(mode)} instead of a regular file"
    return OSError(errno.EINVAL, text)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file. Readers see the old content or the new one, never a part, even after a crash.

    Args:
      path: file to create or replace.
      content: bytes, or text to encode as UTF-8; file names in it that are not UTF-8 are escaped.

    Raises:
      OSError: the path is not a regular file, or it cannot be written. It is then as it was.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    check_regular(path)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        descriptor = open_regular(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the error above is the one to report
            temporary.unlink(missing_ok=True)


def remove_temporary_files(directory: Path) -> None:
    """Removes what killed calls of `write_atomically` left in a directory that no process uses."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
