"""Executor for SLURM: submits runs as the jobs of an array, with submitit.

A job that must make room (time limit, preemption, `scontrol requeue`) saves, returns to the queue,
and resumes from its checkpoint later. Jobs continue without the process that submitted them. An
executor with the same folder adopts the jobs that are still queued or running, instead of
submitting them a second time.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.executors.base import Executor, Task
from experiments.executors.slurm_jobs import (
    FINAL_STATES,
    SQUEUE,
    Queue,
    SlurmJob,
    parse_squeue,
    squeue_environment,
)
from experiments.executors.slurm_node import NodeTask
from flaxres.errors import UserError

ROOT = Path(__file__).parents[2]  # root of the repository
MAX_NOTICE = 120  # seconds before the time limit at which SLURM notifies a job
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")  # submitit requires srun
# Variables of SLURM that describe the cluster, not the job in which this process runs.
CLUSTER_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")


class SlurmExecutor(Executor):
    """Submits runs to the SLURM cluster of this machine. Its jobs continue after it is closed.

    Args:
      folder: folder for the files and logs of submitit, on a file system that all nodes share.
      time_limit_minutes: time limit of a job. A run that needs longer resumes in the same job after
        a requeue.
      cpus_per_task: CPUs of a run.
      gpus_per_task: GPUs of a run.
      partition: partition of SLURM; None for the default partition.
      additional: further options of sbatch without their dashes, such as {"mem": "8G"}; an option
        without a value has the value "".
      max_parallel: maximum number of jobs of one `submit` that run at the same time.

    Raises:
      UserError: submitit or SLURM is not installed, or a number is too small.
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
        try:
            import submitit
        except ImportError:
            raise UserError(
                "submitit, which submits jobs to SLURM, is not installed; run "
                "pip install -r requirements-cluster.txt"
            ) from None
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
        # The command replaces the shell of the batch step, without srun. Signals then have one
        # receiver, and the exit code of the job is that of the run.
        self._submitit = submitit.SlurmExecutor(
            self._folder, max_num_timeout=sys.maxsize, python=f"exec {shlex.quote(sys.executable)}"
        )
        notice = min(MAX_NOTICE, 60 * time_limit_minutes // 4)
        self._submitit.update_parameters(
            job_name="flaxres",
            time=time_limit_minutes,
            nodes=1,
            ntasks_per_node=1,
            cpus_per_task=cpus_per_task,
            gpus_per_node=gpus_per_task or None,
            partition=partition,
            array_parallelism=max_parallel,
            use_srun=False,
            additional_parameters={
                "chdir": ROOT,  # the job imports this module from there
                "requeue": True,
                "signal": f"B:{submitit.JobEnvironment.USR_SIG}@{notice}",
                **{name.replace("-", "_"): value or True for name, value in additional.items()},
            },
        )

    def __exit__(self, *_: object) -> None:
        self._queue.close()

    def submit(self, tasks: Sequence[Task]) -> list[SlurmJob]:
        """Queues tasks as one array of jobs, except those that an earlier executor submitted.

        Raises:
          UserError: SLURM rejects the jobs, or `folder` cannot be written.
        """
        adopted_ids = self._find_earlier_jobs()
        new_tasks = [task for task in tasks if task not in adopted_ids]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            new_ids = self._sbatch(new_tasks) if new_tasks else []
            job_ids = adopted_ids | dict(zip(new_tasks, new_ids, strict=True))
        except OSError as error:
            raise UserError(
                f"SLURM jobs cannot be prepared in {self._folder} ({error.strerror})"
            ) from error
        self._submitted_ids |= set(job_ids.values())
        return [SlurmJob(job_ids[task], self._folder, self._queue) for task in tasks]

    def _sbatch(self, tasks: Sequence[Task]) -> list[str]:
        """Submits tasks; returns the ids of their jobs."""
        from submitit.core.utils import FailedJobError

        printed = io.StringIO()  # submitit also prints the errors that it raises
        try:
            with contextlib.redirect_stderr(printed), _hide_enclosing_job():
                jobs = self._submitit.submit_array([NodeTask(task) for task in tasks])
        except FailedJobError as error:
            lines = [line.removeprefix("sbatch: ") for line in str(error).splitlines()]
            message = "; ".join(line.removeprefix("error: ") for line in lines if line)
            raise UserError(f"SLURM rejects the jobs: {message}") from None
        return [job.job_id for job in jobs]

    def _find_earlier_jobs(self) -> dict[Task, str]:
        """Returns tasks and job ids that an earlier executor with this folder left in the queue."""
        pickles = {p.name.split("_submitted")[0]: p for p in self._folder.glob("*_submitted.pkl")}
        if not pickles:
            return {}
        squeue = subprocess.run(
            SQUEUE, capture_output=True, text=True, env=squeue_environment(), check=False
        )
        states = parse_squeue(squeue.stdout)
        job_ids = {}
        for job_id in (pickles.keys() & states.keys()) - self._submitted_ids:
            if states[job_id][0] not in FINAL_STATES:
                with contextlib.suppress(Exception):  # a pickle of another version of this code
                    job_ids[pickle.loads(pickles[job_id].read_bytes()).function.task] = job_id
        return job_ids


@contextlib.contextmanager
def _hide_enclosing_job() -> Iterator[None]:
    """Context without the variables of the SLURM job in which this process may be running.

    sbatch passes all variables on, and the new job would use some of these as its own.
    """
    in_job = "SLURM_JOB_ID" in os.environ
    names = [name for name in os.environ if in_job and name.startswith("SLURM_")]
    hidden = {name: os.environ.pop(name) for name in names if name not in CLUSTER_VARIABLES}
    try:
        yield
    finally:
        os.environ.update(hidden)
