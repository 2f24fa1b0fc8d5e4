"""Training of a deeper model built from a trained one: He15 (arXiv 1512.03385), section 1.

flaxres analyze identity --workdir=runs/degradation --deeper=56

Identity layers make a trained model deeper without changing its outputs
(`experiments.analyses.identity_init`), so the deeper model starts with the error of the shallow
one. The analysis trains it with the config of the run, next to a model of the same depth from
random weights, and shows whether training keeps the low error. --num_steps shortens this training.
The runs are in OUTPUT/identity/VARIANT/seed-N; finished runs are skipped and unfinished runs
resume. A model that the workdir already has from random weights is not trained again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from flaxres.experiments.analyses.base import write_rows
from flaxres.experiments.analyses.identity_figures import draw
from flaxres.experiments.analyses.identity_init import deepen, initial_variables, make_logits
from flaxres.experiments.analyses.identity_runs import (
    METRICS,
    DeepenedModel,
    DeeperRun,
    ModelPair,
    deepened_configs,
    find_finished_run,
    find_pairs,
    shallow_errors,
    sweep_entry,
)
from flaxres.experiments.analyses.identity_schedule import (
    parse_boundaries,
    parse_learning_rate_factors,
    with_length,
)
from flaxres.experiments.analyses.model_sources import ModelSource
from flaxres.experiments.results.tables import Row
from flaxres.experiments.sweeps import launch
from flaxres.experiments.sweeps.plan import make_plans
from flaxres.models import create_model
from flaxres.parallel.multihost import print_to_stderr
from flaxres.pretrained.load import VARIABLES_SUFFIX, write_variables

NAME = "identity"  # of the figure and of the directory of the runs


def define_flags() -> None:
    """Defines flags for the models, the learning rates and the executor."""
    flags.DEFINE_list(
        "shallow",
        [],
        "Trained models to start from, by name or depth, e.g. plain-20 or 20 (default: the "
        "shallowest model of each kind).",
    )
    flags.DEFINE_list("deeper", ["56"], "Models to build, by name or depth, e.g. plain-56.")
    flags.DEFINE_list(
        "learning_rate_factors",
        ["1", "0.1", "0.01"],
        "Learning rates for the deepened models, as multiples of the run's learning rate. The "
        "default is the initial learning rate and the learning rates after the first and the "
        "second drop of He15, at which the trained model converged.",
    )
    flags.DEFINE_integer(
        "num_steps",
        None,
        "Number of steps of each run, e.g. 1000 (default: that of the trained model). Boundaries, "
        "warm-up and the periods of records, evaluations and checkpoints are scaled with it.",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "boundaries",
        None,
        "Steps at which the learning rate drops, e.g. 500,750 (default: those of the trained "
        "model, scaled); 'none' keeps the learning rate constant.",
    )
    flags.DEFINE_bool(
        "random_weights",
        True,
        "Train the deeper models from random weights, too; --norandom_weights leaves these out.",
    )
    flags.adopt_module_key_flags(launch)


def analyze(sources: Sequence[ModelSource], output: Path) -> list[Path]:
    """Builds the deeper models, trains them, draws their errors, and returns the files.

    Raises:
      UserError: a model cannot be made deeper, a run fails, or the command is interrupted. The
        figure is then drawn from the runs so far.
    """
    launch.keep_jax_on_cpu()
    values = flags.FLAGS
    factors = parse_learning_rate_factors(values.learning_rate_factors)
    boundaries, with_random = parse_boundaries(values.boundaries), values.random_weights
    pairs = [
        dataclasses.replace(pair, config=with_length(pair.config, values.num_steps, boundaries))
        for pair in find_pairs(sources, values.shallow, values.deeper)
    ]
    directories = [source.directory for source in sources if source.directory is not None]
    workdir = output / NAME
    runs: list[DeeperRun] = []
    for pair in pairs:
        model = build_deepened_model(pair, workdir, with_random)
        runs += make_runs(model, factors, directories, workdir)
    entries = {
        f"{run.variant}/seed-{run.config.seed}": run.config
        for run in runs
        if workdir in run.directory.parents
    }
    files: list[Path] = []
    if entries:
        plans = make_plans([sweep_entry(name, config) for name, config in entries.items()], {})
        launch.run(plans, workdir, on_end=lambda _: files.extend(write_results(runs, output)))
    return files or write_results(runs, output)


def build_deepened_model(pair: ModelPair, workdir: Path, with_random: bool = True) -> DeepenedModel:
    """Builds a deeper model, writes its weights, and compares it with the trained model.

    Args:
      pair: the trained model and the deeper model.
      workdir: directory of the weights.
      with_random: if True, the model with random weights is evaluated and trained, too.

    Raises:
      UserError: the trained run cannot be read.
      OSError: the weights cannot be written.
    """
    run = pair.source.load()
    config, dataset = pair.config, run.dataset
    initial = initial_variables(config, dataset)
    deepened = deepen(run, config, initial)
    file_name = f"{pair.deeper}-from-{pair.shallow}-seed-{config.seed}{VARIABLES_SUFFIX}"
    weights_file = workdir / "weights" / file_name
    weights_file.parent.mkdir(parents=True, exist_ok=True)
    write_variables(weights_file, deepened)
    deeper_model = create_model(config.model, dataset.num_classes, config.dtype)
    models = {
        "shallow": (run.make_model(), run.variables),
        "deepened": (deeper_model, deepened),
        **({"random": (deeper_model, initial)} if with_random else {}),
    }
    logits_functions = {
        model: make_logits(model, run.mean_image, config.eval_batch_size)
        for model, _ in models.values()
    }
    errors: dict[str, dict[str, float]] = {}
    test_logits = {}
    for name, (model, variables) in models.items():
        errors[name] = {}
        for metric, split in (("train_error", dataset.train), ("test_error", dataset.test)):
            logits = logits_functions[model](variables, split.images)
            errors[name][metric] = 100 * float(np.mean(logits.argmax(-1) != split.labels))
        test_logits[name] = logits
    difference = float(np.abs(test_logits["deepened"] - test_logits["shallow"]).max())
    max_logit = float(np.abs(test_logits["shallow"]).max())
    print_to_stderr(
        f"Built {pair.deeper} from {run.name}: test error {errors['deepened']['test_error']:.2f}% "
        f"(before: {errors['shallow']['test_error']:.2f}%), largest difference of the logits "
        f"{difference:.1e} (largest logit: {max_logit:.1f})."
    )
    return DeepenedModel(pair, run, weights_file, errors, difference, max_logit)


def make_runs(
    model: DeepenedModel, factors: Sequence[float], directories: Sequence[Path], workdir: Path
) -> list[DeeperRun]:
    """Returns the runs that train a deepened model, after the one from random weights, if any.

    Args:
      model: the deepened model.
      factors: multiples of the learning rate.
      directories: directories of existing runs; a finished run from random weights is reused.
      workdir: directory of the new runs.
    """
    runs: list[DeeperRun] = []
    if "random" in model.errors:
        config, variant = model.pair.config, model.pair.deeper
        directory = find_finished_run(directories, config)
        directory = directory or workdir / variant / f"seed-{config.seed}"
        runs.append(DeeperRun(variant, config, directory, model, "random"))
    configs = deepened_configs(model.pair, model.weights_file, factors)
    for variant, config in configs.items():
        directory = workdir / variant / f"seed-{config.seed}"
        runs.append(DeeperRun(variant, config, directory, model, "deepened"))
    return runs


def write_results(runs: Sequence[DeeperRun], output: Path) -> list[Path]:
    """Writes identity.csv and the figure of the runs so far, and returns the files."""
    rows: list[Row] = []
    seen = set()
    for deeper_run in runs:
        model, config, origin = deeper_run.model, deeper_run.config, deeper_run.origin
        if model not in seen:
            seen.add(model)
            trained = model.trained
            rows.append(_make_row(trained.name, "", trained.config, trained.step))
            rows[-1] |= {f"final_{key}": value for key, value in shallow_errors(model).items()}
        run = deeper_run.read()
        step = run.step if run else 0
        begins_with = model.trained.name if origin == "deepened" else "random weights"
        row = _make_row(f"{deeper_run.variant}/seed-{config.seed}", begins_with, config, step)
        for metric in METRICS:
            final = run.last(metric) if run and step else ""
            row |= {f"initial_{metric}": model.errors[origin][metric], f"final_{metric}": final}
        if origin == "deepened":
            row["logits_difference"] = model.logits_difference
            row["largest_logit"] = model.max_logit
        rows.append(row)
    return [write_rows(rows, output / f"{NAME}.csv"), *draw(runs, output / NAME)]


def _make_row(name: str, begins_with: str, config: ConfigDict, step: int) -> Row:
    """Returns a row of identity.csv with empty measurements."""
    row = {
        "run": name,
        "begins_with": begins_with,
        "learning_rate": config.learning_rate,
        "step": step,
    }
    errors = [f"{when}_{metric}" for when in ("initial", "final") for metric in METRICS]
    return row | dict.fromkeys((*errors, "logits_difference", "largest_logit"), "")
