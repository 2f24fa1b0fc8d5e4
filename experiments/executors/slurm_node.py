"""The part of a SLURM job that runs on the node: starts the command and forwards signals to it.

The batch script (`experiments.executors.slurm_script`) starts it as
python -m flaxres.experiments.executors.slurm_node FOLDER NAME DIRECTORY LOG COMMAND...
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from flaxres.experiments.executors.base import Task
from flaxres.files import open_regular, write_atomically

NOTICE_SIGNAL = signal.SIGUSR2  # announces the time limit
KILL_SIGNAL = signal.SIGQUIT  # `SlurmJob.kill` sends it to the job
REQUEUE_TIMEOUT = 60  # seconds
REQUEUED = 255  # exit code of an attempt after which the job is queued again


class NodeTask:
    """Starts a task's command as a child process and exits with its exit code.

    SLURM asks a job to stop in two ways:

    - NOTICE_SIGNAL announces the time limit and, if the cluster is configured so, a preemption. The
      job stops the run and requeues itself.
    - SIGTERM means that SLURM has already decided what happens to the job (`scontrol requeue`,
      preemption, `scancel`). SLURM kills the job KillWait seconds later.

    KILL_SIGNAL kills the child process at once.
    """

    def __init__(self, task: Task, folder: Path, job_id: str):
        """Prepares a task.

        Args:
          task: the task.
          folder: folder for the exit code.
          job_id: id of the job, such as 12_0.
        """
        self._task = task
        self._job_id = job_id
        self._exit_code_file = exit_code_file(folder, job_id)
        self._child_pid: int | None = None
        self._stopping = False
        self._sent_sigterm = False

    def run(self) -> NoReturn:
        """Runs the task.

        Raises:
          SystemExit: always; with the exit code of the command, 128 + signal if it was killed, or 1
            if it cannot be started.
        """
        signal.signal(NOTICE_SIGNAL, lambda *_: self._requeue())
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(KILL_SIGNAL, lambda *_: self._kill())
        self._exit_code_file.unlink(missing_ok=True)  # left by an earlier attempt
        # The child inherits the mask. Unmasked, the signal would end it if SLURM sent it there too.
        signal.pthread_sigmask(signal.SIG_BLOCK, {NOTICE_SIGNAL})
        try:
            process = self._task.start()
        except OSError as error:
            sys.exit(f"error: the run cannot be started: {error}")
        self._child_pid = process.pid
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {NOTICE_SIGNAL})
        if self._stopping:
            self._stop()
        code = process.wait()
        # The command has ended: there is nothing to stop or requeue.
        signal.signal(NOTICE_SIGNAL, signal.SIG_IGN)
        self._exit(code if code >= 0 else 128 - code)

    def _requeue(self) -> NoReturn:
        """Stops the run after a checkpoint, and returns the job to the queue.

        Raises:
          SystemExit: always. The job is not requeued if the run ended without a checkpoint.
        """
        stopped = 128 + signal.SIGTERM
        if self._child_pid is not None:
            self._stop()
            with contextlib.suppress(ChildProcessError):  # `run` has already waited for it
                result = os.waitid(os.P_PID, self._child_pid, os.WEXITED | os.WNOWAIT)
                if result is not None:  # None only with WNOHANG
                    exited = result.si_code == os.CLD_EXITED
                    if not exited or result.si_status != stopped:
                        self._exit(result.si_status if exited else 128 + result.si_status)
        command = ["scontrol", "requeue", self._job_id]
        try:
            subprocess.run(command, timeout=REQUEUE_TIMEOUT, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"error: the job cannot be requeued: {error}", file=sys.stderr)
            self._exit(stopped)
        sys.exit(REQUEUED)

    def _exit(self, code: int) -> NoReturn:
        with contextlib.suppress(OSError):  # SLURM also knows the code, for a while
            write_atomically(self._exit_code_file, f"{code}\n")
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


def read_exit_code(folder: Path, job_id: str) -> int:
    """Returns the exit code that a job has left.

    Raises:
      OSError: the job has left none, or there is something else than a file in its place.
      ValueError: the file has other content.
    """
    with open(open_regular(exit_code_file(folder, job_id), os.O_RDONLY), "rb") as file:
        content = file.read(10)
    if not re.fullmatch(rb"\d{1,3}\n", content):
        raise ValueError(f"no exit code: {content!r}")
    return int(content)


def main() -> NoReturn:
    """Runs the task on the command line, in a job of SLURM."""
    if len(sys.argv) < 6 or "SLURM_JOB_ID" not in os.environ:
        print("error: only a sweep's jobs on SLURM can run this program", file=sys.stderr)
        sys.exit(2)
    folder, name, directory, log, *command = sys.argv[1:]
    job_id = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job_id = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    NodeTask(Task(name, tuple(command), Path(directory), Path(log)), Path(folder), job_id).run()


if __name__ == "__main__":
    main()
