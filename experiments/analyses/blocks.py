"""Test error of trained models after dropping or swapping blocks, without further training.

flaxres analyze blocks --workdir=runs/degradation

Veit, Wilber and Belongie 2016 (arXiv 1605.06431), section 4: a residual network loses little with
any one block, because most paths through it do not contain that block; a plain network is a single
path. The analysis takes three measurements: it drops each block, drops several random blocks, and
swaps random pairs of blocks of one stage, one pair after the other.
`experiments.analyses.surgery.droppable_blocks` selects the blocks.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from ml_collections import ConfigDict

from flaxres.experiments.analyses import surgery
from flaxres.experiments.analyses.base import (
    Evaluation,
    TrainedRun,
    figure_note,
    write_rows,
)
from flaxres.experiments.analyses.model_sources import ModelSource, measure_runs
from flaxres.experiments.analyses.progress import Advance, no_progress
from flaxres.experiments.analyses.trials import mean_over_seeds, sample_std
from flaxres.experiments.results import plot_style
from flaxres.experiments.results.tables import Row
from flaxres.field_checks import FieldChecker

SWAP_COUNTS = (0, 1, 2, 4, 8, 16, 32)
MAX_DROP_COUNTS = 17  # numbers of dropped blocks, evenly spaced from none to all; 1 is always added
# Kind of change -> label of the x axis. The order of the kinds is part of the random seeds.
KINDS = {
    "position": "position of the dropped block",
    "dropped": "number of dropped blocks",
    "swaps": "number of swaps",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the analysis.

    Attributes:
      trials: number of random choices for each number of dropped or swapped blocks.
      seed: seed of the random choices.
      images: number of test images, from the start of the split; 0 for all.
    """

    trials: int = 20
    seed: int = 0
    images: int = 2_000

    def __post_init__(self) -> None:
        check = FieldChecker(dataclasses.asdict(self))
        check.require(self.trials >= 1, "trials", "at least 1")
        check.require(self.seed >= 0, "seed", "at least 0")
        check.require(self.images >= 0, "images", "at least 0")


def define_flags() -> None:
    """Defines a flag for each option."""
    default = Options()
    flags.DEFINE_integer(
        "trials",
        default.trials,
        "Number of random choices for each number of dropped or swapped blocks.",
        lower_bound=1,
    )
    flags.DEFINE_integer("seed", default.seed, "Seed of the random choices.", lower_bound=0)
    flags.DEFINE_integer(
        "images",
        default.images,
        "Number of test images, from the start of the split; 0 for all.",
        lower_bound=0,
    )


@dataclasses.dataclass(frozen=True)
class Modification:
    """A change to the blocks of a trained model.

    Attributes:
      kind: a key of `KINDS`.
      number: position of the dropped block, from 1, or number of dropped blocks or swaps.
      dropped: names of the dropped blocks.
      swapped: pairs of names of the blocks to swap, in this order.
    """

    kind: str
    number: int
    dropped: tuple[str, ...] = ()
    swapped: tuple[tuple[str, str], ...] = ()


