"""The degradation experiment: plain and residual nets of growing depth, figures and a table.

python -m experiments.degradation --config=configs/digits.py --workdir=runs/degradation

A sweep over nets and seeds (`experiments.sweep`), with the nets as flags: runs live in
WORKDIR/NET/seed-N; finished ones are skipped, unfinished ones go on. With configs/cifar10.py it is
the experiment of He15 (arXiv 1512.03385), section 4.2.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from configs.sweeps import degradation as sweep
from experiments.results.run_names import run_directories
from experiments.results.runs import check_comparable, find_runs
from experiments.sweeps import launch
from experiments.sweeps.plan import Plan, grid, make_plans
from flaxres import cli
from flaxres.config import flatten
from flaxres.errors import ConfigError
from flaxres.run.workdir import read_config

MODELS = flags.DEFINE_list(
    "models",
    sweep.NETS,
    "Nets to train.",
)
SEEDS = flags.DEFINE_list(
    "seeds", None, "Seeds of each net, e.g. 0,1,2; the config's if not given."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where runs and figures go; runs/degradation-<config name> if not given."
)
PLOT_ONLY = flags.DEFINE_bool("plot_only", False, "Only draw what is there, also during runs.")
cli.define_config("configs/digits.py")


def net_plans() -> list[Plan]:
    """The config file's run for each net and seed of the flags.

    Raises:
      ConfigError: a net in --config, or a net or seed that does not exist.
    """
    config = cli.get_config()
    if not MODELS.value:
        raise ConfigError("--models is empty; give it e.g. --models=plain-20,resnet-20")
    flag = flags.FLAGS["config"]
    path, _, net = config_flags.get_config_filename(flag).partition(":")
    if net:
        raise ConfigError(f"--config takes no net here, got {net!r}; choose nets with --models")
    try:
        seeds = [int(seed) for seed in SEEDS.value or [config.seed]]
    except ValueError:
        raise ConfigError(
            f"--seeds must be numbers such as 0,1,2, got {','.join(SEEDS.value)!r}"
        ) from None
    overrides = cli.get_overrides()
    overrides.pop("seed", None)  # is in `seeds`
    return make_plans(grid(path, {net: (net, {}) for net in MODELS.value}, seeds), overrides)


def draw(workdir: Path) -> None:
    """Draws figures and writes tables of the runs in `workdir`; prints the table and the paths.

    Raises:
      WorkdirError: there are no runs, they are not of one experiment, or `workdir` cannot be
        written.
    """
    runs = find_runs(workdir)
    check_comparable([run.config for group in runs.values() for run in group], workdir)
    launch.collect(workdir)


def main() -> None:
    """Trains what is not finished, then draws."""
    launch.keep_jax_on_cpu()
    if PLOT_ONLY.value and WORKDIR.value:
        draw(Path(WORKDIR.value).expanduser())
        return
    plans = net_plans()
    name = plans[0].config.name
    workdir = Path(WORKDIR.value or f"runs/degradation-{name}").expanduser()
    if PLOT_ONLY.value:
        draw(workdir)
        return
    there = [read_config(path) for path in run_directories(workdir)]
    check_comparable([*there, *(flatten(plan.config) for plan in plans)], workdir)
    launch.run(plans, workdir, on_end=draw)


if __name__ == "__main__":
    cli.run(main, trains=False)
