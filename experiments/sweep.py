"""Sweep: trains the runs that a Python file lists, on this machine, a Ray cluster or SLURM.

flaxres sweep --sweep=configs/sweeps/degradation.py --workdir=runs/sweep

Each run has the directory WORKDIR/VARIANT/seed-N. Rerun the same command to resume: finished runs
are skipped, and unfinished runs continue from their checkpoints. The results are in WORKDIR:
runs.csv with one line per run, table.md and table.csv with means over seeds, and figures.
--config.FIELD=VALUE overrides a config field of all runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from absl import flags

from flaxres import cli
from flaxres.errors import ConfigError
from flaxres.experiments.sweeps import executor_flags, launch
from flaxres.experiments.sweeps.estimate import print_plan
from flaxres.experiments.sweeps.plan import load_sweep
from flaxres.files import expand_home

SWEEP = flags.DEFINE_string(
    "sweep",
    None,
    "Python file that defines get_sweep(), e.g. configs/sweeps/widths.py, or for files in "
    "configs/sweeps/ only the name, e.g. widths. With FILE.py:CONFIG, the config file is passed to "
    "get_sweep.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory for runs, tables and figures, e.g. runs/sweep."
)
ONLY = flags.DEFINE_list(
    "only", None, "Patterns of run names (default: all runs), e.g. 'resnet-*,*/seed-0'."
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Print the runs with parameters, MACs and estimated time, without training. Measures two "
    "models.",
)
PLOT_ONLY = flags.DEFINE_bool(
    "plot_only", False, "Collect tables and figures without training, also while runs are running."
)
flags.adopt_module_key_flags(launch)  # --help shows these flags


def main() -> None:
    """Trains the unfinished runs, then collects tables and figures."""
    launch.keep_jax_on_cpu()
    if WORKDIR.value is None:
        raise ConfigError("--workdir is missing; set it to a directory, e.g. --workdir=runs/sweep")
    workdir = expand_home(WORKDIR.value, "--workdir")
    if PLOT_ONLY.value:
        launch.collect(workdir)
        return
    if SWEEP.value is None:
        raise ConfigError("--sweep is missing; set it to a file in configs/sweeps/")
    plans = launch.select_plans(load_sweep(SWEEP.value, cli.get_overrides()), ONLY.value)
    if DRY_RUN.value:
        with (
            tempfile.TemporaryDirectory(dir=executor_flags.shared_directory()) as directory,
            executor_flags.make_executor(Path(directory)) as executor,
        ):
            print_plan(plans, workdir, executor, Path(directory))
        return
    launch.run(plans, workdir, on_end=launch.collect)


if __name__ == "__main__":
    cli.run(main, trains=False, define=cli.define_overrides)
