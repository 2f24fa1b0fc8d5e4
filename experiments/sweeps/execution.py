"""Execution of a sweep: its checks, its files and the queue of its runs, without flags."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flaxres.config import flatten
from flaxres.data import open_sources
from flaxres.errors import ConfigError, SweepError, WorkdirError, first_few
from flaxres.experiments.executors.base import Executor
from flaxres.experiments.executors.local import LocalExecutor
from flaxres.experiments.results.plan_file import PLAN_FILE, planned_runs
from flaxres.experiments.results.run_names import select_names
from flaxres.experiments.sweeps.notebook_table import make_progress_table
from flaxres.experiments.sweeps.plan import LOG_FILE, Plan
from flaxres.experiments.sweeps.run_progress import RunProgress, RunState, read_progress
from flaxres.experiments.sweeps.scheduler import run_queue
from flaxres.files import write_atomically
from flaxres.memory_estimate import check_memory
from flaxres.parallel import replicas
from flaxres.pretrained.stride_on import resolve_stride
from flaxres.run.lock import lock
from flaxres.run.paths import check_path
from flaxres.run.workdir import CONFIG_FILE
from flaxres.training.run_start import Resume

DEFAULT_RETRIES = 2
MAX_NAMES = 10  # of failed runs in the last message


def select_plans(plans: Sequence[Plan], patterns: Sequence[str] | None) -> list[Plan]:
    """Selects the plans whose names match a shell pattern; all of them without patterns.

    Raises:
      ConfigError: a pattern matches no run.
    """
    names = set(select_names([plan.name for plan in plans], patterns))
    return [plan for plan in plans if plan.name in names]


def execute(
    plans: Sequence[Plan],
    workdir: Path,
    executor: Callable[[Path], Executor],
    on_end: Callable[[Path], None],
    retries: int = DEFAULT_RETRIES,
    allow_data_change: bool = False,
    in_order: bool = False,
    minutes: float = math.inf,
    on_update: Callable[[RunProgress], None] = lambda run: None,
    *,
    allow_schedule_change: bool = False,
    resume: Resume = "auto",
) -> None:
    """Executes the runs of a sweep until each has finished or failed, or the time is over.

    Args:
      plans: the runs.
      workdir: workdir of the sweep.
      executor: creates the executor for `workdir`.
      on_end: called with `workdir` at the end if any run has metrics, also after an interruption.
      retries: maximum number of restarts of a failed run from its last checkpoint.
      allow_data_change: if True, runs may resume with other data than before.
      in_order: if True, runs start in the order of `plans`; otherwise the most costly starts first.
      minutes: time after which all runs save and stop.
      on_update: called with each run every half second.
      allow_schedule_change: if True, runs may resume with a schedule that would have given the
        steps before another learning rate.
      resume: 'auto' starts or resumes the runs, 'never' refuses a workdir that holds one of them,
        'must' refuses one in which a run has no checkpoint.

    Raises:
      InUseError: another sweep is running in `workdir`.
      ConfigError: a run needs more memory than this machine has.
      DatasetError: the runs would not find their data.
      SweepError: some runs failed; the others have finished.
      UserError: the sweep cannot start or continue.
    """
    # `resume` is no flag of the runs, because a run that failed is restarted and then resumes.
    flags = ["--allow_data_change"] * allow_data_change
    flags += ["--allow_schedule_change"] * allow_schedule_change
    plans = [dataclasses.replace(plan, flags=(*plan.flags, *flags)) for plan in plans]
    check_path(workdir)
    if (workdir / CONFIG_FILE).exists():
        raise WorkdirError(
            f"workdir {workdir} holds a run; choose another --workdir for the runs of a sweep"
        )
    with contextlib.ExitStack() as stack:
        machines = stack.enter_context(executor(workdir))
        runs = read_progress(plans, workdir, in_order, resume, allow_schedule_change)
        if isinstance(machines, LocalExecutor):  # elsewhere there are other memory and data
            _check_machine([run.plan for run in runs if run.state is not RunState.FINISHED])
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            locked = stack.enter_context(lock(workdir))
            _write_plan(plans, workdir)
        except OSError as error:
            raise WorkdirError(
                f"workdir {workdir} cannot be written ({error.strerror}); choose another --workdir"
            ) from error
        deadline = time.monotonic() + 60 * minutes
        try:
            with make_progress_table(runs, str(workdir)) as table:

                def update() -> None:
                    locked.check_in_place()  # otherwise new runs would start in a new directory
                    table.update()
                    for run in runs:
                        on_update(run)

                update()
                run_queue(runs, workdir, machines, retries, table.log, update, deadline)
        finally:
            if any(run.step for run in runs):
                on_end(workdir)
    failed = [run for run in runs if run.state is RunState.FAILED]
    if failed:
        names = first_few([run.plan.name for run in failed], MAX_NAMES)
        raise SweepError(
            f"{len(failed)} of {len(runs)} runs failed: {names}; the reasons are above, and in "
            f"{LOG_FILE} in the directory of each run"
        )


def _check_machine(plans: Sequence[Plan]) -> None:
    """Checks memory and data before the first run starts, instead of failing once for each run.

    Raises:
      ConfigError: a run needs more memory than this machine has.
      DatasetError: a data set is missing or cannot be opened.
    """
    datasets: set[str] = set()
    for plan in plans:
        try:
            check_memory(plan.config)
        except ConfigError as error:
            raise ConfigError(f"run {plan.name!r}: {error}") from None
        if (dataset := plan.config.dataset.to_json()) not in datasets:
            datasets.add(dataset)
            open_sources(plan.config.dataset)


def _write_plan(plans: Sequence[Plan], workdir: Path) -> None:
    """Adds the configs of the runs to sweep.json."""
    configs = planned_runs(workdir)
    for plan in plans:
        name = Path(plan.name)
        config = resolve_stride(plan.config)
        runs = replicas.replica_runs(config, name) or {name: config}
        configs |= {str(path): flatten(config) for path, config in runs.items()}
    write_atomically(workdir / PLAN_FILE, json.dumps(configs, indent=1) + "\n")
