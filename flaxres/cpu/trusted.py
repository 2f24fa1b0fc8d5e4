"""Checks that only this user, and root, can change files whose content is executed."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path

from flaxres.files import open_regular

OTHERS_ENTER = stat.S_IXGRP | stat.S_IXOTH


def why_untrusted(directory: Path) -> str:
    """Returns the reason why others could change files in a directory, or "" if they cannot.

    The directory and all directories above it must belong to this user or to root, and others must
    not be able to write to them. A directory with the sticky bit, such as /tmp, may be above it.

    Args:
      directory: absolute path of an existing directory; symbolic links are followed first.

    Raises:
      OSError: a directory cannot be examined.
    """
    real = Path(os.path.realpath(directory))
    others_enter = True
    for path in (*reversed(real.parents), real):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return f"{path} is not a directory"
        if status.st_uid not in (os.geteuid(), 0):
            return f"{path} belongs to another user ({_user_name(status.st_uid)})"
        sticky = status.st_mode & stat.S_ISVTX and path != real
        if others_enter and others_can_write(status) and not sticky:
            return f"other users can write to {path}"
        # Nobody else reaches what is below a directory that nobody else may enter.
        others_enter = others_enter and bool(status.st_mode & OTHERS_ENTER)
    return ""


def others_can_write(status: os.stat_result) -> bool:
    """Returns True if the mode of a file lets other users than its owner and root write to it."""
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
        raise PermissionError(errno.EPERM, "not a file that only this user can change", str(path))
    return descriptor


def make_private_directory(path: Path) -> None:
    """Creates a directory, and missing ones above it, that only this user can enter.

    Raises:
      OSError: a directory cannot be created, or there is something else in its place.
    """
    for directory in (*reversed(path.parents), path):
        if not directory.exists():
            directory.mkdir(mode=0o700, exist_ok=True)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def _is_private_group(gid: int) -> bool:
    """Returns True for the group of this user only, which is named as the user.

    Where users have such groups, they usually have a umask of 002: all their files can be written
    by a group without other members.
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
