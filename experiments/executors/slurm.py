"""SLURM: runs as jobs of an array, submitted with submitit.

A job that has to make room (time limit, preemption, `scontrol requeue`) saves, goes back to the
queue, and goes on from its checkpoint later. Jobs go on without the process that submitted them;
an executor with the same folder takes up those that are still there instead of doubling them.
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

from experiments.executors.base import Task
from experiments.executors.slurm_jobs import ENDED, SQUEUE, Queue, SlurmJob, environment, parse
from experiments.executors.slurm_node import NodeTask
from flaxres.errors import UserError

ROOT = Path(__file__).parents[2]
NOTICE = 120  # seconds before the time limit at which a job is told of it; less for short limits


class SlurmExecutor:
    """Submits runs to the SLURM cluster of this machine; implements `Executor`.

    Its jobs go on when it is left.

    Args:
      folder: for submitit's files and logs; on a file system that all nodes share.
      time_limit_minutes: of a job; the run goes on in the same job after a requeue.
      cpus_per_task: CPUs of a run.
      gpus_per_task: GPUs of a run.
      partition: SLURM's default if None.
      additional: more parameters of sbatch without their dashes, such as {"mem": "8G"}; the value
        of one that takes none is "".
      max_parallel: jobs of one `submit` that run at the same time.

    Raises:
      UserError: submitit or SLURM is not installed, or a number is too small.
    """

    capacity = None

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
                "jobs are submitted to SLURM with submitit, which is not installed; "
                "pip install -r requirements-cluster.txt"
            ) from None
        for program in ("sbatch", "srun", "squeue", "scancel"):  # submitit asks for srun
            if shutil.which(program) is None:
                raise UserError(
                    f"SLURM's {program} is not on the PATH; start this on a machine from which "
                    "jobs can be submitted"
                )
        if min(time_limit_minutes, cpus_per_task, max_parallel) < 1 or gpus_per_task < 0:
            raise UserError(
                "a SLURM job needs at least 1 minute, 1 CPU, 0 GPUs and 1 job at a time, got "
                f"{time_limit_minutes}, {cpus_per_task}, {gpus_per_task} and {max_parallel}"
            )
        self._folder = folder.expanduser().absolute()
        self._queue = Queue()
        self._submitted: set[str] = set()  # ids of its own jobs
        # In the batch step, without srun and in place of the shell: signals then have one receiver,
        # and the exit code of the job is that of the run.
        self._submitit = submitit.SlurmExecutor(
            self._folder, max_num_timeout=sys.maxsize, python=f"exec {shlex.quote(sys.executable)}"
        )
        notice = min(NOTICE, 60 * time_limit_minutes // 4)
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
                "chdir": ROOT,  # where the job finds this module
                "requeue": True,
                "signal": f"B:{submitit.JobEnvironment.USR_SIG}@{notice}",
                **{name.replace("-", "_"): value or True for name, value in additional.items()},
            },
        )

    def __enter__(self) -> SlurmExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.close()

    def submit(self, tasks: Sequence[Task]) -> list[SlurmJob]:
        """Queues tasks as one array of jobs; those that an earlier executor left, it takes up.

        Raises:
          UserError: SLURM refuses them, or `folder` cannot be written.
        """
        there = self._left_behind()
        new = [task for task in tasks if task not in there]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            jobs = there | dict(zip(new, self._sbatch(new) if new else [], strict=True))
        except OSError as error:
            raise UserError(
                f"SLURM jobs cannot be prepared in {self._folder} ({error.strerror})"
            ) from error
        self._submitted |= set(jobs.values())
        return [SlurmJob(jobs[task], self._folder, self._queue) for task in tasks]

    def _sbatch(self, tasks: Sequence[Task]) -> list[str]:
        """Submits tasks; returns the ids of their jobs."""
        from submitit.core.utils import FailedJobError

        printed = io.StringIO()  # submitit prints what it raises
        try:
            with contextlib.redirect_stderr(printed), _outside_of_jobs():
                jobs = self._submitit.submit_array([NodeTask(task) for task in tasks])
        except FailedJobError as error:
            lines = [line.removeprefix("sbatch: ") for line in str(error).splitlines()]
            words = "; ".join(line.removeprefix("error: ") for line in lines if line)
            raise UserError(f"SLURM refuses the jobs: {words}") from None
        return [job.job_id for job in jobs]

    def _left_behind(self) -> dict[Task, str]:
        """Tasks and ids of the jobs that an earlier executor with this folder left in the queue."""
        submitted = {p.name.split("_submitted")[0]: p for p in self._folder.glob("*_submitted.pkl")}
        if not submitted:
            return {}
        squeue = subprocess.run(
            SQUEUE, capture_output=True, text=True, env=environment(), check=False
        )
        states = parse(squeue.stdout)
        found = {}
        for job_id in (submitted.keys() & states.keys()) - self._submitted:
            if states[job_id][0] not in ENDED:
                with contextlib.suppress(Exception):  # of another version of this code, say
                    found[pickle.loads(submitted[job_id].read_bytes()).function.task] = job_id
        return found


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Context without the variables of the SLURM job in which this process may run itself.

    sbatch hands all variables on, and the new job would take some of them for its own.
    """
    keep = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    inside = "SLURM_JOB_ID" in os.environ
    names = [n for n in os.environ if inside and n.startswith("SLURM_") and n not in keep]
    removed = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(removed)
