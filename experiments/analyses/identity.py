"""Whether SGD keeps what a deeper net is given: He15 (arXiv 1512.03385), section 1.

python -m experiments.analyze identity --workdir=runs/degradation --deeper=56

Trained nets are made deeper by identity layers (`experiments.analyses.identity_init`), which leaves their outputs
as they are, and trained on by their own config, beside nets of that depth from random weights. The
runs are in OUTPUT/identity/NAME/seed-N; finished ones are skipped, unfinished ones go on. A net
from random weights that the workdir has already is not trained again.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator
from ml_collections import ConfigDict

from experiments.analyses.base import TrainedRun, load, write_rows
from experiments.analyses.identity_init import deepen, fresh_variables, make_logits
from experiments.analyses.identity_runs import (
    Pair,
    find_pairs,
    finished_twin,
    parse_factors,
    plan_entry,
    trained_on,
)
from experiments.results import plot_style
from experiments.results.runs import Run, mean_and_std, read_run
from experiments.sweeps import launch
from experiments.sweeps.plan import make_plans
from flaxres.models import create_model
from flaxres.pretrained.load import VARIABLES_SUFFIX, write_variables
from flaxres.run.workdir import CONFIG_FILE

NAME = "identity"  # of the figure, and of the directory of the runs
TICKS = (0, 1, 10, 100)  # of the axis of errors, which is linear up to 1%
METRICS = {"train_error": "training error", "test_error": "test error"}


def define_flags() -> None:
    """The nets, and the learning rates."""
    flags.DEFINE_list(
        "shallow", [], "Nets or depths that are there; the shallowest of each kind if not given."
    )
    flags.DEFINE_list("deeper", ["56"], "Nets or depths to make of them.")
    flags.DEFINE_list(
        "rate_factors",
        ["1", "0.1", "0.01"],
        "Learning rates to train on with, as multiples of the run's own: by default that of random "
        "weights, and those after the first and the second drop of He15's schedule, with which the "
        "trained net has settled.",
    )
    flags.adopt_module_key_flags(launch)


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """A net that was made, before it is trained on.

    Attributes:
      pair: what it was made of.
      trained: the shallow net.
      weights: the file of the deeper one's variables.
      errors: {'train_error': ..., 'test_error': ...}, top-1 in percent, of the 'shallow' net, the
        net that was 'made' and the one of that depth from 'random' weights: with running
        statistics, without augmentation.
      difference: of the logits of the first two, the largest on the test set.
      scale: the largest logit of the shallow net there.
    """

    pair: Pair
    trained: TrainedRun
    weights: Path
    errors: dict[str, dict[str, float]]
    difference: float
    scale: float


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """A run of a deeper net.

    Attributes:
      name: that of its directory.
      config: of the run.
      directory: of the run.
      start: the net that was made.
      origin: 'made' or 'random', what it begins with.
    """

    name: str
    config: ConfigDict
    directory: Path
    start: Start
    origin: str

    def run(self) -> Run | None:
        """Its records, with one of step 0; None before the first."""
        if not (self.directory / CONFIG_FILE).exists() or (run := read_run(self.directory)) is None:
            return None
        first = {"step": 0, **self.start.errors[self.origin]}
        return dataclasses.replace(run, net=self.name, records=[first, *run.records])


def analyze(directories: Sequence[Path], output: Path) -> list[Path]:
    """Makes the nets, trains them on, and draws what became of them; returns the files.

    Raises:
      UserError: nets that cannot be made deeper, a run that fails, or an interruption; what is
        there is drawn all the same.
    """
    launch.keep_jax_on_cpu()
    factors = parse_factors(flags.FLAGS.rate_factors)
    pairs = find_pairs(directories, flags.FLAGS.shallow, flags.FLAGS.deeper)
    workdir = output / NAME
    variants = []
    for pair in pairs:
        start = make_start(pair, workdir)
        variants += find_variants(start, factors, directories, workdir)
    own = {f"{v.name}/seed-{v.config.seed}": v for v in variants if workdir in v.directory.parents}
    files: list[Path] = []
    if own:
        plans = make_plans([plan_entry(name, v.config) for name, v in own.items()], {})
        launch.run(plans, workdir, on_end=lambda _: files.extend(collect(variants, output)))
    return files or collect(variants, output)


def make_start(pair: Pair, workdir: Path) -> Start:
    """Makes the deeper net of a pair, writes its file in `workdir`, and compares it with the other.

    Raises:
      UserError: the trained net cannot be read.
      OSError: the file cannot be written.
    """
    run = load(pair.directory)
    config, dataset = pair.config, run.dataset
    fresh = fresh_variables(config, dataset)
    made = deepen(run, config, fresh)
    name = f"{pair.deeper}-from-{pair.shallow}-seed-{config.seed}{VARIABLES_SUFFIX}"
    weights = workdir / "weights" / name
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_variables(weights, made)
    model = create_model(config.model, dataset.num_classes, config.dtype)
    nets = {
        "shallow": (run.model(), run.variables),
        "made": (model, made),
        "random": (model, fresh),
    }
    compiled_steps = {
        net: make_logits(net, run.mean, config.eval_batch_size) for net, _ in nets.values()
    }
    errors, tested = {}, {}
    for name, (net, variables) in nets.items():
        errors[name] = {}
        for metric, split in (("train_error", dataset.train), ("test_error", dataset.test)):
            logits = compiled_steps[net](variables, split.images)
            errors[name][metric] = 100 * float(np.mean(logits.argmax(-1) != split.labels))
        tested[name] = logits
    difference = float(np.abs(tested["made"] - tested["shallow"]).max())
    scale = float(np.abs(tested["shallow"]).max())
    print(
        f"{pair.deeper} made of {run.name}: test error {errors['made']['test_error']:.2f}% for "
        f"{errors['shallow']['test_error']:.2f}%, logits differ by {difference:.1e} at most, where "
        f"the largest is {scale:.1f}",
        file=sys.stderr,
    )
    return Start(pair, run, weights, errors, difference, scale)


def find_variants(
    start: Start, factors: Sequence[float], directories: Sequence[Path], workdir: Path
) -> list[Variant]:
    """The runs of a net that was made, and that of its depth from random weights."""
    config = start.pair.config
    directory = workdir / start.pair.deeper / f"seed-{config.seed}"
    twin = finished_twin(directories, config) or directory
    variants = [Variant(start.pair.deeper, config, twin, start, "random")]
    for name, own in trained_on(start.pair, start.weights, factors).items():
        variants.append(Variant(name, own, workdir / name / f"seed-{own.seed}", start, "made"))
    return variants


def shallow_errors(start: Start) -> dict[str, float]:
    """The trained net's errors as its run logged them, like those of the curves.

    Where nothing was logged at its checkpoint, those of an evaluation.
    """
    run = read_run(start.pair.directory)
    records = [record for record in run.records if record["step"] == start.trained.step]
    logged = {k: v for record in records for k, v in record.items() if k in METRICS}
    return start.errors["shallow"] | logged


def collect(variants: Sequence[Variant], output: Path) -> list[Path]:
    """Writes identity.csv and the figure of the runs that have begun; returns the files."""
    rows, seen = [], set()
    for variant in variants:
        start, config = variant.start, variant.config
        if start not in seen:
            seen.add(start)
            rows.append(_row(start, start.trained.name, start.trained.config, start.trained.step))
            rows[-1] |= {f"final_{k}": value for k, value in shallow_errors(start).items()}
        run = variant.run()
        step = int(run.records[-1]["step"]) if run else 0
        row = _row(start, f"{variant.name}/seed-{config.seed}", config, step, variant.origin)
        for metric in METRICS:
            final = run.last(metric) if run and step else ""
            row |= {f"initial_{metric}": start.errors[variant.origin][metric]}
            row |= {f"final_{metric}": final}
        if variant.origin == "made":
            row |= {"logits_difference": start.difference, "largest_logit": start.scale}
        rows.append(row)
    return [write_rows(rows, output / f"{NAME}.csv"), *draw(variants, output / NAME)]


def _row(start: Start, name: str, config: ConfigDict, step: int, origin: str = "") -> dict:
    """A line of the CSV file, without numbers of the net."""
    begins = {"made": start.trained.name, "random": "random weights", "": ""}[origin]
    row = {"run": name, "begins_with": begins, "learning_rate": config.learning_rate, "step": step}
    numbers = [f"{when}_{metric}" for when in ("initial", "final") for metric in METRICS]
    return row | dict.fromkeys((*numbers, "logits_difference", "largest_logit"), "")


def draw(variants: Sequence[Variant], path: Path) -> list[Path]:
    """Error against steps, a row of panels for each pair of nets; means over seeds.

    Args:
      variants: of all pairs; those without records are left out.
      path: of the files, without extension.

    Returns:
      The files.
    """
    pairs: dict[tuple[str, str], list[Variant]] = {}
    for variant in variants:
        pair = variant.start.pair
        pairs.setdefault((pair.shallow, pair.deeper), []).append(variant)
    figure, panels = plot_style.grid(2 * len(pairs), columns=2, size=(4.6, 2.9), sharey="row")
    for (shallow, deeper), group, left, right in zip(
        pairs, pairs.values(), panels[::2], panels[1::2], strict=True
    ):
        names = list(dict.fromkeys(variant.name for variant in group))
        for axes, (metric, what) in zip((left, right), METRICS.items(), strict=True):
            for number, name in enumerate(names):
                own = [variant.run() for variant in group if variant.name == name]
                shift = number / len(names)
                _curve(axes, [run for run in own if run is not None], metric, number, shift)
            starts = {variant.start for variant in group}
            level = float(np.mean([shallow_errors(start)[metric] for start in starts]))
            axes.axhline(level, color="black", linestyle=(0, (5, 2)), linewidth=1.2, label=shallow)
            config = group[0].config
            for step in config.boundaries if config.schedule == "piecewise-constant" else ():
                axes.axvline(step, color=plot_style.GRAY, linestyle=":", linewidth=1.0, zorder=0)
            axes.set_xlim(0, config.num_steps)
            plot_style.label_axes(
                axes, "iterations", "error (%)" * (axes is left), f"{deeper}, {what}"
            )
        # What is kept or lost may be a hundredth or all of it.
        left.set_yscale("symlog", linthresh=1, linscale=0.5)
        left.set_ylim(-0.1, 100)  # so that curves at 0 are seen
        left.set_yticks(TICKS, map(str, TICKS))
        left.yaxis.set_minor_locator(NullLocator())
        right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return plot_style.save(figure, path, _note(variants))


def _curve(axes: Axes, runs: list[Run], metric: str, number: int, shift: float) -> None:
    """Mean over seeds, with a band of one standard deviation.

    `shift` sets its markers, as a part of their distance, apart from those of curves below it.
    """
    if not runs:
        return
    steps, mean, std = mean_and_std(runs, metric)
    look = plot_style.curve_style(number, len(steps))
    every = look["markevery"][1]
    look["markevery"] = (int(shift * every), every)
    axes.plot(steps, mean, label=runs[0].variant, **look)
    if std.any():
        axes.fill_between(steps, mean - std, mean + std, color=look["color"], alpha=0.2, lw=0)


def _note(variants: Sequence[Variant]) -> str:
    """What the figure shows, and how much of it is there."""
    config = variants[0].config
    seeds = len({variant.config.seed for variant in variants})
    text = (
        f"{config.dataset.name}, {config.num_steps:,} iterations of nets from random weights, and "
        "from trained nets with identity layers; dashed: the trained net; iteration 0: before "
        "training, with running statistics; dotted: the learning rate drops"
    )
    text += f"; mean and standard deviation of {seeds} seeds" * (seeds > 1)
    runs = [variant.run() for variant in variants]
    finished = sum(run is not None and run.finished for run in runs)
    more = f"; incomplete: {finished} of {len(runs)} runs finished"
    return text + (more if finished < len(runs) else "")
