"""Jobs of SLURM as squeue shows them; it needs no accounting."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import tempfile
import time
from pathlib import Path

from experiments.executors.base import End
from experiments.executors.slurm_node import KILL, exit_code_file

PERIOD = 3.0  # seconds between two calls of squeue
MISSED = 3  # answers of squeue without a job after which it counts as lost

SQUEUE = ("squeue", f"--user={os.getuid()}", "--noheader", "--array", "--states=all")
SQUEUE += ("--format=%i|%T|%r",)  # job, state, reason
QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
ENDED = {
    "COMPLETED": "",
    "FAILED": "failed before its run began, or was killed",
    "CANCELLED": "was cancelled (scancel)",
    "TIMEOUT": "was still running at its time limit",
    "OUT_OF_MEMORY": "ran out of memory; ask SLURM for more (mem)",
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "lost its node, which did not boot",
    "PREEMPTED": "was preempted",
    "DEADLINE": "missed its deadline",
    "REVOKED": "was revoked",
}
# Reasons for which a job stays in the queue until somebody changes the job or the cluster.
FINAL_EXIT_CODES = {"BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionNodeLimit"}
FINAL_EXIT_CODES |= {"PartitionTimeLimit", "launch failed requeued held"}


class Queue:
    """What squeue says of this user's jobs: asked every PERIOD seconds, and never waited for.

    Attributes:
      states: (state, reason) of each job that SLURM knows.
      answers: how many times squeue has answered.
    """

    def __init__(self):
        self.states: dict[str, tuple[str, str]] = {}
        self.answers = 0
        self._asked = -math.inf
        self._process: subprocess.Popen | None = None

    def look(self) -> None:
        """Takes the answer of squeue if there is one, and asks if it is time.

        An error of squeue is no answer: the controller may be back the next time.
        """
        if self._process is None:
            if time.monotonic() - self._asked >= PERIOD:
                self._asked = time.monotonic()
                self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (a pipe may fill up)
                self._process = subprocess.Popen(
                    SQUEUE,
                    stdout=self._output,
                    stderr=subprocess.DEVNULL,
                    env=environment(),
                )
        elif self._process.poll() is not None:
            with self._output:
                if self._process.returncode == 0:
                    self._output.seek(0)
                    self.states = parse(self._output.read())
                    self.answers += 1
            self._process = None

    def close(self) -> None:
        """Ends a squeue that is running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._output.close()
            self._process = None


def environment() -> dict[str, str]:
    """This process's variables without those that would change what SQUEUE shows."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}


def parse(squeue: str) -> dict[str, tuple[str, str]]:
    """(state, reason) of each job in the output of SQUEUE."""
    lines = (line.split("|", 2) for line in squeue.splitlines())
    return {job.strip(): (state, reason) for job, state, reason in lines}


class SlurmJob:
    """A job of SLURM, queued, running, or waiting to go on; implements `Job`."""

    def __init__(self, job_id: str, folder: Path, queue: Queue):
        self.id = job_id
        self._folder = folder
        self._queue = queue
        self._started = False
        self._end: End | None = None
        self._seen = queue.answers + 1  # the answer that it was last in; the next may be too old
        self._cancelled: int | None = None  # the last answer before

    def started(self) -> bool:
        """Whether it has left the queue; stays true when it is requeued."""
        self._look()
        return self._started

    def poll(self) -> End | None:
        """How it ended, or None while it is queued, runs, or is requeued."""
        self._look()
        return self._end

    def stop(self) -> None:
        """Has SLURM cancel it: a run gets SIGTERM, and saves if KillWait is long enough."""
        self._cancelled = self._queue.answers
        _scancel(self.id)

    def kill(self) -> None:
        """Ends it at once; if it is stopping already, SLURM does so after its KillWait."""
        self._cancelled = self._queue.answers
        # SLURM's own SIGKILL comes after KillWait, or leaves processes behind.
        _scancel("--batch", f"--signal={KILL.name}", self.id)
        _scancel(self.id)

    def _look(self) -> None:
        if self._end is not None:
            return
        self._queue.look()
        state, reason = self._queue.states.get(self.id, ("", ""))
        if not state:
            if self._queue.answers - self._seen >= MISSED:
                self._finish("is not known to SLURM any more")
            return
        self._seen = self._queue.answers
        self._started |= state not in QUEUED
        if state in ENDED:
            self._finish(ENDED[state], 0 if state == "COMPLETED" else None)
        elif self._cancelled is not None:
            # In the moment it requeued itself it may have come through: SLURM requeues even that.
            if state != "COMPLETING" and self._queue.answers - self._cancelled >= 2:
                self.stop()
        elif state in QUEUED and reason in FINAL_EXIT_CODES:
            self.stop()
            self._finish(f"would never start ({reason}); it was cancelled")

    def _finish(self, what: str, code: int | None = None) -> None:
        """Notes the end; with the exit code of the run, if it got so far, where `code` is None."""
        if code is None:
            with contextlib.suppress(OSError, ValueError):
                code = int(exit_code_file(self._folder, self.id).read_text())
                what = "" if code == 0 or what == ENDED["FAILED"] else what
        reason = f"SLURM job {self.id} {what}" if what else ""
        if what == ENDED["FAILED"]:
            reason += f"; see {self._folder / self.id}_0_log.err"
        self._end = End(1 if code is None else code, reason)


def _scancel(*arguments: str) -> None:
    """Tells SLURM, which may not listen at the moment; `SlurmJob` tells it again."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", *arguments], capture_output=True, timeout=30, check=False)
