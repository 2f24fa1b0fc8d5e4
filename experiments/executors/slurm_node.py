"""The part of a SLURM job that runs on the node: starts the command and forwards signals to it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from experiments.executors.base import Task

KILL_SIGNAL = signal.SIGQUIT  # `SlurmJob.kill` sends it to the job


class NodeTask:
    """Starts a task's command as a child process and exits with its exit code.

    SLURM asks a job to stop in two ways:

    - SIGUSR2 announces the time limit and, if the cluster is configured so, a preemption. submitit
      then calls `checkpoint` and requeues the job.
    - SIGTERM means that SLURM has already decided what happens to the job (`scontrol requeue`,
      preemption, `scancel`). SLURM kills the job KillWait seconds later.

    KILL_SIGNAL kills the child process at once.
    """

    _exit_code_file: Path  # set by `__call__`, on the node

    def __init__(self, task: Task):
        self.task = task
        self._child_pid: int | None = None
        self._stopping = False
        self._sent_sigterm = False

    def __call__(self) -> None:
        """Runs the task.

        Raises:
          SystemExit: always; with the exit code of the command, or 128 + signal if it was killed.
        """
        from submitit import JobEnvironment

        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(KILL_SIGNAL, lambda *_: self._kill())
        job = JobEnvironment()
        notice = getattr(signal, f"SIG{job.USR_SIG}")
        self._exit_code_file = exit_code_file(job.paths.folder, job.job_id)
        self._exit_code_file.unlink(missing_ok=True)  # left by an earlier attempt
        # The child inherits the mask. Unmasked, the signal would end it if SLURM sent it there too.
        signal.pthread_sigmask(signal.SIG_BLOCK, {notice})
        process = self.task.start()
        self._child_pid = process.pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {notice})
        if self._stopping:
            self._stop()
        code = process.wait()
        signal.signal(notice, signal.SIG_IGN)  # the command has ended: nothing to stop or requeue
        self._exit(code if code >= 0 else 128 - code)

    def checkpoint(self) -> object:
        """Stops the run after a checkpoint; returns what submitit starts after the requeue.

        Raises:
          SystemExit: the run ended without a checkpoint, so the job is not requeued.
        """
        from submitit.helpers import DelayedSubmission

        if self._child_pid is not None:
            self._stop()
            with contextlib.suppress(ChildProcessError):  # `__call__` has already waited for it
                result = os.waitid(os.P_PID, self._child_pid, os.WEXITED | os.WNOWAIT)
                if result is not None:  # None only with WNOHANG
                    exited = result.si_code == os.CLD_EXITED
                    if not exited or result.si_status != 128 + signal.SIGTERM:
                        self._exit(result.si_status if exited else 128 + result.si_status)
        return DelayedSubmission(NodeTask(self.task))

    def _exit(self, code: int) -> NoReturn:
        self._exit_code_file.write_text(f"{code}\n")
        sys.exit(code)

    def _kill(self) -> None:
        if self._child_pid is None:
            sys.exit(128 + signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child_pid, signal.SIGKILL)

    def _stop(self) -> None:
        """Sends SIGTERM to the child process, unless SLURM has already done so.

        Depending on the cluster, SLURM sends signals to the first process of a job or to all of
        them. A run must not receive SIGTERM twice, because the second one ends it without a
        checkpoint. It handles only the first one, so as long as it has a handler, it received none.
        """
        self._stopping = True
        if self._child_pid is None or self._sent_sigterm:
            return
        self._sent_sigterm = True
        time.sleep(0.5)  # the child may still be processing SLURM's own SIGTERM
        while (handles_sigterm := _has_handler(self._child_pid, signal.SIGTERM)) is False:
            time.sleep(0.2)  # the child has not installed its handler yet, or is saving
        if handles_sigterm:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child_pid, signal.SIGTERM)


def _has_handler(pid: int, signum: int) -> bool | None:
    """Returns True if a process has a handler for a signal; None if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    if re.search(r"^State:\s+[ZX]", status, re.MULTILINE):
        return None
    caught_signals = int(re.findall(r"^SigCgt:\s+(\w+)", status, re.MULTILINE)[0], 16)
    return bool(caught_signals >> (signum - 1) & 1)


def exit_code_file(folder: Path, job_id: str) -> Path:
    """Returns the file in which a job leaves its exit code, because SLURM forgets old jobs."""
    return folder / f"{job_id}_exit_code"
