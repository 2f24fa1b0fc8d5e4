"""Sweeps from Python: `run_sweep`, `load_results` and `load_metrics` as tables, `write_report`."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from flaxres.api.arguments import (
    bool_of,
    integer_of,
    overrides_of,
    path_of,
    path_text,
    texts_of,
)
from flaxres.api.input_images import PathName
from flaxres.errors import ArgumentError, InterruptedRunError, UserError
from flaxres.experiments.executors.local import LocalExecutor
from flaxres.experiments.results.plan_file import read_plan
from flaxres.experiments.results.runs import Run, read_run, read_runs
from flaxres.experiments.results.tables import run_rows
from flaxres.experiments.sweeps.entries import SEED, Entry
from flaxres.experiments.sweeps.execution import DEFAULT_RETRIES, execute, select_plans
from flaxres.experiments.sweeps.plan import load_sweep, make_plans
from flaxres.field_checks import shown
from flaxres.overrides import FieldDict
from flaxres.run.workdir import CONFIG_FILE

if TYPE_CHECKING:
    import pandas as pd

CONFIG_PREFIX = "config."  # of columns with config fields


class MissingPackageError(UserError):
    """A package is not installed that only some functions need."""


def run_sweep(
    sweep: PathName | Sequence[Entry],
    workdir: PathName,
    *,
    only: Sequence[str] | str | None = None,
    overrides: FieldDict | None = None,
    workers: int | None = None,
    cpus_per_run: int = 1,
    runs_per_gpu: int = 1,
    retries: int = DEFAULT_RETRIES,
    allow_data_change: bool = False,
    allow_schedule_change: bool = False,
) -> pd.DataFrame:
    """Trains the unfinished runs of a sweep on this machine, each in a process of its own.

    Calling it again resumes. Ctrl-C, or an interrupt of a notebook, saves and stops all runs. The
    processes get the CPU settings of the commands.

        sweep = flaxres.grid("digits", ["plain-8", "resnet-8"], seeds=[0, 1])
        table = flaxres.run_sweep(sweep, "runs/small", overrides={"num_steps": 100})

    Args:
      sweep: name or path of a sweep file, such as 'shortcuts', or entries as `grid` returns them.
      workdir: directory of the sweep; each run has the directory WORKDIR/VARIANT/seed-N.
      only: patterns of run names, such as 'resnet-*' (default: all runs).
      overrides: values of config fields for all runs, as a dict or a ConfigDict.
      workers: largest number of runs at a time (default: one for each device).
      cpus_per_run: number of CPU cores of each run.
      runs_per_gpu: number of runs that share each GPU.
      retries: largest number of restarts of a failed run from its last checkpoint.
      allow_data_change: if True, runs may resume with other data than before.
      allow_schedule_change: if True, runs may resume with a schedule that would have given the
        steps before another learning rate.

    Returns:
      The table of `load_results`.

    Raises:
      SweepError: some runs failed; the others have finished.
      UserError: the sweep is invalid or cannot start.
      InterruptedRunError: SIGTERM or SIGHUP stopped the sweep, after all runs had saved.
      KeyboardInterrupt: SIGINT did.
    """
    import_pandas()
    if overrides is not None and not isinstance(overrides, Mapping | ConfigDict):
        raise ArgumentError(f"overrides must be a dict of config fields, got {shown(overrides)}")
    fields = {} if overrides is None else overrides_of(overrides)
    patterns = None if only is None else texts_of(only, "only", "a pattern, such as 'resnet-*'")
    executor = functools.partial(
        LocalExecutor,
        workers=None if workers is None else integer_of(workers, "workers", 1),
        cpus_per_run=integer_of(cpus_per_run, "cpus_per_run", 1),
        runs_per_gpu=integer_of(runs_per_gpu, "runs_per_gpu", 1),
    )
    retries = integer_of(retries, "retries", 0)
    allow_data_change = bool_of(allow_data_change, "allow_data_change")
    allow_schedule_change = bool_of(allow_schedule_change, "allow_schedule_change")
    directory = path_of(workdir)
    if isinstance(sweep, Sequence) and not isinstance(sweep, str | bytes | bytearray):
        plans = make_plans(list(sweep), fields)
    elif isinstance(sweep, str | os.PathLike):
        plans = load_sweep(path_text(sweep, "sweep"), fields)
    else:
        raise ArgumentError(
            "sweep must be the name or path of a sweep file, or runs as flaxres.grid returns them, "
            f"got {shown(sweep)}"
        )
    try:
        execute(
            select_plans(plans, patterns),
            directory,
            lambda _: executor(),
            on_end=lambda _: None,
            retries=retries,
            allow_data_change=allow_data_change,
            allow_schedule_change=allow_schedule_change,
        )
    except InterruptedRunError as error:
        if error.signum == signal.SIGINT:
            raise KeyboardInterrupt(str(error)) from None
        raise
    return load_results(directory)


def load_results(workdir: PathName, all_fields: bool = False) -> pd.DataFrame:
    """Returns one row for each run of a sweep: its state, final metrics and differing fields.

    Columns are 'name' (VARIANT/seed-N), 'variant', 'seed', 'state', 'step', 'final_train_error' and
    'final_test_error' (in percent, of the last step, never the best one), speed, versions, and
    'config.FIELD' for the fields in which the runs differ. Planned runs that have not begun have
    missing values. Columns without any value are left out.

    Args:
      workdir: directory of a sweep or of results, or of one run.
      all_fields: if True, has all config fields.

    Raises:
      WorkdirError: there is no run with metrics.
      MissingPackageError: pandas is not installed.
    """
    pd = import_pandas()
    directory = path_of(workdir)
    all_fields = bool_of(all_fields, "all_fields")
    runs, damaged = _read(directory)
    table = pd.DataFrame(run_rows(runs, read_plan(directory)[0], damaged))
    table = table.rename(columns={"net": "variant"}).dropna(axis="columns", how="all")
    fields = [column for column in table if column.startswith(CONFIG_PREFIX)]
    same = [field for field in fields if table[field].map(repr).nunique() == 1]
    return table if all_fields else table.drop(columns=same)


def load_metrics(workdir: PathName) -> pd.DataFrame:
    """Returns one row for each logged step of each run of a sweep, or of one run.

    Columns are 'variant', 'seed', 'step' and the metrics, with NaN where a step has no value.

        table = flaxres.load_metrics("runs/shortcuts").dropna(subset="test_error")
        table.pivot_table("test_error", "step", "variant").plot()

    Args:
      workdir: directory of a sweep, of results or of one run.

    Raises:
      WorkdirError: there is no run with metrics.
      MissingPackageError: pandas is not installed.
    """
    pd = import_pandas()
    tables = []
    for group in _read(path_of(workdir))[0].values():
        for run in group:
            columns: dict[str, Any] = {"variant": run.variant, "seed": run.config["seed"]}
            tables.append(
                pd.DataFrame(columns | {"step": run.metrics.steps} | dict(run.metrics.values))
            )
    return pd.concat(tables, ignore_index=True)


def write_report(workdir: PathName) -> Path:
    """Writes the report of a sweep or a run, finished or not, as one HTML page.

    Args:
      workdir: directory of the sweep, the run or the results.

    Returns:
      The path of report.html; report.md is beside it.

    Raises:
      WorkdirError: there is no run in it, a run cannot be read, or it cannot be written.
    """
    from flaxres.experiments.reporting.report import write_report as write

    return write(path_of(workdir))[0]


def _read(directory: Path) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Returns the runs of a sweep by variant, or one run, and the damaged runs."""
    if (directory / CONFIG_FILE).exists() and (run := read_run(directory)):
        if not re.fullmatch(SEED, directory.absolute().name):  # not the run of a sweep
            run = dataclasses.replace(run, variant=directory.absolute().name)
        return {run.variant: [run]}, {}
    collection = read_runs(directory)
    return collection.runs_by_variant, collection.damaged


def import_pandas() -> Any:
    """Imports pandas, which only tables need.

    Raises:
      MissingPackageError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise MissingPackageError(
            f"tables of runs need pandas, which is not installed; install it with {sys.executable} "
            "-m pip install pandas"
        ) from None
    return pd
