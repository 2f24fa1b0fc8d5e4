"""Starts and failures of a run, read from its output.log."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
from pathlib import Path

# The line that `experiments.executors.base.Task.start` writes before the output of the command.
START = re.compile(r"# (?P<time>\d{4}-\S+) (?P<host>\S+): (?P<command>\S.*)")
ERROR = "error: "  # prefix of the line that `flaxres.cli` prints for a UserError
TRACEBACK = "Traceback (most recent call last):"  # Python prints it for any other exception


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
      time: ISO 8601 time with the offset from UTC.
      host: name of the machine.
      command: shell command, to be run in the directory that holds the config file it names.
    """

    time: str
    host: str
    command: str


@dataclasses.dataclass(frozen=True)
class Log:
    """Starts of a run and its last failure.

    Attributes:
      starts: starts in the order of the log.
      failure: one-line error that ended the last start. Empty if that start ended without an
        error, was stopped or killed, or is still running.
    """

    starts: tuple[Start, ...] = ()
    failure: str = ""


def read_log(path: Path) -> Log:
    """Reads an output.log; returns an empty `Log` if the file is missing or cannot be read."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return Log()
    starts: list[Start] = []
    output: list[str] = []  # lines since the last start
    for line in lines:
        if start := _parse_start(line):
            starts.append(start)
            output = []
        elif line.strip():
            output.append(line.strip())
    failed = output and (output[-1].startswith(ERROR) or TRACEBACK in output)
    return Log(tuple(starts), output[-1].removeprefix(ERROR) if failed else "")


def _parse_start(line: str) -> Start | None:
    match = START.fullmatch(line.rstrip())
    with contextlib.suppress(ValueError):
        if match and datetime.datetime.fromisoformat(match["time"]):
            return Start(**match.groupdict())
    return None