def make_modifications(model: ConfigDict, options: Options) -> list[Modification]:
    """Returns all modifications of a model.

    A random choice is a function of (seed, kind, number, trial) and the blocks of the model. If
    there is only one choice, such as none or all of the blocks, it is made once. The same pair is
    never swapped twice in a row, which would have no effect; longer sequences may still restore the
    order of the blocks.

    Args:
      model: fields of the model, `config.model`.
      options: number of trials and seed.

    Raises:
      ConfigError: the model does not consist of stages of blocks, or no block can be dropped.
    """
    stages = surgery.droppable_blocks(model)
    names = list(itertools.chain(*stages))
    pairs = [pair for stage in stages for pair in itertools.combinations(stage, 2)]
    all_names = list(itertools.chain(*surgery.block_names(model)))

    def generators(kind: str, number: int, is_only_choice: bool) -> Iterator[np.random.Generator]:
        for trial in range(1 if is_only_choice else options.trials):
            yield np.random.default_rng((options.seed, list(KINDS).index(kind), number, trial))

    modifications = [
        Modification("position", all_names.index(name) + 1, dropped=(name,)) for name in names
    ]
    drop_counts = {1, *np.linspace(0, len(names), MAX_DROP_COUNTS).round().astype(int).tolist()}
    for number in sorted(drop_counts):
        for rng in generators("dropped", number, number in (0, len(names))):
            indices = sorted(rng.choice(len(names), number, replace=False))
            dropped = tuple(names[index] for index in indices)
            modifications.append(Modification("dropped", number, dropped=dropped))
    swap_counts = {0: (), 1: SWAP_COUNTS[:2]}.get(len(pairs), SWAP_COUNTS)
    for number in swap_counts:
        for rng in generators("swaps", number, number == 0 or len(pairs) == 1):
            swapped = _choose_swaps(rng, pairs, number)
            modifications.append(Modification("swaps", number, swapped=swapped))
    return modifications


def _choose_swaps(
    rng: np.random.Generator, pairs: list[tuple[str, str]], number: int
) -> tuple[tuple[str, str], ...]:
    """Returns `number` random pairs of blocks, never the same pair twice in a row."""
    swaps: list[tuple[str, str]] = []
    while len(swaps) < number:
        pair = pairs[rng.integers(len(pairs))]
        if swaps[-1:] != [pair]:
            swaps.append(pair)
    return tuple(swaps)


def evaluate_modifications(
    run: TrainedRun, modifications: Sequence[Modification], images: int = 0
) -> Iterator[float]:
    """Yields the test error in percent of each modified model.

    Args:
      run: the run whose model is modified.
      modifications: the modifications to evaluate.
      images: number of test images, from the start of the split; 0 for all.
    """
    names = list(itertools.chain(*surgery.droppable_blocks(run.config.model)))
    apply = surgery.make_masked_apply(run.make_model(), names)
    evaluation = Evaluation(run, run.dataset.test, apply, images)
    for modification in modifications:
        variables = run.variables
        for first, second in modification.swapped:
            variables = surgery.swap_blocks(variables, first, second)
        keep = np.array([name not in modification.dropped for name in names])
        yield evaluation(variables, keep)["error"]


def summarize(modifications: Sequence[Modification], errors: Sequence[float]) -> list[Row]:
    """Returns one row for each kind and number, with mean and standard deviation of the error.

    Args:
      modifications: the evaluated modifications.
      errors: error of each, in percent.
    """
    trials: dict[tuple[str, int], list[float]] = {}
    for modification, error in zip(modifications, errors, strict=True):
        trials.setdefault((modification.kind, modification.number), []).append(error)
    return [
        {
            "kind": kind,
            "number": number,
            "trials": len(trial_errors),
            "error": float(np.mean(trial_errors)),
            "error_std": sample_std(trial_errors),
        }
        for (kind, number), trial_errors in trials.items()
    ]


def measure(run: TrainedRun, options: Options, advance: Advance = no_progress) -> list[Row]:
    """Returns the rows of one run, as in `summarize`.

    Args:
      run: the run to measure.
      options: options of the analysis.
      advance: called after each evaluation with the run's name and the number of layers.
    """
    modifications = make_modifications(run.config.model, options)
    errors = []
    for error in evaluate_modifications(run, modifications, options.images):
        errors.append(error)
        advance(run.name, run.config.model.depth)
    return [run.columns | row for row in summarize(modifications, errors)]


def analyze(sources: Sequence[ModelSource], output: Path) -> list[Path]:
    """Analyzes the models with the options given by the flags and returns the files.

    Raises:
      UserError: no block of a model can be dropped, or a run has no checkpoint.
    """
    values = flags.FLAGS
    return analyze_runs(sources, output, Options(values.trials, values.seed, values.images))


