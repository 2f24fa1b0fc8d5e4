"""Stop requests: signals that stop a run at its next step, after a checkpoint.

These are SIGINT (Ctrl-C), SIGTERM, and SIGHUP (the terminal was closed).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

# Holds the id of the sweep process that started this one. Unset if no process waits for the run.
PARENT_VARIABLE = "FLAXRES_PARENT"

SignalHandler = Callable[[int, FrameType | None], Any] | int | None


_swallowed_interrupts: list[int] = []  # SIGINTs whose KeyboardInterrupt has not ended the program


def remember_interrupts() -> None:
    """Lets the next `StopRequest` know of a SIGINT that arrives before it. Call this at the start.

    SIGINT raises a KeyboardInterrupt, as usual. If it arrives during a callback from C++, such as
    in an import or a compilation, Python prints the exception and continues.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    unraisablehook = sys.unraisablehook

    def interrupt(signum: int, _frame: FrameType | None) -> None:
        _swallowed_interrupts.append(signum)
        raise KeyboardInterrupt

    def report(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            unraisablehook(unraisable)

    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = report


class StopRequest:
    """Context in which SIGINT, SIGTERM and SIGHUP are recorded instead of ending the process.

    A second SIGINT has its usual effect. A second SIGTERM or SIGHUP has none: schedulers and shells
    send it both to a process and to its parent, which passes it on, and it must not interrupt the
    save. SIGHUP stays ignored where it is, as under nohup.

    Python runs handlers of signals in the main thread only. A request in another thread therefore
    leaves the signals as they are, and only its event makes it.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(
        self, reply: str = "saving and stopping", event: threading.Event | None = None
    ) -> None:
        """Initializes a request that no signal has made yet.

        Args:
          reply: text printed to standard error when the first signal arrives.
          event: makes the request when it is set, as SIGTERM does.
        """
        self._reply = reply
        self._event = event
        self._signum: int | None = _swallowed_interrupts.pop() if _swallowed_interrupts else None
        self._previous_handlers: dict[int, SignalHandler] = {}

    @property
    def signum(self) -> int | None:
        """Number of the last signal received, SIGTERM if the event is set, or None."""
        if self._signum is None and self._event is not None and self._event.is_set():
            return signal.SIGTERM
        return self._signum

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        for signum in self.SIGNALS:
            if signum == signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN:
                continue
            self._previous_handlers[signum] = signal.signal(signum, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous_handlers.items():
            signal.signal(signum, handler)

    def _record(self, signum: int, _frame: FrameType | None) -> None:
        is_first, self._signum = self._signum is None, signum
        hint = ""
        if signum == signal.SIGINT:
            signal.signal(signum, self._previous_handlers[signum])
            hint = "; press Ctrl-C again to stop at once"
        if is_first:
            # The signal may interrupt a call of print, which cannot be entered again.
            name = signal.Signals(signum).name
            with contextlib.suppress(OSError):  # the terminal may have been closed
                os.write(2, f"\n{name}: {self._reply}{hint}\n".encode())


def stop_with_parent() -> None:
    """Requests SIGTERM for this process when the process in FLAXRES_PARENT ends, even by kill -9.

    Does nothing if the variable is not a number or the system is not Linux.
    """
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None or not parent.isdecimal() or sys.platform != "linux":
        return
    pr_set_pdeathsig = 1  # prctl(2); stays in effect after exec
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != int(parent):  # the parent ended before the call
        os.kill(os.getpid(), signal.SIGTERM)
