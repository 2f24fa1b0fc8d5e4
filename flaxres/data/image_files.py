"""Reading of image files: regular files only, so that a pipe or a device never blocks."""

from __future__ import annotations

import errno
import os
import stat

from flaxres.data.decode import BrokenImageError
from flaxres.errors import DatasetError
from flaxres.files import file_kind

MAX_FILE_BYTES = 2**30  # an uncompressed image of `MAX_PIXELS` has 683 MiB with 16-bit RGBA
# Errors of the machine instead of the file: reading the file again may succeed.
MACHINE_ERRORS = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)


def read_image_file(path: str) -> bytes:
    """Returns the contents of an image file.

    Args:
      path: the file, or a symbolic link to it.

    Raises:
      BrokenImageError: the file does not exist, may not be read, is no regular file, or has more
        than `MAX_FILE_BYTES`.
      DatasetError: the machine or its file server failed.
    """
    try:
        _check_regular(path, os.stat(path))  # because opening a device can have effects
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            _check_regular(path, status)
            return file.read(status.st_size)
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}"
        if error.errno in MACHINE_ERRORS:
            raise DatasetError(problem) from None
        raise BrokenImageError(problem) from None


def _check_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BrokenImageError(f"{path} is {file_kind(status.st_mode)}, not an image file")
    if status.st_size > MAX_FILE_BYTES:
        raise BrokenImageError(
            f"{path} has {status.st_size:,} bytes; an image file may have {MAX_FILE_BYTES:,}"
        )
