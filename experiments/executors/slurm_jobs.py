"""Jobs of SLURM, watched with squeue; SLURM's accounting is not needed."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path

from flaxres.experiments.executors.base import ExitStatus, Job
from flaxres.experiments.executors.slurm_node import KILL_SIGNAL, read_exit_code

PERIOD = 3.0  # seconds between two calls of squeue
MAX_MISSING_ANSWERS = 3  # a job missing in so many answers of squeue counts as lost
CANCEL_AGAIN_ANSWERS = 2  # a job still there after so many answers is canceled again
SCANCEL_TIMEOUT = 30  # seconds

SQUEUE = (
    *("squeue", f"--user={os.getuid()}", "--noheader", "--array", "--states=all"),
    "--format=%i|%T|%r",  # job, state, reason
)
QUEUED_STATES = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
# Final states and what they say about a job.
FINAL_STATES = {
    "COMPLETED": "",
    "FAILED": "failed before its run started, or was killed",
    "CANCELLED": "was canceled (scancel)",
    "TIMEOUT": "was still running at its time limit",
    "OUT_OF_MEMORY": "ran out of memory; request more with --slurm_options=mem=SIZE",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "lost its node, which did not boot",
    "PREEMPTED": "was preempted",
    "DEADLINE": "missed its deadline",
    "REVOKED": "was revoked",
}
# Reasons for which a job stays queued until somebody changes the job or the cluster.
FINAL_REASONS = {
    *("BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionNodeLimit"),
    *("PartitionTimeLimit", "launch failed requeued held"),
}


class Queue:
    """States of this user's jobs, from calls of squeue every PERIOD seconds that run in background.

    Attributes:
      states: (state, reason) of each job that SLURM knows, by job id.
      answers: number of answers of squeue so far.
    """

    def __init__(self) -> None:
        self.states: dict[str, tuple[str, str]] = {}
        self.answers = 0
        self._last_call = -math.inf
        self._process: subprocess.Popen[bytes] | None = None

    def update(self) -> None:
        """Reads the answer of squeue if it is ready, and calls squeue if PERIOD is over.

        A failed call does not count as an answer: the controller may be back for the next one.
        """
        if self._process is None:
            if time.monotonic() - self._last_call >= PERIOD:
                self._last_call = time.monotonic()
                # A file, as a pipe may fill up.
                self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115
                self._process = subprocess.Popen(
                    SQUEUE,
                    stdout=self._output,
                    stderr=subprocess.DEVNULL,
                    env=squeue_environment(),
                )
        elif self._process.poll() is not None:
            with self._output:
                if self._process.returncode == 0:
                    self._output.seek(0)
                    self.states = parse_squeue(self._output.read())
                    self.answers += 1
            self._process = None

    def close(self) -> None:
        """Kills squeue if it is running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._output.close()
            self._process = None


def squeue_environment() -> dict[str, str]:
    """Returns the variables of this process without those that change the output of squeue."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}


def parse_squeue(output: str) -> dict[str, tuple[str, str]]:
    """Parses the output of SQUEUE into (state, reason) by job id."""
    lines = (line.split("|", 2) for line in output.splitlines())
    return {job_id.strip(): (state, reason) for job_id, state, reason in lines}


class SlurmJob(Job):
    """A job of SLURM that is queued, running, or requeued to resume.

    Attributes:
      id: job id of SLURM, such as 12_0.
    """

    def __init__(self, job_id: str, folder: Path, queue: Queue):
        """Watches a job.

        Args:
          job_id: job id of SLURM.
          folder: folder with the files of the job.
          queue: states of all jobs.
        """
        self.id = job_id
        self._folder = folder
        self._queue = queue
        self._has_started = False
        self._exit_status: ExitStatus | None = None
        # Number of the last answer of squeue with this job. The next answer may be too old for it.
        self._last_seen = queue.answers + 1
        self._canceled_at: int | None = None  # number of the last answer before the job's scancel

    def has_started(self) -> bool:
        """Returns True once the job has left the queue, also when it is requeued."""
        self._update()
        return self._has_started

    def poll(self) -> ExitStatus | None:
        """Returns how the job ended, or None while it is queued, running or requeued."""
        self._update()
        return self._exit_status

    def stop(self) -> None:
        """Cancels the job: the run gets SIGTERM, and saves if SLURM's KillWait is long enough."""
        self._canceled_at = self._queue.answers
        scancel(self.id)

    def kill(self) -> None:
        """Kills the job at once, or, if it is already stopping, leaves that to SLURM."""
        self._canceled_at = self._queue.answers
        # SLURM's own SIGKILL comes only after KillWait, or leaves processes behind.
        scancel("--batch", f"--signal={KILL_SIGNAL.name}", self.id)
        scancel(self.id)

    def _update(self) -> None:
        if self._exit_status is not None:
            return
        self._queue.update()
        state, reason = self._queue.states.get(self.id, ("", ""))
        if not state:
            if self._queue.answers - self._last_seen >= MAX_MISSING_ANSWERS:
                self._finish("is no longer known to SLURM")
            return
        self._last_seen = self._queue.answers
        self._has_started |= state not in QUEUED_STATES
        if state in FINAL_STATES:
            self._finish(FINAL_STATES[state], 0 if state == "COMPLETED" else None)
        elif self._canceled_at is not None:
            # SLURM requeues a job that is canceled at the moment it requeues itself.
            answers = self._queue.answers - self._canceled_at
            if state != "COMPLETING" and answers >= CANCEL_AGAIN_ANSWERS:
                self.stop()
        elif state in QUEUED_STATES and reason in FINAL_REASONS:
            self.stop()
            self._finish(f"would never start ({reason}); it was canceled")

    def _finish(self, what: str, code: int | None = None) -> None:
        """Sets the exit status.

        Args:
          what: what happened to the job; a phrase that follows its name.
          code: exit code; None for the code that the run left, or 1 if it left none.
        """
        if code is None:
            with contextlib.suppress(OSError, ValueError):
                code = read_exit_code(self._folder, self.id)
                what = "" if code == 0 or what == FINAL_STATES["FAILED"] else what
        reason = f"SLURM job {self.id} {what}" if what else ""
        if what == FINAL_STATES["FAILED"]:
            reason += f"; see {self._folder / self.id}_0_log.err"
        self._exit_status = ExitStatus(1 if code is None else code, reason)


def scancel(*arguments: str) -> None:
    """Calls scancel. If the controller does not answer, `SlurmJob` cancels the job again later."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            ["scancel", *arguments], capture_output=True, timeout=SCANCEL_TIMEOUT, check=False
        )
