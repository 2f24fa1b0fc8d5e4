"""Reproduction of He15 (arXiv 1512.03385), section 4.2: all its models, with several seeds.

flaxres reproduction --config=configs/cifar10.py --workdir=runs/reproduction

Trains unfinished runs in priority order: the first seed of the plain and residual models with 20 to
56 layers, then of the models with 110 layers, then the other seeds. With --minutes=9, all runs save
and stop after nine minutes; rerun the same command to resume, also on another machine that has the
workdir.

The results directory (--results) holds the config, metrics and layer responses of each run, and
tables and figures of all runs. It is small enough for a repository. Runs that are finished there
are not trained again, even if their workdir is missing. Without --config, --plot_only draws the
tables and figures of all results directories in results/ again, or only that of --results.

Runs of `benchmarks.torch_train` in WORKDIR/pytorch/MODEL/seed-N get a column in the table.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from flaxres import cli
from flaxres.config import directory_name, flatten, model_name
from flaxres.errors import ConfigError, DamagedFileError, UserError, WorkdirError, print_note
from flaxres.experiments.results.archive import ResultsArchive, pytorch_runs
from flaxres.experiments.results.run_names import run_directories
from flaxres.experiments.sweeps import launch
from flaxres.experiments.sweeps.models import DEGRADATION_MODELS
from flaxres.experiments.sweeps.plan import Plan, grid, make_plans
from flaxres.experiments.sweeps.run_progress import RunProgress, RunState
from flaxres.files import expand_home

MAX_SEEDS = 1_000
RESULTS_DIRECTORY = Path("results")

MODELS = flags.DEFINE_list(
    "models",
    DEGRADATION_MODELS,
    "Models whose first seed is trained first, e.g. plain-20,resnet-20.",
)
DEEP_MODELS = flags.DEFINE_list(
    "deep_models",
    ["resnet-110", "plain-110"],
    "Models whose first seed is trained next.",
)
SEEDS = flags.DEFINE_integer(
    "seeds",
    5,
    "Number of seeds of each model, from seed 0.",
    lower_bound=1,
    upper_bound=MAX_SEEDS,
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory for the runs (default: runs/CONFIG-reproduction)."
)
RESULTS = flags.DEFINE_string(
    "results", None, "Directory for the results (default: results/DATASET/CONFIG)."
)
MINUTES = flags.DEFINE_float(
    "minutes",
    None,
    "Save and stop after this many minutes (default: no limit), e.g. 9.",
    lower_bound=0,
)
DROP_CHECKPOINTS = flags.DEFINE_bool(
    "drop_checkpoints", False, "Delete the checkpoints of a finished run after its export."
)
PLOT_ONLY = flags.DEFINE_bool(
    "plot_only",
    False,
    "Collect tables and figures without training, also while runs are running. Without --config, "
    "they are drawn from results directories, and no workdir is read.",
)
cli.define_config("configs/cifar10.py")
flags.adopt_module_key_flags(launch)  # --help shows these flags


def plans_by_priority() -> list[Plan]:
    """Returns the plans of all runs in priority order.

    Raises:
      ConfigError: --config names a model, or a model does not exist or is not of section 4.2.
    """
    path = launch.config_file()
    models: dict[str, tuple[str, dict[str, object]]] = {m: (m, {}) for m in MODELS.value}
    deep_models: dict[str, tuple[str, dict[str, object]]] = {m: (m, {}) for m in DEEP_MODELS.value}
    entries = grid(path, models, [0]) + grid(path, deep_models, [0])
    entries += grid(path, models | deep_models, range(1, SEEDS.value))
    if not entries:
        raise ConfigError(
            "--models and --deep_models are empty; set e.g. --models=plain-20,resnet-20"
        )
    hint = "every model has the seeds 0, 1, ...; choose their number with --seeds, e.g. --seeds=5"
    plans = make_plans(entries, cli.get_overrides(), hint)
    for plan in plans:
        model = plan.config.model
        if model.name not in ("plain", "resnet") or model.block != "basic":
            raise ConfigError(
                "--models and --deep_models accept the plain and residual models of section 4.2, "
                f"got {model_name(model)}; train other models with flaxres.experiments.sweep"
            )
    return plans


def write_run_responses(run: Path, target: Path) -> None:
    """Measures the layer responses of the run in the directory `run`; writes them to `target`."""
    from flaxres.experiments.analyses.model_sources import load_run
    from flaxres.experiments.analyses.responses import responses_of_run, write_responses

    write_responses(responses_of_run(load_run(run)), target)


def collect(archive: ResultsArchive, plans: list[Plan]) -> None:
    """Updates the results directory and its tables and figures.

    Args:
      archive: the results directory.
      plans: plans of all runs; [] if only existing runs are collected.

    Raises:
      UserError: a file cannot be read or written.
    """
    archive.update({plan.name: flatten(plan.config) for plan in plans})
    draw_results([archive.directory])


def draw_results(directories: Sequence[Path]) -> None:
    """Updates the tables and figures of results directories.

    Raises:
      UserError: a directory has no runs that can be read, or a file cannot be written. The other
        directories are drawn all the same.
    """
    errors = []
    for directory in directories:
        try:
            launch.collect(directory, pytorch_runs(directory), details=True)
        except UserError as error:
            errors.append(error)
    for further in errors[1:]:
        print_note(str(further))
    if errors:
        raise errors[0]


def find_results(directory: Path = RESULTS_DIRECTORY) -> list[Path]:
    """Returns all results directories DATASET/NAME in a directory.

    Raises:
      WorkdirError: there are none.
    """
    if found := [path for path in sorted(directory.glob("*/*")) if run_directories(path)]:
        return found
    raise WorkdirError(
        f"{directory}/DATASET/NAME has no results; give --results=DIR, or --config and --workdir "
        "of runs"
    )


def main() -> None:
    """Trains unfinished runs until the time limit, then collects tables and figures."""
    launch.keep_jax_on_cpu()
    if PLOT_ONLY.value and not cli.has_config() and WORKDIR.value is None:
        given = RESULTS.value
        draw_results([expand_home(given, "--results")] if given else find_results())
        return
    plans = plans_by_priority()
    config = plans[0].config
    workdir = expand_home(
        WORKDIR.value or f"runs/{directory_name(config)}-reproduction", "--workdir"
    )
    dataset = config.dataset.name.replace(":", "-")
    results = RESULTS.value or RESULTS_DIRECTORY / dataset / directory_name(config)
    directory = expand_home(str(results), "--results")
    archive = ResultsArchive(workdir, directory, write_run_responses, DROP_CHECKPOINTS.value)
    if PLOT_ONLY.value:
        collect(archive, [])
        return
    unfinished, num_damaged = [], 0
    for plan in plans:
        try:
            if not archive.has_finished_run(plan.name, flatten(plan.config)):
                unfinished.append(plan)
        except DamagedFileError as error:
            num_damaged += 1
            print_note(f"{plan.name} is left out: {error}")
    num_finished = len(plans) - len(unfinished) - num_damaged
    print(f"{num_finished} of {len(plans)} runs are finished", file=sys.stderr)
    if not unfinished:
        collect(archive, plans)
        return

    def add_if_finished(run: RunProgress) -> None:
        if run.state is RunState.FINISHED:
            archive.add_finished_run(run.plan.name)

    launch.run(
        unfinished,
        workdir,
        on_end=lambda _: collect(archive, plans),
        in_order=True,
        minutes=math.inf if MINUTES.value is None else MINUTES.value,
        on_update=add_if_finished,
    )


if __name__ == "__main__":
    cli.run(main, trains=False)
