"""Launch of a sweep: flags, queue, and collection of the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import jax
from absl import flags
from ml_collections import config_flags

from flaxres import cli
from flaxres.errors import ConfigError, WorkdirError, print_lines
from flaxres.experiments.sweeps import executor_flags
from flaxres.experiments.sweeps.execution import DEFAULT_RETRIES, execute, select_plans
from flaxres.experiments.sweeps.executor_flags import make_executor
from flaxres.experiments.sweeps.plan import Plan
from flaxres.experiments.sweeps.run_progress import RunProgress
from flaxres.training.run_start import Resume

__all__ = ["collect", "config_file", "keep_jax_on_cpu", "run", "select_plans"]

RETRIES = flags.DEFINE_integer(
    "retries",
    DEFAULT_RETRIES,
    "Maximum number of restarts of a failed run from its last checkpoint.",
    lower_bound=0,
)
ALLOW_DATA_CHANGE = flags.DEFINE_bool(
    "allow_data_change",
    False,
    "Resume runs although their data have changed, and record the change in each run's data.json.",
)
ALLOW_SCHEDULE_CHANGE = flags.DEFINE_bool(
    "allow_schedule_change",
    False,
    "Resume runs with a learning-rate schedule that would have given the steps done so far another "
    "learning rate, and record the change in each run's config_changes.jsonl.",
)
RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    ["auto", "never", "must"],
    "'auto' starts or resumes each run, 'never' refuses a workdir that holds one of the runs, "
    "'must' refuses one in which a run has no checkpoint.",
)
flags.adopt_module_key_flags(executor_flags)


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


def run(
    plans: Sequence[Plan],
    workdir: Path,
    on_end: Callable[[Path], None],
    in_order: bool = False,
    minutes: float = math.inf,
    on_update: Callable[[RunProgress], None] = lambda run: None,
) -> None:
    """Executes the runs of a sweep as the flags say (`experiments.sweeps.execution.execute`).

    Args:
      plans: the runs.
      workdir: workdir of the sweep.
      on_end: called with `workdir` at the end if any run has metrics, also after an interruption.
      in_order: if True, runs start in the order of `plans`; otherwise the most costly starts first.
      minutes: time after which all runs save and stop.
      on_update: called with each run every half second.

    Raises:
      UserError: the sweep cannot start or continue, or some runs failed.
    """
    execute(
        plans,
        workdir,
        make_executor,
        on_end,
        RETRIES.value,
        ALLOW_DATA_CHANGE.value,
        in_order,
        minutes,
        on_update,
        allow_schedule_change=ALLOW_SCHEDULE_CHANGE.value,
        resume=cast(Resume, RESUME.value),
    )


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
    from flaxres.experiments.results.runs import read_pytorch_runs, read_runs
    from flaxres.experiments.results.tables import write_runs, write_tables

    collection = read_runs(workdir)
    peers = read_pytorch_runs(pytorch_runs) if pytorch_runs else None
    try:
        files = [
            write_runs(collection, workdir),
            *write_tables(collection, workdir, peers, details),
            *draw_sweep(collection.runs_by_variant, workdir),
        ]
    except OSError as error:
        raise WorkdirError(f"cannot write to {workdir} ({error.strerror})") from error
    print(files[1].read_text(encoding="utf-8"))
    print_lines(files)
