"""Starts and failures of a run, read from its output.log."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
from pathlib import Path

from flaxres.errors import DamagedFileError
from flaxres.run.text_files import line_blocks

LOG_FILE = "output.log"  # in the workdir of a run: its command and everything that it prints

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
    starts: list[Start] = []
    last_line, has_traceback = "", False  # of the output since the last start
    try:
        for block in line_blocks(path, complete=False):
            for line in block.decode(errors="replace").split("\n"):
                if start := _parse_start(line):
                    starts.append(start)
                    last_line, has_traceback = "", False
                elif text := line.strip():
                    last_line = text
                    has_traceback = has_traceback or text == TRACEBACK
    except (FileNotFoundError, DamagedFileError):
        return Log()
    failed = last_line.startswith(ERROR) or has_traceback
    return Log(tuple(starts), last_line.removeprefix(ERROR) if failed else "")


def _parse_start(line: str) -> Start | None:
    if not line.startswith("# "):
        return None
    match = START.fullmatch(line.rstrip())
    with contextlib.suppress(ValueError):
        if match and datetime.datetime.fromisoformat(match["time"]):
            return Start(**match.groupdict())
    return None
