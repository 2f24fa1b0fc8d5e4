"""Executor for SLURM: submits runs as the jobs of an array.

A job that must make room (time limit, preemption, `scontrol requeue`) saves, returns to the queue,
and resumes from its checkpoint later. Jobs continue without the process that submitted them. An
executor with the same folder adopts the jobs that are still queued or running, instead of
submitting them a second time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from flaxres.errors import ConfigError, UserError, printable
from flaxres.experiments.executors.base import Executor, Task
from flaxres.experiments.executors.slurm_jobs import (
    FINAL_STATES,
    SQUEUE,
    Queue,
    SlurmJob,
    parse_squeue,
    scancel,
    squeue_environment,
)
from flaxres.experiments.executors.slurm_node import NOTICE_SIGNAL
from flaxres.experiments.executors.slurm_script import (
    make_script,
    read_records,
    task_digest,
    write_record,
)

MAX_NOTICE = 120  # seconds before the time limit at which SLURM notifies a job
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
# Variables of SLURM that describe the cluster, not the job in which this process runs.
CLUSTER_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")


class SlurmExecutor(Executor):
    """Submits runs to the SLURM cluster of this machine. Its jobs continue after it is closed.

    Args:
      folder: folder for the records and logs of the jobs, on a file system that all nodes share.
      time_limit_minutes: time limit of a job. A run that needs longer resumes in the same job after
        a requeue.
      cpus_per_task: CPUs of a run.
      gpus_per_task: GPUs of a run.
      partition: partition of SLURM; None for the default partition.
      additional: further options of sbatch without their dashes, such as {"mem": "8G"}; an option
        without a value has the value "".
      max_parallel: maximum number of jobs of one `submit` that run at the same time.

    Raises:
      ConfigError: an option is malformed.
      UserError: SLURM is not installed, or a number is too small.
    """

    def __init__(
        self,
        *,
        folder: Path,
        time_limit_minutes: int,
        cpus_per_task: int,
        gpus_per_task: int,
        partition: str | None,
        additional: dict[str, str],
        max_parallel: int,
    ):
        for program in PROGRAMS:
            if shutil.which(program) is None:
                raise UserError(
                    f"SLURM's {program} is not on the PATH; start the sweep on a machine from "
                    "which jobs can be submitted"
                )
        if min(time_limit_minutes, cpus_per_task, max_parallel) < 1 or gpus_per_task < 0:
            raise UserError(
                "a SLURM job needs at least 1 minute, 1 CPU, 0 GPUs and 1 job at a time, got "
                f"{time_limit_minutes}, {cpus_per_task}, {gpus_per_task} and {max_parallel}"
            )
        self._folder = folder.expanduser().absolute()
        self._queue = Queue()
        self._submitted_ids: set[str] = set()
        self._max_parallel = max_parallel
        notice = min(MAX_NOTICE, 60 * time_limit_minutes // 4)
        self._options = {
            "job-name": "flaxres",
            "time": str(time_limit_minutes),
            "nodes": "1",
            "ntasks-per-node": "1",
            "cpus-per-task": str(cpus_per_task),
            "requeue": "",
            "signal": f"B:{NOTICE_SIGNAL.name.removeprefix('SIG')}@{notice}",
            # SLURM would replace patterns such as %A in a path. The script opens its logs itself.
            "chdir": "/",
            "output": "/dev/null",
            "error": "/dev/null",
        }
        if gpus_per_task:
            self._options["gpus-per-node"] = str(gpus_per_task)
        if partition:
            self._options["partition"] = partition
        for name, value in additional.items():
            if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
                raise ConfigError(
                    f"--slurm_options must be options of sbatch, e.g. account=abc, got {name!r}"
                )
            self._options[name.replace("_", "-")] = value
        for name, value in {**self._options, "workdir": str(self._folder)}.items():
            if printable(value) != value:
                raise ConfigError(
                    f"--{name}={printable(value)} has characters that SLURM does not accept; use "
                    "printable characters in UTF-8 only"
                )

    def __exit__(self, *_: object) -> None:
        self._queue.close()

    def submit(self, tasks: Sequence[Task]) -> list[SlurmJob]:
        """Queues tasks as one array of jobs, except those that an earlier executor submitted.

        Raises:
          UserError: SLURM rejects the jobs, or `folder` cannot be written.
        """
        adopted_ids = self._find_earlier_jobs()
        digests = [task_digest(task) for task in tasks]
        new = [(t, d) for t, d in zip(tasks, digests, strict=True) if d not in adopted_ids]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            new_ids = self._sbatch([task for task, _ in new]) if new else []
        except OSError as error:
            raise UserError(
                f"SLURM jobs cannot be prepared in {self._folder} ({error.strerror})"
            ) from error
        job_ids = adopted_ids | dict(zip((digest for _, digest in new), new_ids, strict=True))
        self._submitted_ids |= set(job_ids.values())
        return [SlurmJob(job_ids[digest], self._folder, self._queue) for digest in digests]

    def _sbatch(self, tasks: Sequence[Task]) -> list[str]:
        """Submits tasks; returns the ids of their jobs.

        Raises:
          OSError: sbatch cannot be started, or the record of the jobs cannot be written.
          UserError: SLURM rejects the jobs.
        """
        # Options are arguments, not lines of the script: no character in them has a meaning there.
        options = {"array": f"0-{len(tasks) - 1}%{self._max_parallel}", **self._options}
        arguments = [
            f"--{name}" + (f"={value}" if value else "") for name, value in options.items()
        ]
        sbatch = subprocess.run(
            ["sbatch", "--parsable", *arguments],
            input=make_script(tasks, self._folder),
            capture_output=True,
            env=_sbatch_environment(os.environ),
            check=False,
        )
        array_id = sbatch.stdout.decode(errors="replace").strip().partition(";")[0]
        if sbatch.returncode or not array_id.isdecimal():
            answer = (sbatch.stderr or sbatch.stdout).decode(errors="replace")
            lines = [line.removeprefix("sbatch: ") for line in answer.splitlines()]
            message = "; ".join(line.removeprefix("error: ") for line in lines if line)
            raise UserError(f"SLURM rejects the jobs: {printable(message)}")
        try:
            write_record(self._folder, array_id, tasks)
        except OSError:
            scancel(array_id)  # the next sweep would not know these jobs
            raise
        return [f"{array_id}_{index}" for index in range(len(tasks))]

    def _find_earlier_jobs(self) -> dict[str, str]:
        """Returns the ids of jobs that an earlier executor with this folder left in the queue.

        Returns:
          Job ids by the digest of the task.

        Raises:
          UserError: there are jobs that version 0.1.0 submitted, whose tasks are not known.
        """
        recorded = read_records(self._folder)
        pickles = self._folder.glob("*_submitted.pkl")  # never read: pickles can run any code
        former = {path.name.removesuffix("_submitted.pkl") for path in pickles}
        if not recorded and not former:
            return {}
        squeue = subprocess.run(
            SQUEUE, capture_output=True, text=True, env=squeue_environment(), check=False
        )
        states = parse_squeue(squeue.stdout)
        queued = {job_id for job_id, (state, _) in states.items() if state not in FINAL_STATES}
        if former & queued:
            raise UserError(
                "jobs of an earlier version of flaxres are in the queue: "
                f"{', '.join(sorted(former & queued))}; wait for them, or cancel them with scancel"
            )
        new_ids = queued - self._submitted_ids
        return {digest: job_id for job_id, digest in recorded.items() if job_id in new_ids}


def _sbatch_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns variables without those of the SLURM job in which this process may be running.

    sbatch passes all variables on, and the new job would use some of these as its own.
    """
    if "SLURM_JOB_ID" not in environment:
        return dict(environment)
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("SLURM_") or name in CLUSTER_VARIABLES
    }
