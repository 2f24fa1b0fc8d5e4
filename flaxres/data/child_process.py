"""Child processes that get the signals of this process, so that they can clean up."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Sequence
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STANDARD_ERROR = 2  # file descriptor


def run_child(command: Sequence[str]) -> int:
    """Runs a command and returns its exit code; what it prints goes to standard error.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP are passed on. They have their usual effect on this process
    after the child has ended. In another thread than the main one, signals stay as they are.

    Args:
      command: the program and its arguments.
    """
    # In a process group of its own, the child gets Ctrl-C once, from this process.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=STANDARD_ERROR, process_group=0
    )
    received: list[int] = []

    def pass_on(signum: int, _frame: FrameType | None) -> None:
        received.append(signum)
        process.send_signal(signum)

    is_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS if is_main_thread}
    ignored = (signal.SIG_IGN, None)  # as SIGHUP under nohup; None if set outside of Python
    handlers = {signum: handler for signum, handler in handlers.items() if handler not in ignored}
    for signum in handlers:
        signal.signal(signum, pass_on)
    try:
        return_code = process.wait()
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    if received:
        signal.raise_signal(received[0])
    return return_code
