"""The degradation experiment: plain and residual nets of growing depth, figures and a table.

python -m experiments.degradation --config=configs/digits.py --workdir=runs/degradation

Runs live in WORKDIR/NET/seed-N; finished ones are skipped, unfinished ones go on. With
configs/cifar10.py it is the experiment of He15 (arXiv 1512.03385), section 4.2.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from flaxres import cli
from flaxres.errors import ConfigError, DivergedError, WorkdirError

NETS = flags.DEFINE_list(
    "nets",
    [f"{kind}-{depth}" for depth in (20, 32, 44, 56) for kind in ("plain", "resnet")],
    "Nets to train, in this order.",
)
SEEDS = flags.DEFINE_list(
    "seeds", None, "Seeds of each net, e.g. 0,1,2; the config's if not given."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where runs and figures go; runs/degradation-<config name> if not given."
)
PLOT_ONLY = flags.DEFINE_bool("plot_only", False, "Only draw what is there, also during runs.")
cli.define_config("configs/digits.py")


def net_configs() -> list[ConfigDict]:
    """The config of each run: the config file's for each net, with the overrides of the flags.

    Raises:
      ConfigError: a net in --config, or a net or seed that does not exist.
    """
    cli.get_config()  # there is one
    if not NETS.value:
        raise ConfigError("--nets is empty; give it e.g. --nets=plain-20,resnet-20")
    flag = flags.FLAGS["config"]
    path, _, net = config_flags.get_config_filename(flag).partition(":")
    if net:
        raise ConfigError(f"--config takes no net here, got {net!r}; choose nets with --nets")
    spec = importlib.util.spec_from_file_location("experiment_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    configs = []
    for net in NETS.value:
        base = module.get_config(net)
        base.update_from_flattened_dict(config_flags.get_override_values(flag))
        for seed in SEEDS.value or [base.seed]:
            config = base.copy_and_resolve_references()
            try:
                config.seed = int(seed)
            except ValueError:
                raise ConfigError(f"--seeds must be numbers such as 0,1,2, got {seed!r}") from None
            configs.append(config)
    return configs


def train_all(configs: list[ConfigDict], workdir: Path) -> list[str]:
    """Trains the runs one after the other; returns messages of those that diverged.

    Raises:
      UserError: anything else that stops a run stops the experiment; started again, it goes on.
    """
    from experiments.runs import check_comparable
    from flaxres.config import check_config, flatten, net_name
    from flaxres.train import train_and_evaluate
    from flaxres.workdir import CONFIG_FILE, read_config

    for config in configs:  # all of them before the first hour
        check_config(config)
    there = [read_config(path.parent) for path in workdir.glob(f"*/seed-*/{CONFIG_FILE}")]
    check_comparable([*there, *map(flatten, configs)], workdir)
    runs = [workdir / net_name(config.model) / f"seed-{config.seed}" for config in configs]
    failures, done, start = [], 0, time.monotonic()
    for i, (config, run) in enumerate(zip(configs, runs, strict=True)):
        line = f"[{i + 1}/{len(configs)}] {net_name(config.model)}, seed {config.seed}"
        left = sum(map(_work_left, configs[i:], runs[i:]))
        if done:
            minutes = (time.monotonic() - start) / done * left / 60
            line += f"; about {max(1, round(minutes)):,} min left for all"
        print(line, file=sys.stderr, flush=True)
        try:
            train_and_evaluate(config, run)
        except DivergedError as error:
            failures.append(f"{net_name(config.model)}, seed {config.seed}: {error}")
            print(failures[-1], file=sys.stderr, flush=True)
        done += left - sum(map(_work_left, configs[i:], runs[i:]))
    return failures


def _work_left(config: ConfigDict, run: Path) -> int:
    """Steps that a run has still to make, each worth as much as the net is deep."""
    from flaxres.writers import read_metrics

    records = read_metrics(run)
    return config.model.depth * (config.num_steps - (records[-1]["step"] if records else 0))


def draw(workdir: Path) -> None:
    """Draws figures and writes tables of the runs in `workdir`; prints the table and the paths.

    Raises:
      WorkdirError: there are no runs, or `workdir` cannot be written.
    """
    from experiments.figures import draw_figures
    from experiments.runs import find_runs
    from experiments.tables import write_tables

    runs = find_runs(workdir)
    try:
        figures, tables = draw_figures(runs, workdir), write_tables(runs, workdir)
    except OSError as error:
        raise WorkdirError(f"cannot write to {workdir} ({error.strerror})") from error
    print(tables[0].read_text())
    print("\n".join(map(str, figures + tables)))


def main() -> None:
    """Trains what is not finished, then draws."""
    if PLOT_ONLY.value and WORKDIR.value:
        draw(Path(WORKDIR.value).expanduser())
        return
    configs = net_configs()
    workdir = Path(WORKDIR.value or f"runs/degradation-{configs[0].name}").expanduser()
    failures = [] if PLOT_ONLY.value else train_all(configs, workdir)
    draw(workdir)
    if failures:
        raise DivergedError(f"{len(failures)} of {len(configs)} runs diverged: {failures[0]}")


if __name__ == "__main__":
    cli.run(main)
