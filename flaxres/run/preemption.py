"""Ctrl-C and SIGTERM ask a run to stop at its next step, so that its state can be saved."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# The process that started this one on behalf of a sweep; without it, nobody waits for the run.
PARENT_VARIABLE = "FLAXRES_PARENT"


class StopRequest:
    """Context in which SIGINT and SIGTERM are noted; a second SIGINT acts as it would outside.

    A second SIGTERM does nothing: schedulers send it to a process and to its parent, which passes
    it on, and would otherwise end the process in the middle of its save.

    Attributes:
      signum: the signal that came, or None.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, promise: str = "saving and stopping"):
        """Notes nothing yet; `promise` is what a signal is answered with."""
        self._promise = promise
        self.signum: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for signum in self.SIGNALS:
            self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _frame: object) -> None:
        first, self.signum = self.signum is None, signum
        hint = ""
        if signum == signal.SIGINT:
            signal.signal(signum, self._before[signum])
            hint = "; once more stops at once"
        if first:
            # Not print: the signal may have come in the middle of one.
            name = signal.Signals(signum).name
            os.write(2, f"\n{name}: {self._promise}{hint}\n".encode())


def stop_with_parent() -> None:
    """Has SIGTERM sent to this process when the one named in FLAXRES_PARENT ends, even by kill -9.

    Without the variable, and on systems other than Linux, it does nothing.
    """
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None or sys.platform != "linux":
        return
    pr_set_pdeathsig = 1  # prctl(2); lasts when the process starts another program in its place
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before
        os.kill(os.getpid(), signal.SIGTERM)
