"""Launching the runs of a sweep: the flags that say where, the plan, the queue, the results."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags

from experiments.executors.base import Executor
from experiments.executors.local import LocalExecutor
from experiments.results.run_names import select_names
from experiments.results.runs import PLAN_FILE, planned_runs
from experiments.sweeps.plan import Plan
from experiments.sweeps.progress_table import ProgressTable
from experiments.sweeps.scheduler import RunProgress, RunState, read_progress, run_queue
from flaxres.config import flatten
from flaxres.errors import ConfigError, SweepError, WorkdirError
from flaxres.parallel import replicas
from flaxres.run.lock import lock
from flaxres.run.workdir import write_atomically

EXECUTOR = flags.DEFINE_enum(
    "executor", "local", ["local", "ray", "slurm"], "Where the runs are executed."
)
WORKERS = flags.DEFINE_integer(
    "workers", None, "Runs at the same time; as many as there are devices if not given."
)
CPUS_PER_RUN = flags.DEFINE_integer("cpus_per_run", 1, "CPU cores of each run.")
GPUS_PER_RUN = flags.DEFINE_float("gpus_per_run", 0, "GPUs of each run, on Ray and SLURM.")
RETRIES = flags.DEFINE_integer("retries", 2, "How often a failed run is started again.")
RAY_ADDRESS = flags.DEFINE_string("ray_address", None, "HOST:PORT of the Ray cluster's head.")
RAY_RESOURCES = flags.DEFINE_list("ray_resources", [], "More that a run needs, e.g. TPU=4.")
PROCESSES_PER_RUN = flags.DEFINE_integer(
    "processes_per_run", 1, "On Ray: processes of one run, each with the resources given."
)
TIME_LIMIT = flags.DEFINE_integer(
    "time_limit", 24 * 60, "Minutes of a SLURM job; then it is queued again and goes on."
)
SLURM_PARTITION = flags.DEFINE_string("slurm_partition", None, "SLURM's default if not given.")
SLURM_OPTIONS = flags.DEFINE_list("slurm_options", [], "Options of sbatch, e.g. account=abc.")


def keep_jax_on_cpu() -> None:
    """Leaves the accelerators to the runs: JAX would otherwise reserve them for this process.

    Call it in a program that launches runs, before JAX computes anything.
    """
    jax.config.update("jax_platforms", "cpu")


def choose(plans: Sequence[Plan], patterns: Sequence[str] | None) -> list[Plan]:
    """Selects the runs whose names match a shell pattern; all of them without patterns.

    Raises:
      ConfigError: a pattern matches no run.
    """
    names = set(select_names([plan.name for plan in plans], patterns))
    return [plan for plan in plans if plan.name in names]


def make_executor(workdir: Path) -> Executor:
    """The executor that the flags describe.

    Raises:
      UserError: flags that make no sense, or a cluster that cannot be reached.
    """
    if EXECUTOR.value == "local":
        return LocalExecutor(workers=WORKERS.value, cpus_per_run=CPUS_PER_RUN.value)
    if EXECUTOR.value == "ray":
        from experiments.executors.ray import RayExecutor

        try:
            resources = {name: float(value) for name, value in _pairs("ray_resources")}
        except ValueError:
            raise ConfigError(
                f"--ray_resources must be NAME=NUMBER,..., got {RAY_RESOURCES.value}"
            ) from None
        return RayExecutor(
            address=RAY_ADDRESS.value,
            cpus_per_task=CPUS_PER_RUN.value,
            gpus_per_task=GPUS_PER_RUN.value,
            resources=resources,
            processes_per_run=PROCESSES_PER_RUN.value,
        )
    from experiments.executors.slurm import SlurmExecutor

    return SlurmExecutor(
        folder=workdir.absolute() / "slurm",
        time_limit_minutes=TIME_LIMIT.value,
        cpus_per_task=CPUS_PER_RUN.value,
        gpus_per_task=int(GPUS_PER_RUN.value),
        partition=SLURM_PARTITION.value,
        additional=dict(_pairs("slurm_options")),
        max_parallel=WORKERS.value or 256,
    )


def _pairs(flag: str) -> list[tuple[str, str]]:
    pairs = [item.partition("=") for item in flags.FLAGS[flag].value]
    if any(not value for _, _, value in pairs):
        raise ConfigError(f"--{flag} must be NAME=VALUE,..., got {flags.FLAGS[flag].value}")
    return [(name, value) for name, _, value in pairs]


def run(
    plans: Sequence[Plan],
    workdir: Path,
    on_end: Callable[[Path], None],
    in_order: bool = False,
    minutes: float = math.inf,
    watch: Callable[[RunProgress], None] = lambda run: None,
) -> None:
    """Works on the runs until each has finished or failed, or the time is over.

    Args:
      plans: the runs.
      workdir: of the sweep.
      on_end: told `workdir` when something is there, also after an interruption.
      in_order: start them as they are in `plans`, not the longest first.
      minutes: after which all runs save and stop.
      watch: told each run, every half second.

    Raises:
      InUseError: another sweep works in `workdir`.
      SweepError: some runs failed; the others are finished.
      UserError: whatever else stops the sweep.
    """
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(make_executor(workdir))
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(workdir))
            _write_plan(plans, workdir)
        except OSError as error:
            raise WorkdirError(
                f"workdir {workdir} cannot be written ({error.strerror}); choose another --workdir"
            ) from error
        runs = read_progress(plans, workdir, in_order)
        deadline = time.monotonic() + 60 * minutes
        try:
            with ProgressTable(runs, str(workdir)) as table:

                def update() -> None:
                    table.update()
                    for run in runs:
                        watch(run)

                update()
                run_queue(runs, workdir, executor, RETRIES.value, table.log, update, deadline)
        finally:
            if any(run.step for run in runs):
                on_end(workdir)
    failed = [run for run in runs if run.state is RunState.FAILED]
    if failed:
        raise SweepError(
            f"{len(failed)} of {len(runs)} runs failed: "
            + "; ".join(f"{run.plan.name}: {run.message}" for run in failed)
        )


def _write_plan(plans: Sequence[Plan], workdir: Path) -> None:
    """Adds the runs to those that the sweep's directory is for."""
    known = planned_runs(workdir)
    for plan in plans:
        own = replicas.replica_runs(plan.config, Path(plan.name)) or {Path(plan.name): plan.config}
        known |= {str(name): flatten(config) for name, config in own.items()}
    write_atomically(workdir / PLAN_FILE, json.dumps(known, indent=1) + "\n")


def shared_directory() -> str | None:
    """Where to put temporary files that all machines of a cluster see; None for the default."""
    return None if EXECUTOR.value == "local" else os.getcwd()


def collect(workdir: Path, peers: Path | None = None, details: bool = False) -> None:
    """Writes tables and figures of the runs in `workdir`; prints the table and the paths.

    Args:
      workdir: where they are, or a directory of results.
      peers: runs of the same nets in PyTorch, to stand beside them in the table.
      details: of `write_tables`.

    Raises:
      WorkdirError: there are no runs, or `workdir` cannot be written.
    """
    from experiments.results.figures import draw_sweep
    from experiments.results.runs import find_runs
    from experiments.results.tables import write_runs, write_tables

    runs = find_runs(workdir)
    try:
        files = [
            write_runs(runs, workdir),
            *write_tables(runs, workdir, find_runs(peers) if peers else None, details),
            *draw_sweep(runs, workdir),
        ]
    except OSError as error:
        raise WorkdirError(f"cannot write to {workdir} ({error.strerror})") from error
    print(files[1].read_text())
    print("\n".join(map(str, files)))
