"""Reading of regular files: whole, in blocks of lines, and line by line from the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flaxres.errors import DamagedFileError
from flaxres.files import open_regular

BLOCK_BYTES = 1 << 20  # bytes read at once
MAX_LINE_BYTES = 16 << 20  # a longer line is damage, which must not fill the memory


def open_for_reading(path: Path) -> BinaryIO:
    """Opens a regular file for reading; refuses links, and never waits for a named pipe.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file is not regular or cannot be opened.
    """
    try:
        return os.fdopen(open_regular(path, os.O_RDONLY), "rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read: {error.strerror}") from error


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Reads a regular file of at most `max_bytes`.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file is not regular, is larger, or cannot be read.
    """
    with open_for_reading(path) as file:
        data = _read(file, path, max_bytes + 1)
    if len(data) > max_bytes:
        raise DamagedFileError(f"{path} must have at most {max_bytes:,} bytes, but it has more")
    return data


def line_blocks(path: Path, complete: bool = True) -> Iterator[bytes]:
    """Yields the lines of a file from first to last, in blocks.

    Args:
      path: path of the file.
      complete: if True, skips a last line without a line break, which a killed process leaves.

    Yields:
      One or more lines, without the line break of the last one.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file is not regular, has a line of over 16 MiB, or cannot be read.
    """
    with open_for_reading(path) as file:
        rest = b""
        while block := _read(file, path, BLOCK_BYTES):
            lines, line_break, rest = (rest + block).rpartition(b"\n")
            if line_break:
                yield lines
            _check_length(path, rest)
        if rest and not complete:
            yield rest


def lines_from_end(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the complete lines of a file from last to first.

    Yields:
      The offset of the end of a line in the file, and the line without its line break.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFileError: the file is not regular, has a line of over 16 MiB, or cannot be read.
    """
    with open_for_reading(path) as file:
        start = file.seek(0, os.SEEK_END)
        text, end = b"", -1  # the bytes from `start` on, and the end of a line in them
        while start:
            size = min(start, BLOCK_BYTES)
            start -= size
            file.seek(start)
            text = _read(file, path, size) + text[: end + 1]
            end = text.rfind(b"\n")
            while (line_break := text.rfind(b"\n", 0, max(end, 0))) >= 0:
                yield start + end + 1, text[line_break + 1 : end]
                end = line_break
            _check_length(path, text[: max(end, 0)])
        if end >= 0:
            yield end + 1, text[:end]


def _read(file: BinaryIO, path: Path, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read: {error.strerror}") from error


def _check_length(path: Path, line: bytes) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise DamagedFileError(f"{path} has a line of more than {MAX_LINE_BYTES:,} bytes")
