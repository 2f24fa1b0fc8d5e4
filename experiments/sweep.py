"""A sweep: the runs that a Python file lists, on this machine, a Ray cluster or SLURM.

python -m experiments.sweep --sweep=configs/sweeps/degradation.py --workdir=runs/sweep

Runs live in WORKDIR/NAME/seed-N. Finished ones are skipped and unfinished ones go on, so the same
command takes up a sweep where it was. What came out is in WORKDIR: runs.csv with a line for each
run, table.md and table.csv with means over seeds, and figures.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from absl import flags

from experiments.sweeps import launch
from experiments.sweeps.estimate import print_plan
from experiments.sweeps.plan import load_sweep
from flaxres import cli
from flaxres.errors import ConfigError

SWEEP = flags.DEFINE_string(
    "sweep", None, "FILE.py with get_sweep(), or FILE.py:CONFIG with the config file it takes."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where runs, tables and figures go.")
ONLY = flags.DEFINE_list("only", None, "Patterns of names, e.g. 'resnet-*,*/seed-0'; else all.")
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the plan with params, MACs and time, after measuring two nets."
)
PLOT_ONLY = flags.DEFINE_bool("plot_only", False, "Only collect what is there, also during runs.")


def main() -> None:
    """Works on the sweep, then collects what is there."""
    launch.keep_jax_on_cpu()
    if WORKDIR.value is None:
        raise ConfigError("--workdir is missing; say where the runs go, e.g. --workdir=runs/sweep")
    workdir = Path(WORKDIR.value).expanduser()
    if PLOT_ONLY.value:
        launch.collect(workdir)
        return
    if SWEEP.value is None:
        raise ConfigError("--sweep is missing; give it a file of configs/sweeps/")
    plans = launch.choose(load_sweep(SWEEP.value, cli.get_overrides()), ONLY.value)
    if DRY_RUN.value:
        with (
            tempfile.TemporaryDirectory(dir=launch.shared_directory()) as directory,
            launch.make_executor(Path(directory)) as executor,
        ):
            print_plan(plans, workdir, executor, Path(directory))
        return
    launch.run(plans, workdir, on_end=launch.collect)


if __name__ == "__main__":
    cli.run(main, trains=False, define=cli.define_overrides)
