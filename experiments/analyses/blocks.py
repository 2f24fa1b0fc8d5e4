"""Error of trained nets after dropping and exchanging blocks, without further training.

python -m experiments.analyze blocks --workdir=runs/degradation

Veit, Wilber and Belongie 2016 (arXiv 1605.06431), section 4: a residual net loses little with any
block, as most paths through it do not pass it; a plain net is one path. Three measurements: each
block dropped alone; random blocks dropped together; random pairs of blocks of a stage exchanged,
one pair after the other. Which blocks: `experiments.analyses.surgery.droppable`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from ml_collections import ConfigDict

from experiments.analyses import surgery
from experiments.analyses.base import (
    Evaluation,
    TrainedRun,
    measure_all,
    note,
    write_rows,
)
from experiments.results import plot_style

SWAPS = (0, 1, 2, 4, 8, 16, 32)
NUMBERS = 17  # of dropped blocks, spread from none to all of them; 1 comes in any case
# What is on the x axis, by kind; the kinds also tell the random numbers apart.
KINDS = {
    "position": "position of the dropped block",
    "dropped": "number of dropped blocks",
    "swaps": "number of exchanges",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """How much is measured.

    Attributes:
      trials: random choices for each number of dropped or exchanged blocks.
      seed: of the choices.
      images: of the test split, the first ones; 0 for all.
    """

    trials: int = 20
    seed: int = 0
    images: int = 2_000


def define_flags() -> None:
    """A flag for each of the options."""
    own = Options()
    flags.DEFINE_integer(
        "trials", own.trials, "Random choices for each number of blocks.", lower_bound=1
    )
    flags.DEFINE_integer("seed", own.seed, "Of the random choices.", lower_bound=0)
    flags.DEFINE_integer(
        "images", own.images, "Test images, the first ones; 0 for all.", lower_bound=0
    )


@dataclasses.dataclass(frozen=True)
class Cut:
    """One net to evaluate.

    Attributes:
      kind: of `KINDS`.
      number: position of the block, from 1, or how many blocks are dropped or pairs exchanged.
      dropped: names of blocks.
      exchanged: pairs of names, in this order.
    """

    kind: str
    number: int
    dropped: tuple[str, ...] = ()
    exchanged: tuple[tuple[str, str], ...] = ()


def cuts(model: ConfigDict, options: Options) -> list[Cut]:
    """All nets that are made of one.

    A random choice is a function of (seed, kind, number, trial) and the net's blocks alone. Where
    there is but one choice, none or all of the blocks, it is made once. No pair of blocks is
    exchanged twice in a row, which would be no exchange; many may still restore the order of few.

    Args:
      model: the fields of the net, `config.model`.
      options: trials and seed.

    Raises:
      ConfigError: see `surgery.droppable`.
    """
    stages = surgery.droppable(model)
    names = list(itertools.chain(*stages))
    pairs = [pair for stage in stages for pair in itertools.combinations(stage, 2)]
    order = list(itertools.chain(*surgery.blocks(model)))

    def choices(kind: str, number: int, only: bool) -> Iterator[np.random.Generator]:
        for trial in range(1 if only else options.trials):
            yield np.random.default_rng((options.seed, list(KINDS).index(kind), number, trial))

    found = [Cut("position", order.index(name) + 1, (name,)) for name in names]
    numbers = {1, *np.linspace(0, len(names), NUMBERS).round().astype(int).tolist()}
    for number in sorted(numbers):
        for rng in choices("dropped", number, only=number in (0, len(names))):
            dropped = rng.choice(len(names), number, replace=False)
            found.append(Cut("dropped", number, tuple(names[i] for i in sorted(dropped))))
    for number in {0: (), 1: SWAPS[:2]}.get(len(pairs), SWAPS):
        for rng in choices("swaps", number, only=number == 0 or len(pairs) == 1):
            found.append(Cut("swaps", number, exchanged=_random_exchanges(rng, pairs, number)))
    return found


def _random_exchanges(rng: np.random.Generator, pairs: list, number: int) -> tuple:
    """`number` pairs of blocks, none of them twice in a row."""
    chosen = []
    while len(chosen) < number:
        pair = pairs[rng.integers(len(pairs))]
        if chosen[-1:] != [pair]:
            chosen.append(pair)
    return tuple(chosen)


def errors(run: TrainedRun, chosen: Sequence[Cut], images: int = 0) -> Iterator[float]:
    """Top-1 error in percent of each net, on the test split; one compiled program for all.

    Args:
      run: the net they are made of.
      chosen: what is dropped or exchanged.
      images: the first ones of the split; 0 for all.
    """
    names = list(itertools.chain(*surgery.droppable(run.config.model)))
    apply = surgery.apply_kept(run.model(), names)
    evaluation = Evaluation(run, run.dataset.test, apply, images)
    for cut in chosen:
        variables = run.variables
        for pair in cut.exchanged:
            variables = surgery.exchange(variables, *pair)
        keep = np.array([name not in cut.dropped for name in names])
        yield evaluation(variables, keep)["error"]


def summarize(chosen: Sequence[Cut], errors: Sequence[float]) -> list[dict[str, object]]:
    """A row for each kind and number: number of trials, mean and standard deviation of the error.

    Args:
      chosen: what was dropped or exchanged.
      errors: in percent, one for each.
    """
    trials: dict[tuple[str, int], list[float]] = {}
    for cut, error in zip(chosen, errors, strict=True):
        trials.setdefault((cut.kind, cut.number), []).append(error)
    return [
        {
            "kind": kind,
            "number": number,
            "trials": len(own),
            "error": float(np.mean(own)),
            # That of equal numbers is not quite 0.
            "error_std": round(float(np.std(own, ddof=1)), 9) if len(own) > 1 else 0.0,
        }
        for (kind, number), own in trials.items()
    ]


def measure(
    run: TrainedRun, options: Options, done: Callable[[str, float], None] = lambda what, cost: None
) -> list[dict[str, object]]:
    """Rows of one run: see `summarize`.

    Args:
      run: the trained net.
      options: how much is measured.
      done: told of each evaluation: the run's name, and its cost in layers.
    """
    chosen = cuts(run.config.model, options)
    found = []
    for error in errors(run, chosen, options.images):
        found.append(error)
        done(run.name, run.config.model.depth)
    names = {"run": run.name, "net": run.net, "step": run.step}
    return [names | row for row in summarize(chosen, found)]


def analyze(directories: Sequence[Path], output: Path) -> list[Path]:
    """Measures and draws the runs as the flags say; returns the files.

    Raises:
      UserError: a net without blocks that could be dropped, or no checkpoint yet.
    """
    values = flags.FLAGS
    return study(directories, output, Options(values.trials, values.seed, values.images))


def study(directories: Sequence[Path], output: Path, options: Options) -> list[Path]:
    """Measures the runs; writes blocks.csv, .png and .svg, and returns these.

    Args:
      directories: of runs.
      output: where the files go.
      options: how much is measured.

    Raises:
      UserError: a net without blocks that could be dropped, or no checkpoint yet.
    """
    rows, runs = measure_all(
        directories,
        lambda config: config.model.depth * len(cuts(config.model, options)),
        lambda run, done: measure(run, options, done),
    )
    return [write_rows(rows, output / "blocks.csv"), *draw(rows, runs, options, output / "blocks")]


def draw(
    rows: Sequence[dict[str, object]], runs: Sequence[TrainedRun], options: Options, path: Path
) -> list[Path]:
    """Draws the three measurements, plain nets above and residual nets below; returns the files.

    Several seeds of a net make one curve: their mean, and in the band also their spread.

    Args:
      rows: of `measure`, of all runs.
      runs: those measured.
      options: how much was measured.
      path: of the files, without extension.
    """
    nets = {run.net: "plain" if run.config.model.name == "plain" else "residual" for run in runs}
    groups = [group for group in ("plain", "residual") if group in nets.values()]
    figure, panels = plot_style.grid(3 * len(groups), columns=3, sharex="col", sharey=True)
    chance = 100 * (1 - 1 / runs[0].dataset.num_classes)
    for i, group in enumerate(groups):
        line = panels[3 * i : 3 * i + 3]
        for number, net in enumerate(net for net in nets if nets[net] == group):
            own = [row for row in rows if row["net"] == net]
            for axes, kind in zip(line, KINDS, strict=True):
                _curve(axes, [row for row in own if row["kind"] == kind], net, number)
        for axes, (kind, label) in zip(line, KINDS.items(), strict=True):
            axes.axhline(chance, color=plot_style.GRAY, linestyle=":", linewidth=1.0, zorder=0)
            bottom = group == groups[-1]
            plot_style.label_axes(
                axes, label if bottom else "", "error (%)" if axes is line[0] else ""
            )
            if kind == "swaps":
                axes.set_xscale("symlog", base=2, linthresh=1)
                axes.set_xticks(SWAPS, map(str, SWAPS))
        line[0].set_title(f"{group} nets", loc="left")
        line[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    panels[0].set_ylim(0, 100)
    images = runs[0].dataset.test.images
    shown = min(options.images or len(images), len(images))
    what = (
        f"error on {shown:,} test images without some blocks, or with blocks of a stage exchanged, "
        f"mean and standard deviation of {options.trials} random choices; gaps: blocks that change "
        "the shape; dotted: chance"
    )
    return plot_style.save(figure, path, note(runs, what))


def _curve(axes: Axes, rows: Sequence[dict[str, object]], net: str, look: int) -> None:
    """One net in one panel; a gap where a block cannot be dropped."""
    by_number: dict[int, list[dict[str, object]]] = {}
    for row in rows:
        by_number.setdefault(row["number"], []).append(row)
    numbers = sorted(by_number)
    if numbers and rows[0]["kind"] == "position":
        numbers = range(1, numbers[-1] + 1)
    mean, std = [], []
    for number in numbers:
        own = by_number.get(number, [])
        means = [row["error"] for row in own]
        within = [row["error_std"] ** 2 for row in own]
        mean.append(np.mean(means) if own else np.nan)
        std.append(np.sqrt(np.mean(within) + np.var(means)) if own else np.nan)
    mean, std = np.array(mean), np.array(std)
    drawn = plot_style.curve_style(
        look
    )  # marked everywhere, as a point between two gaps has no line
    axes.plot(numbers, mean, label=net, **drawn)
    if np.nansum(std) > 0:
        color = drawn["color"]
        low, high = np.clip([mean - std, mean + std], 0, 100)
        axes.fill_between(numbers, low, high, color=color, alpha=0.15, linewidth=0)
