"""Degradation experiment: trains plain and residual models of growing depth and compares them.

flaxres degradation --config=configs/digits.py --workdir=runs/degradation

This is a sweep (`experiments.sweep`) whose models and seeds are flags. Each run has the directory
WORKDIR/MODEL/seed-N. Rerun the same command to resume: finished runs are skipped, and unfinished
runs continue from their checkpoints. With configs/cifar10.py it is the experiment of He15 (arXiv
1512.03385), section 4.2.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from flaxres import cli
from flaxres.config import directory_name, flatten
from flaxres.config_checks import MAX_SEED
from flaxres.errors import ConfigError, DamagedFileError, print_note
from flaxres.experiments.results.comparability import check_comparable
from flaxres.experiments.results.run_names import run_directories
from flaxres.experiments.results.runs import find_runs
from flaxres.experiments.sweeps import launch
from flaxres.experiments.sweeps.models import DEGRADATION_MODELS
from flaxres.experiments.sweeps.plan import Plan, grid, make_plans
from flaxres.files import expand_home
from flaxres.run.workdir import read_config

MODELS = flags.DEFINE_list(
    "models", DEGRADATION_MODELS, "Models to train, e.g. plain-20,resnet-20."
)
SEEDS = flags.DEFINE_list(
    "seeds", [], "Seeds of each model (default: the seed of the config), e.g. 0,1,2."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory for runs, tables and figures (default: runs/degradation-CONFIG)."
)
PLOT_ONLY = flags.DEFINE_bool(
    "plot_only", False, "Collect tables and figures without training, also while runs are running."
)
cli.define_config("configs/digits.py")
flags.adopt_module_key_flags(launch)  # --help shows these flags


def plan_runs() -> list[Plan]:
    """Returns a plan for each model and seed of the flags, with the config of --config.

    Raises:
      ConfigError: --config names a model, or a model or seed is invalid.
    """
    config = cli.get_config()
    if not MODELS.value:
        raise ConfigError("--models is empty; set it to e.g. --models=plain-20,resnet-20")
    path = launch.config_file()
    seeds = cli.parse_integers(SEEDS, 0, MAX_SEED) if SEEDS.value else [config.seed]
    entries = grid(path, {model: (model, {}) for model in MODELS.value}, seeds)
    return make_plans(entries, cli.get_overrides(), "choose the seeds with --seeds, e.g. --seeds=7")


def draw(workdir: Path) -> None:
    """Writes tables and figures of the runs in `workdir`; prints the table and the file names.

    Raises:
      WorkdirError: there are no runs, they belong to different experiments, or `workdir` cannot be
        written.
    """
    runs = find_runs(workdir)
    check_comparable([run.config for group in runs.values() for run in group], workdir)
    launch.collect(workdir)


def main() -> None:
    """Trains the unfinished runs, then writes tables and figures."""
    launch.keep_jax_on_cpu()
    if PLOT_ONLY.value and WORKDIR.value:
        draw(expand_home(WORKDIR.value, "--workdir"))
        return
    plans = plan_runs()
    given = WORKDIR.value or f"runs/degradation-{directory_name(plans[0].config)}"
    workdir = expand_home(given, "--workdir")
    if PLOT_ONLY.value:
        draw(workdir)
        return
    existing = []
    for path in run_directories(workdir):
        try:
            existing.append(read_config(path))
        except DamagedFileError as error:
            print_note(str(error))
    check_comparable([*existing, *(flatten(plan.config) for plan in plans)], workdir)
    launch.run(plans, workdir, on_end=draw)


if __name__ == "__main__":
    cli.run(main, trains=False)
