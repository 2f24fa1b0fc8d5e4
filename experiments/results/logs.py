"""What output.log says of a run: how it was started, and why it failed."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
from pathlib import Path

# As `experiments.executors.base.Task.start` writes it.
START = re.compile(r"# (?P<time>\d{4}-\S+) (?P<host>\S+): (?P<command>\S.*)")
# Of `flaxres.cli` and of Python.
ERROR, TRACEBACK = "error: ", "Traceback (most recent call last):"


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
      time: ISO 8601, with the offset from UTC.
      host: name of the machine.
      command: for a shell, in the directory that holds the config file that it names.
    """

    time: str
    host: str
    command: str


@dataclasses.dataclass(frozen=True)
class Log:
    """What an output.log says.

    Attributes:
      starts: in their order.
      failure: the error with which the last start ended, in one line; empty if it ended without
        one, was stopped or killed, or is at work.
    """

    starts: tuple[Start, ...] = ()
    failure: str = ""


def read_log(path: Path) -> Log:
    """Reads an output.log; one that is missing or cannot be read says nothing."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return Log()
    starts, last = [], []  # the lines since the last start
    for line in lines:
        if start := _start(line):
            starts.append(start)
            last = []
        elif line.strip():
            last.append(line.strip())
    failed = last and (last[-1].startswith(ERROR) or TRACEBACK in last)
    return Log(tuple(starts), last[-1].removeprefix(ERROR) if failed else "")


def _start(line: str) -> Start | None:
    match = START.fullmatch(line.rstrip())
    with contextlib.suppress(ValueError):
        if match and datetime.datetime.fromisoformat(match["time"]):
            return Start(**match.groupdict())
    return None
