"""Launch of a sweep: flags, queue, and collection of the results."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from flaxres import cli
from flaxres.config import flatten
from flaxres.data import open_sources
from flaxres.errors import ConfigError, SweepError, WorkdirError, first_few
from flaxres.experiments.executors.local import LocalExecutor
from flaxres.experiments.results.run_names import select_names
from flaxres.experiments.results.runs import PLAN_FILE, planned_runs
from flaxres.experiments.sweeps import executor_flags
from flaxres.experiments.sweeps.executor_flags import make_executor
from flaxres.experiments.sweeps.plan import LOG_FILE, Plan
from flaxres.experiments.sweeps.progress_table import ProgressTable
from flaxres.experiments.sweeps.scheduler import RunProgress, RunState, read_progress, run_queue
from flaxres.files import write_atomically
from flaxres.memory_estimate import check_memory
from flaxres.parallel import replicas
from flaxres.pretrained.stride_on import resolve_stride
from flaxres.run.lock import lock
from flaxres.run.workdir import CONFIG_FILE, check_path

RETRIES = flags.DEFINE_integer(
    "retries",
    2,
    "Maximum number of restarts of a failed run from its last checkpoint.",
    lower_bound=0,
)
ALLOW_DATA_CHANGE = flags.DEFINE_bool(
    "allow_data_change",
    False,
    "Resume runs although their data have changed, and record the change in each run's data.json.",
)
flags.adopt_module_key_flags(executor_flags)

MAX_NAMES = 10  # of failed runs in the last message


def keep_jax_on_cpu() -> None:
    """Keeps JAX in this process off the accelerators, which it would reserve.

    Call this in a program that launches runs, before any computation with JAX.
    """
    jax.config.update("jax_platforms", "cpu")


def config_file() -> str:
    """Returns the path in --config, for programs that choose models with other flags.

    Raises:
      ConfigError: there is no --config, or it names a model.
    """
    cli.get_config()
    path, _, model = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    if model:
        raise ConfigError(
            f"--config must not name a model here, got {model!r}; choose models with --models"
        )
    return path


def select_plans(plans: Sequence[Plan], patterns: Sequence[str] | None) -> list[Plan]:
    """Selects the plans whose names match a shell pattern; all of them without patterns.

    Raises:
      ConfigError: a pattern matches no run.
    """
    names = set(select_names([plan.name for plan in plans], patterns))
    return [plan for plan in plans if plan.name in names]


def run(
    plans: Sequence[Plan],
    workdir: Path,
    on_end: Callable[[Path], None],
    in_order: bool = False,
    minutes: float = math.inf,
    on_update: Callable[[RunProgress], None] = lambda run: None,
) -> None:
    """Executes the runs of a sweep until each has finished or failed, or the time is over.

    Args:
      plans: the runs.
      workdir: workdir of the sweep.
      on_end: called with `workdir` at the end if any run has metrics, also after an interruption.
      in_order: if True, runs start in the order of `plans`; otherwise the most costly starts first.
      minutes: time after which all runs save and stop.
      on_update: called with each run every half second.

    Raises:
      InUseError: another sweep is running in `workdir`.
      ConfigError: a run needs more memory than this machine has.
      DatasetError: the runs would not find their data.
      SweepError: some runs failed; the others have finished.
      UserError: the sweep cannot start or continue.
    """
    if ALLOW_DATA_CHANGE.value:
        flag = f"--{ALLOW_DATA_CHANGE.name}"
        plans = [dataclasses.replace(plan, flags=(*plan.flags, flag)) for plan in plans]
    check_path(workdir)
    if (workdir / CONFIG_FILE).exists():
        raise WorkdirError(
            f"workdir {workdir} holds a run; choose another --workdir for the runs of a sweep"
        )
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(make_executor(workdir))
        runs = read_progress(plans, workdir, in_order)
        if isinstance(executor, LocalExecutor):  # elsewhere there are other memory and data
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
            with ProgressTable(runs, str(workdir)) as table:

                def update() -> None:
                    locked.check_in_place()  # otherwise new runs would start in a new directory
                    table.update()
                    for run in runs:
                        on_update(run)

                update()
                run_queue(runs, workdir, executor, RETRIES.value, table.log, update, deadline)
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


def collect(workdir: Path, pytorch_runs: Path | None = None, details: bool = False) -> None:
    """Writes tables and figures of the runs in `workdir`; prints the table and the file names.

    Args:
      workdir: workdir of a sweep, or a results directory.
      pytorch_runs: directory with runs of the same models in PyTorch, which get a column of the
        table; None for none.
      details: if True, the table also has the training time, the device and the settings.

    Raises:
      WorkdirError: there are no runs, or `workdir` cannot be written.
    """
    from flaxres.experiments.results.figures import draw_sweep
    from flaxres.experiments.results.runs import find_runs, read_runs
    from flaxres.experiments.results.tables import write_runs, write_tables

    collection = read_runs(workdir)
    peers = find_runs(pytorch_runs) if pytorch_runs else None
    try:
        files = [
            write_runs(collection, workdir),
            *write_tables(collection, workdir, peers, details),
            *draw_sweep(collection.runs_by_variant, workdir),
        ]
    except OSError as error:
        raise WorkdirError(f"cannot write to {workdir} ({error.strerror})") from error
    print(files[1].read_text(encoding="utf-8"))
    print("\n".join(map(str, files)))
