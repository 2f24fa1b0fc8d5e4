"""Section 4.2 of He15 (arXiv 1512.03385): all its nets, many seeds, a slice of time after another.

python -m experiments.reproduction --config=configs/cifar10.py --workdir=runs/reproduction

Trains the most valuable run that is not finished, then the next: one seed of the plain and residual
nets of 20 to 56 layers, then of those of 110, then further seeds. --minutes=9 stops after nine
minutes with everything saved, and the same command goes on, also on another machine that has the
workdir. What is worth keeping of each run is in the directory of --results, small enough for a
repository: config, metrics and layer responses; with tables and figures of them. A run that is
finished there is not trained again, wherever its workdir is.

Runs of `benchmarks.torch_train` in WORKDIR/pytorch/NET/seed-N stand beside them in the table.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from configs.sweeps import degradation as sweep
from experiments.results.run_names import run_directories
from experiments.results.runs import PLAN_FILE, RESPONSES_FILE, Run, export, planned_runs, read_run
from experiments.sweeps import launch
from experiments.sweeps.plan import Plan, grid, make_plans
from experiments.sweeps.scheduler import RunProgress, RunState
from flaxres import cli
from flaxres.config import flatten, model_name
from flaxres.errors import ConfigError, WorkdirError
from flaxres.run.workdir import CONFIG_FILE, differing_fields, write_atomically

MODELS = flags.DEFINE_list("models", sweep.NETS, "Nets whose first seed comes first.")
DEEP_MODELS = flags.DEFINE_list("deep_models", ["resnet-110", "plain-110"], "Nets that come next.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds of each net, from 0 on.", lower_bound=1)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where runs go; runs/NAME-reproduction if not given."
)
RESULTS = flags.DEFINE_string(
    "results", None, "Where results go; results/DATASET/NAME of the config if not given."
)
MINUTES = flags.DEFINE_float("minutes", math.inf, "Stop after so many, with everything saved.")
DROP_CHECKPOINTS = flags.DEFINE_bool(
    "drop_checkpoints", False, "Delete those of a run once its results are kept."
)
PLOT_ONLY = flags.DEFINE_bool("plot_only", False, "Only collect what is there, also during runs.")
PEERS = "pytorch"  # the directory of their runs, in the workdir and in the results
cli.define_config("configs/cifar10.py")


def plans_by_value() -> list[Plan]:
    """All runs, the most valuable first.

    Raises:
      ConfigError: a net in --config, or one that does not exist or is of another paper.
    """
    path, _, net = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    if net:
        raise ConfigError(f"--config takes no net here, got {net!r}; choose nets with --models")
    first, deep = ({net: (net, {}) for net in names.value} for names in (MODELS, DEEP_MODELS))
    entries = grid(path, first, [0]) + grid(path, deep, [0])
    entries += grid(path, first | deep, range(1, SEEDS.value))
    if not entries:
        raise ConfigError(
            "--models and --deep_models are empty; give e.g. --models=plain-20,resnet-20"
        )
    plans = make_plans(entries, cli.get_overrides())
    for plan in plans:
        model = plan.config.model
        if model.name not in ("plain", "resnet") or model.block != "basic":
            raise ConfigError(
                f"--models and --deep_models take the plain and residual nets of section 4.2, got "
                f"{model_name(model)}; experiments.sweep trains others"
            )
    return plans


class Results:
    """The directory of results, kept up to date by a thread while other runs train."""

    def __init__(self, workdir: Path, directory: Path):
        self._workdir, self.directory = workdir, directory
        self._thread = ThreadPoolExecutor(1)
        self._started: dict[str, Future] = {}

    def is_finished(self, plan: Plan) -> bool:
        """Whether they hold all of a run.

        Raises:
          WorkdirError: they cannot be read, or are of another config.
        """
        run = self._read(self.directory / plan.name)
        if run is None or not run.finished:
            return False
        here = flatten(plan.config)
        if fields := differing_fields(run.config, here):
            values = "; ".join(
                f"{f} is {run.config[f]!r} there and {here[f]!r} here" for f in fields
            )
            raise WorkdirError(
                f"{self.directory / plan.name} holds results of another config: {values}; "
                "choose another --results"
            )
        return (self.directory / plan.name / RESPONSES_FILE).exists()

    @staticmethod
    def _read(directory: Path) -> Run | None:
        return read_run(directory) if (directory / CONFIG_FILE).exists() else None

    def watch(self, run: RunProgress) -> None:
        """Takes up a run that has finished."""
        if run.state is RunState.FINISHED and run.plan.name not in self._started:
            self._started[run.plan.name] = self._thread.submit(self._finish, run.plan)

    def _finish(self, plan: Plan) -> None:
        from experiments.analyses.base import load_run
        from experiments.analyses.responses import responses_of_run, write_responses

        workdir, directory = self._workdir / plan.name, self.directory / plan.name
        export(read_run(workdir), directory)
        write_responses(responses_of_run(load_run(workdir)), directory)
        if DROP_CHECKPOINTS.value:
            shutil.rmtree(workdir / "checkpoints")

    def collect(self, plans: list[Plan]) -> None:
        """Waits for the thread, exports what is unfinished, and draws tables and figures.

        Raises:
          UserError: something cannot be read or written.
        """
        try:
            for future in self._started.values():
                future.result()
            for parts in ((), (PEERS,)):
                source, target = (Path(p, *parts) for p in (self._workdir, self.directory))
                for path in run_directories(source):
                    name = path.relative_to(source)
                    run, there = read_run(path), self._read(target / name)
                    if run and (
                        there is None or run.records[-1]["step"] > there.records[-1]["step"]
                    ):
                        export(run, target / name)
            if plans:
                known = {plan.name: flatten(plan.config) for plan in plans}
                known = planned_runs(self.directory) | known
                for config in known.values():
                    config["dataset.data_dir"] = None
                write_atomically(self.directory / PLAN_FILE, json.dumps(known) + "\n")
        except OSError as error:
            raise WorkdirError(f"{self.directory} cannot be written ({error.strerror})") from error
        peers = self.directory / PEERS
        launch.collect(self.directory, peers if run_directories(peers) else None, details=True)


def main() -> None:
    """Trains what is not finished for as long as it may, then collects."""
    launch.keep_jax_on_cpu()
    plans = plans_by_value()
    config = plans[0].config
    workdir = Path(WORKDIR.value or f"runs/{config.name}-reproduction").expanduser()
    name = config.dataset.name.replace(":", "-")
    results = Results(workdir, Path(RESULTS.value or f"results/{name}/{config.name}").expanduser())
    if PLOT_ONLY.value:
        results.collect([])
        return
    left = [plan for plan in plans if not results.is_finished(plan)]
    print(f"{len(plans) - len(left)} of {len(plans)} runs are finished", file=sys.stderr)
    if not left:
        results.collect(plans)
        return
    launch.run(
        left,
        workdir,
        on_end=lambda _: results.collect(plans),
        in_order=True,
        minutes=MINUTES.value,
        watch=results.watch,
    )


if __name__ == "__main__":
    cli.run(main, trains=False)
