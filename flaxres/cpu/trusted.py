"""Trust checks for files whose content is executed.

Only this user and root may be able to change such files.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path

from flaxres.files import open_regular

OTHERS_CAN_ENTER = stat.S_IXGRP | stat.S_IXOTH


def untrusted_reason(directory: Path) -> str:
    """Returns the reason why others could change files in a directory, or "" if they cannot.

    The directory and all directories above it must belong to this user or to root, and others must
    not be able to write to them. A parent with the sticky bit, such as /tmp, is accepted.

    Args:
      directory: absolute path of an existing directory; symbolic links are resolved.

    Raises:
      OSError: a directory cannot be examined.
    """
    real = Path(os.path.realpath(directory))
    others_can_enter = True
    for path in (*reversed(real.parents), real):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return f"{path} is not a directory"
        if status.st_uid not in (os.geteuid(), 0):
            return f"{path} belongs to another user ({_user_name(status.st_uid)})"
        sticky = status.st_mode & stat.S_ISVTX and path != real
        if others_can_enter and others_can_write(status) and not sticky:
            return f"other users can write to {path}"
        # Others cannot reach anything below a directory that they cannot enter.
        others_can_enter = others_can_enter and bool(status.st_mode & OTHERS_CAN_ENTER)
    return ""


def others_can_write(status: os.stat_result) -> bool:
    """Returns True if users other than the file's owner and root can write to it."""
    if status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid):
        return True
    return bool(status.st_mode & stat.S_IWOTH)


def is_trusted_file(status: os.stat_result) -> bool:
    """Returns True for a regular file of this user or root that others cannot write to."""
    is_own = status.st_uid in (os.geteuid(), 0)
    return is_own and stat.S_ISREG(status.st_mode) and not others_can_write(status)


def open_trusted(path: Path) -> int:
    """Opens a file for reading if only this user and root can change it; returns its descriptor.

    Raises:
      OSError: the path is not a regular file, it cannot be opened, or others could change it.
    """
    descriptor = open_regular(path, os.O_RDONLY)
    if not is_trusted_file(os.fstat(descriptor)):
        os.close(descriptor)
        reason = "other users can change this file, or it is not a regular file"
        raise PermissionError(errno.EPERM, reason, str(path))
    return descriptor


def make_private_directory(path: Path) -> None:
    """Creates a directory and its missing parents with mode 0700.

    Raises:
      OSError: a directory cannot be created, or the path is not a directory.
    """
    for directory in (*reversed(path.parents), path):
        if not directory.exists():
            directory.mkdir(mode=0o700, exist_ok=True)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def _is_private_group(gid: int) -> bool:
    """Returns True for this user's private group: it has the user's name and no other members.

    Systems with such groups usually set umask 002, so files are group-writable although nobody else
    is in the group.
    """
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    is_named_as_user = gid == user.pw_gid and group.gr_name == user.pw_name
    return user.pw_uid != 0 and is_named_as_user and set(group.gr_mem) <= {user.pw_name}


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
