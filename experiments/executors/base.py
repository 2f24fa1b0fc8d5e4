"""Tasks, jobs and executors: the interface between a sweep and the place where its runs execute."""

from __future__ import annotations

import abc
import dataclasses
import datetime
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from flaxres.files import open_regular
from flaxres.run.preemption import PARENT_VARIABLE

# A log has no colors and progress bars, also where FORCE_COLOR is set, as in Jupyter's kernels.
LOG_VARIABLES = {"FORCE_COLOR": ""}


@dataclasses.dataclass(frozen=True)
class Task:
    """The command of one run.

    Attributes:
      name: name of the run, such as resnet-20/seed-0.
      command: program and arguments.
      directory: absolute path of the directory in which the command starts.
      log: absolute path of the file to which standard output and error are appended.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    log: Path

    def start(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts the command in its own session, so that Ctrl-C in the terminal does not reach it.

        When this process ends, the command receives SIGTERM and saves
        (`flaxres.run.preemption.stop_with_parent`).

        Args:
          environment: variables to set in addition to those of this process.

        Raises:
          OSError: the log cannot be written, or it is not a regular file.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        log_descriptor = open_regular(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with os.fdopen(log_descriptor, "ab", buffering=0) as log:
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            start = f"# {now} {os.uname().nodename}: {shlex.join(self.command)}\n"
            log.write(os.fsencode(start))
            variables = {PARENT_VARIABLE: str(os.getpid()), **LOG_VARIABLES}
            return subprocess.Popen(
                self.command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {}), **variables},
                start_new_session=True,
            )


@dataclasses.dataclass(frozen=True)
class ExitStatus:
    """Outcome of a job.

    Attributes:
      code: exit code of the command, or the negative number of the signal that killed it.
      reason: explanation, if the executor knows more than the code (for example, a lost node).
    """

    code: int
    reason: str = ""


class Job(abc.ABC):
    """One submitted task."""

    @abc.abstractmethod
    def has_started(self) -> bool:
        """Returns True once the job has left the queue, also after it has ended."""

    @abc.abstractmethod
    def poll(self) -> ExitStatus | None:
        """Returns how the job ended, or None while it is queued or running.

        The scheduler calls this twice a second, so it must be fast.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """Asks the job to save and stop (SIGTERM) or removes it from the queue; does not wait."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Ends the job at once, without saving."""


class EndedJob(Job):
    """A task that could not be started."""

    def __init__(self, exit_status: ExitStatus):
        """Creates the job of a task that ended with `exit_status`."""
        self._exit_status = exit_status

    def has_started(self) -> bool:
        """Returns True: the job is not in a queue."""
        return True

    def poll(self) -> ExitStatus:
        """Returns why the task could not be started."""
        return self._exit_status

    def stop(self) -> None:
        """Does nothing."""

    def kill(self) -> None:
        """Does nothing."""


class Executor(abc.ABC):
    """A place to execute tasks; a context manager that releases its resources.

    Attributes:
      capacity: maximum number of tasks at a time; None if the executor has its own queue.
    """

    capacity: int | None = None

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        return

    @abc.abstractmethod
    def submit(self, tasks: Sequence[Task]) -> Sequence[Job]:
        """Starts or queues tasks in the given order.

        Args:
          tasks: tasks, no more than there are free places if `capacity` is not None.

        Returns:
          A job for each task.

        Raises:
          UserError: the cluster cannot be reached or rejects the tasks.
        """
