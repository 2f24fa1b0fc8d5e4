"""Standard streams of a program.

A closed terminal or pipe does not stop the program before it has saved its state.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import sys
from typing import TextIO, cast

from flaxres.errors import UserError


class OutputError(UserError):
    """Standard output cannot be written. The message is empty if its reader has exited."""

    def __init__(self, error: OSError):
        """Creates the error for a failed write."""
        if error.errno == errno.EPIPE:  # the reader has exited, such as `head`
            super().__init__("")
            self.exit_code = 128 + signal.SIGPIPE
        else:
            super().__init__(f"standard output cannot be written ({error.strerror})")


class _StandardFile(io.FileIO):
    """Standard output or error; a failed write raises at most once, and never for a terminal."""

    def __init__(self, descriptor: int, raises: bool):
        """Opens the file of a standard stream.

        Args:
          descriptor: file descriptor of the stream; it stays open.
          raises: if True, the first failed write raises an OutputError; otherwise failed writes are
            dropped.
        """
        super().__init__(descriptor, "w", closefd=False)
        self._raises = raises and not self.isatty()  # a closed terminal needs no output
        self._has_failed = False

    def write(self, data: object) -> int:
        """Writes bytes; drops them after a failure, for example when the terminal is closed."""
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if self._has_failed:
            return size
        try:
            # A pipe that another program has made non-blocking may have no space.
            while (written := super().write(data)) is None:  # type: ignore[arg-type]
                select.select([], [self], [])
        except OSError as error:
            self._has_failed = True
            if self._raises:
                raise OutputError(error) from None
            return size
        return written


def prepare_streams() -> None:
    """Prepares standard input, output and error of a program. Call this when it starts.

    - Failed writes to standard error are dropped: the program continues without messages. The first
      failed write to standard output raises an OutputError, unless it is a terminal.
    - Closed streams become /dev/null; otherwise a data file could get their descriptor, and
      messages would be written to it.
    - Characters that a stream's encoding cannot represent are escaped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the smallest free descriptor, which is this one
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    # A test may have replaced the streams.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _open_stream(sys.stdout, 1, raises=True)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _open_stream(sys.stderr, 2, raises=False)


def _open_stream(stream: TextIO | None, descriptor: int, raises: bool) -> io.TextIOWrapper:
    """Reopens a standard stream; like Python's own, it is line-buffered on a terminal."""
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    raw = _StandardFile(descriptor, raises)
    return io.TextIOWrapper(
        io.BufferedWriter(cast(io.RawIOBase, raw)),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=not raises or raw.isatty(),
    )


def flush_output() -> None:
    """Flushes standard output.

    Raises:
      OutputError: standard output cannot be written.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
