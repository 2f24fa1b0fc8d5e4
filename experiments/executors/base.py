"""What the sweep asks of an executor: to start a run's command somewhere and to watch it."""

from __future__ import annotations

import dataclasses
import datetime
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from flaxres.run.preemption import PARENT_VARIABLE


@dataclasses.dataclass(frozen=True)
class Task:
    """The command of one run.

    Attributes:
      name: of the run, e.g. resnet-20/seed-0.
      command: program and arguments.
      directory: where to start it; absolute.
      log: file to which its standard output and error are appended; absolute.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    log: Path

    def start(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen:
        """Starts the command in a session of its own, so that a Ctrl-C does not reach it.

        It gets SIGTERM, and saves, when this process ends (`flaxres.run.preemption.stop_with_parent`).

        Args:
          environment: variables on top of this process's own.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab", buffering=0) as log:
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            log.write(f"# {now} {os.uname().nodename}: {shlex.join(self.command)}\n".encode())
            return subprocess.Popen(
                self.command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {}), PARENT_VARIABLE: str(os.getpid())},
                start_new_session=True,
            )


@dataclasses.dataclass(frozen=True)
class End:
    """How a job ended.

    Attributes:
      code: exit code of the command; negative for the signal that killed it.
      reason: why, where the executor knows more than the code says (a node died, say).
    """

    code: int
    reason: str = ""


class Job(Protocol):
    """One submitted task."""

    def started(self) -> bool:
        """Whether it has left the queue; stays true."""

    def poll(self) -> End | None:
        """How it ended, or None while it is queued or runs. Cheap: called every second."""

    def stop(self) -> None:
        """Asks it to save and stop (SIGTERM, or leaving the queue); `poll` tells when it has."""

    def kill(self) -> None:
        """Ends it at once."""


class Executor(Protocol):
    """A place to execute tasks; a context manager, which lets go of what it holds.

    Attributes:
      capacity: tasks that it takes at the same time; None if it has a queue of its own.
    """

    capacity: int | None

    def __enter__(self) -> Executor: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(self, tasks: Sequence[Task]) -> list[Job]:
        """Starts or queues tasks, at most `capacity` at a time, in this order.

        Raises:
          UserError: the cluster cannot be reached or refuses them.
        """