def analyze_runs(sources: Sequence[ModelSource], output: Path, options: Options) -> list[Path]:
    """Measures the models, writes blocks.csv, .png and .svg, and returns the files.

    Args:
      sources: the models.
      output: directory of the files.
      options: options of the analysis.

    Raises:
      UserError: no block of a model can be dropped, or a run has no checkpoint.
    """
    rows, runs = measure_runs(
        sources,
        lambda config: config.model.depth * len(make_modifications(config.model, options)),
        lambda run, advance: measure(run, options, advance),
    )
    return [write_rows(rows, output / "blocks.csv"), *draw(rows, runs, options, output / "blocks")]


def draw(
    rows: Sequence[Row], runs: Sequence[TrainedRun], options: Options, path: Path
) -> list[Path]:
    """Draws the three measurements, with plain models above residual models.

    The seeds of a model share a curve: their mean, with a band for the spread over trials and
    seeds.

    Args:
      rows: rows of all runs, as returned by `measure`.
      runs: the measured runs.
      options: options of the analysis.
      path: path of the files, without extension.

    Returns:
      The paths of the files.
    """
    families = {
        run.variant: "plain" if run.config.model.name == "plain" else "residual" for run in runs
    }
    groups = [family for family in ("plain", "residual") if family in families.values()]
    figure, panels = plot_style.grid(3 * len(groups), columns=3, sharex="col", sharey=True)
    chance = 100 * (1 - 1 / runs[0].dataset.num_classes)
    for i, group in enumerate(groups):
        group_panels = panels[3 * i : 3 * i + 3]
        variants = [variant for variant, family in families.items() if family == group]
        for number, variant in enumerate(variants):
            for axes, kind in zip(group_panels, KINDS, strict=True):
                selected = [row for row in rows if (row["net"], row["kind"]) == (variant, kind)]
                _draw_curve(axes, selected, variant, number)
        for axes, (kind, label) in zip(group_panels, KINDS.items(), strict=True):
            axes.axhline(chance, color=plot_style.GRAY, linestyle=":", linewidth=1.0, zorder=0)
            xlabel = label if group == groups[-1] else ""
            plot_style.label_axes(axes, xlabel, "error (%)" if axes is group_panels[0] else "")
            if kind == "swaps":
                axes.set_xscale("symlog", base=2, linthresh=1)
                axes.set_xticks(SWAP_COUNTS, [str(count) for count in SWAP_COUNTS])
        group_panels[0].set_title(f"{group} models", loc="left")
        group_panels[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    panels[0].set_ylim(0, 100)
    num_images = len(runs[0].dataset.test.images)
    choices = "one random choice"
    if options.trials > 1:
        choices = f"mean and standard deviation of {options.trials} random choices"
    text = (
        f"error on {min(options.images or num_images, num_images):,} test images with blocks "
        f"dropped, or with blocks of one stage swapped; {choices}; gaps: blocks that change the "
        "shape; dotted: chance"
    )
    return plot_style.save(figure, path, figure_note(runs, text))


def _draw_curve(axes: Axes, rows: Sequence[Row], label: str, number: int) -> None:
    """Draws one model in one panel, with a gap at blocks that cannot be dropped."""
    x, mean, std = mean_over_seeds(rows, "number", "error")
    if x and rows[0]["kind"] == "position":
        positions = list(range(1, x[-1] + 1))
        gap = np.full(len(positions), np.nan)
        indices = np.array(x) - 1
        gapped_mean, gapped_std = gap.copy(), gap.copy()
        gapped_mean[indices], gapped_std[indices] = mean, std
        x, mean, std = positions, gapped_mean, gapped_std
    # Every point has a marker, because a point between two gaps has no line.
    style = plot_style.curve_style(number)
    axes.plot(x, mean, label=plot_style.label_of(label), **style)
    if np.nansum(std) > 0:
        low, high = np.clip([mean - std, mean + std], 0, 100)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
