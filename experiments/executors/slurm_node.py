"""What a SLURM job does on its node."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path

from experiments.executors.base import Task

KILL = signal.SIGQUIT


class NodeTask:
    """What a job does on its node: it starts a task's command as a child, and ends as that ends.

    SLURM asks a job to stop in two ways. SIGUSR2 announces the time limit and, where the cluster
    is set up so, a preemption: submitit then calls `checkpoint` and requeues the job. With SIGTERM
    SLURM itself has decided what becomes of the job (`scontrol requeue`, preemption, `scancel`),
    and kills it KillWait seconds later. KILL, which `SlurmJob` sends, kills the child at once.
    """

    def __init__(self, task: Task):
        self.task = task
        self._child: int | None = None  # its process
        self._exit_code: Path | None = None  # file for it
        self._stopping = False
        self._told = False

    def __call__(self) -> None:
        """Runs the task.

        Raises:
          SystemExit: the exit code of its command, 128 + signal if one killed it.
        """
        from submitit import JobEnvironment

        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(KILL, lambda *_: self._kill())
        job = JobEnvironment()
        notice = getattr(signal, f"SIG{job.USR_SIG}")
        self._exit_code = exit_code_file(job.paths.folder, job.job_id)
        self._exit_code.unlink(missing_ok=True)  # that of an earlier attempt
        # Inherited by the child, which would end if SLURM sent it this signal too.
        signal.pthread_sigmask(signal.SIG_BLOCK, {notice})
        process = self.task.start()
        self._child = process.pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {notice})
        if self._stopping:
            self._stop()
        code = process.wait()
        signal.signal(notice, signal.SIG_IGN)  # nothing to stop any more, or to requeue
        self._exit(code if code >= 0 else 128 - code)

    def checkpoint(self) -> object:
        """Has the run save and stop; returns what submitit is to start after the requeue.

        Raises:
          SystemExit: the run has not saved (it ended by itself, or had not begun): no requeue.
        """
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._stop()
            with contextlib.suppress(ChildProcessError):  # it had ended, and `wait` was told
                end = os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOWAIT)
                exited = end.si_code == os.CLD_EXITED
                if not exited or end.si_status != 128 + signal.SIGTERM:
                    self._exit(end.si_status if exited else 128 + end.si_status)
        return DelayedSubmission(NodeTask(self.task))

    def _exit(self, code: int) -> None:
        self._exit_code.write_text(f"{code}\n")
        sys.exit(code)

    def _kill(self) -> None:
        if self._child is None:
            sys.exit(128 + signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)

    def _stop(self) -> None:
        """Sends SIGTERM to the child, unless SLURM has done so.

        Depending on the cluster, SLURM sends signals to the first process of a job or to all of
        them; and a run that gets SIGTERM twice ends without saving. A run catches the first only,
        so as long as it catches it, it has had none.
        """
        self._stopping = True
        if self._child is None or self._told:
            return
        self._told = True
        time.sleep(0.5)  # until it has taken note of SLURM's
        while (caught := _catches(self._child, signal.SIGTERM)) is False:
            time.sleep(0.2)  # it has not begun yet, or is saving
        if caught:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGTERM)


def _catches(pid: int, signum: int) -> bool | None:
    """Whether a process has a handler for a signal; None if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    if re.search(r"^State:\s+[ZX]", status, re.MULTILINE):
        return None
    caught = int(re.search(r"^SigCgt:\s+(\w+)", status, re.MULTILINE)[1], 16)
    return bool(caught >> (signum - 1) & 1)


def exit_code_file(folder: Path, job_id: str) -> Path:
    """Where a job leaves the exit code of its run; SLURM forgets it after its MinJobAge."""
    return folder / f"{job_id}_exit_code"
