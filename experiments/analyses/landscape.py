"""Loss and training error along lines and planes through trained nets.

python -m experiments.analyze landscape --workdir=runs/degradation --only='*-56'
python -m experiments.analyze landscape --workdir=runs/degradation --kind=plane
python -m experiments.analyze landscape --workdir=... --kind=between \
    --between=resnet-56/seed-0,resnet-56/seed-1

Li et al. 2018 (arXiv 1712.09913), section 4: 'line' and 'plane' are those of one and of two random
directions with the filters' norms (`experiments.analyses.directions`), through each run. 'between'
is the straight line from one run to another of the same net (Goodfellow, Vinyals and Saxe 2015,
arXiv 1412.6544, section 3). Batch norm normalises by running statistics: those of the net in the
middle of a line or plane; between two nets those between theirs, which are not the statistics of
the nets that lie there. With --statistics=population they are computed anew for every net.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.analyses import landscape_figures
from experiments.analyses.base import (
    Evaluation,
    TrainedRun,
    load,
    measure_all,
    note,
    write_rows,
)
from experiments.analyses.directions import between, move, random_direction
from experiments.analyses.progress import progress
from experiments.results.run_names import run_name
from flaxres.config import flatten
from flaxres.errors import ConfigError
from flaxres.inference.population_statistics import (
    BATCH_STATS,
    MomentAccumulator,
    check_has_statistics,
    epoch_batches,
    make_batch_statistics,
)
from flaxres.run.workdir import read_run_config

POINTS = {"line": 41, "plane": 21, "between": 21}  # by kind, on each axis
# Fields that two runs of one net may differ in: they change how it is trained, not what it is.
OF_TRAINING = ("remat", "scan", "zero_init", "dropout_rate", "gate_bias", "norm_momentum")

Done = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
      kind: of `POINTS`.
      points: on each axis; 0 for that of `POINTS`.
      reach: a line goes from -reach to reach, in norms of the filters.
      images: of the training split, the first ones; 0 for all.
      seed: of the directions.
      runs: with kind 'between', the names of the two.
      statistics: of batch norm, one of `flaxres.inference.population_statistics.BATCH_STATS`.
    """

    kind: str = "line"
    points: int = 0
    reach: float = 1.0
    images: int = 1_500
    seed: int = 0
    runs: tuple[str, ...] = ()
    statistics: str = "running"

    def axis(self) -> np.ndarray:
        """The distances along an axis, float64 (points,), rising.

        Raises:
          ConfigError: the points do not include the nets themselves.
        """
        points = self.points or POINTS[self.kind]
        if self.kind == "between":
            if points < 2:
                raise ConfigError(f"--points must be at least 2 between two nets, got {points}")
            return np.linspace(0, 1, points)
        if points < 3 or points % 2 == 0:
            raise ConfigError(
                f"--points must be odd and at least 3, so that the net is in the middle, got "
                f"{points}"
            )
        half = np.linspace(0, self.reach, points // 2 + 1)
        return np.concatenate([-half[:0:-1], half])  # equal to the last bit on both sides


def define_flags() -> None:
    """A flag for each of the options."""
    own = Options()
    flags.DEFINE_enum("kind", own.kind, list(POINTS), "What the nets lie on.")
    counts = ", ".join(f"{count} for {kind}" for kind, count in POINTS.items())
    flags.DEFINE_integer("points", 0, f"On each axis; 0: {counts}.", lower_bound=0)
    flags.DEFINE_float("reach", own.reach, "Axes are from -reach to reach.", lower_bound=1e-6)
    flags.DEFINE_integer(
        "images", own.images, "Training images, the first ones; 0 for all.", lower_bound=0
    )
    flags.DEFINE_integer("seed", own.seed, "Of the random directions.", lower_bound=0)
    flags.DEFINE_list("between", [], "Two runs of one net, as NET/seed-0,NET/seed-1.")
    flags.DEFINE_enum(
        "statistics", own.statistics, list(BATCH_STATS), "What batch norm normalises by."
    )


class Surface:
    """Loss and training error of nets that differ from a run's in their variables alone.

    Compiled once: `surface(variables) -> {'loss': nats, 'error': percent}`, neither of which need
    be finite.
    """

    def __init__(self, run: TrainedRun, options: Options):
        """Takes the images of a run's training split.

        Raises:
          ConfigError: population statistics of a net that has none.
        """
        train = run.dataset.train
        self._evaluation = Evaluation(run, train, most=options.images)
        self._statistics = None
        if options.statistics == "population":
            self._statistics = make_batch_statistics(run.config, run.dataset)
            size = min(options.images or len(train), len(train))
            self._batches = epoch_batches(size, run.config.batch_size, run.config.seed)

    def __call__(self, variables: Mapping) -> dict[str, float]:
        """See the class."""
        if self._statistics is not None:
            pool = MomentAccumulator()
            with np.errstate(all="ignore"):  # of a net far out
                for number, rows in enumerate(self._batches):
                    pool.add(self._statistics(variables, rows, number), len(rows))
            variables = {**variables, "batch_stats": pool.statistics()}
        return self._evaluation(variables)


def measure(run: TrainedRun, options: Options, done: Done = lambda what, cost: None) -> list[dict]:
    """A row for each point of a line or plane: x, y on a plane, loss in nats, error in percent.

    The line is the plane's x axis.

    Args:
      run: the net in the middle.
      options: what is measured.
      done: told of each point: the run's name, and its cost in layers.
    """
    axis = options.axis()
    dimensions = 2 if options.kind == "plane" else 1
    params = run.variables["params"]
    directions = [random_direction(params, options.seed, i) for i in range(dimensions)]
    surface = Surface(run, options)
    rows = []
    for y in axis if dimensions == 2 else (0.0,):
        for x in axis:
            at = {"x": float(x), "y": float(y)} if dimensions == 2 else {"x": float(x)}
            values = surface(move(run.variables, directions, list(at.values())))
            names = {"run": run.name, "net": run.net, "step": run.step, "seed": options.seed}
            rows.append(names | at | values)
            done(run.name, run.config.model.depth)
    return rows


def measure_between(
    one: TrainedRun, other: TrainedRun, options: Options, done: Done = lambda what, cost: None
) -> list[dict]:
    """A row for each point of the line from one run (x = 0) to another (x = 1); see `measure`.

    Raises:
      ConfigError: their weights differ in shape.
    """
    surface = Surface(one, options)
    names = {"run": one.name, "other": other.name, "statistics": options.statistics}
    rows = []
    for x in options.axis():
        values = surface(between(one.variables, other.variables, x))
        rows.append(names | {"x": float(x)} | values)
        done(f"{one.name} to {other.name}", one.config.model.depth)
    return rows


def check_same_net(one: ConfigDict, other: ConfigDict, names: Sequence[str]) -> None:
    """Checks that two configs are of one net on one data set.

    Raises:
      ConfigError: with the first field that differs.
    """
    fields = [flatten(config) for config in (one, other)]
    for field in fields[0]:
        group, _, name = field.rpartition(".")
        if (group != "model" or name in OF_TRAINING) and group != "dataset" and field != "dtype":
            continue
        values = [flat[field] for flat in fields]
        if values[0] != values[1]:
            raise ConfigError(
                f"--between must name two runs of one net, got {' and '.join(names)}: {field} is "
                f"{values[0]!r} and {values[1]!r}"
            )


def _ends(directories: Sequence[Path], options: Options) -> list[Path]:
    """The directories of the two runs that `options.runs` names, checked."""
    if len(options.runs) != 2:
        raise ConfigError(
            "--kind=between needs two runs of one net, --between=NET/seed-0,NET/seed-1; got "
            f"{','.join(options.runs) or 'none'}"
        )
    known = {run_name(directory): directory for directory in directories}
    for name in options.runs:
        if name not in known:
            raise ConfigError(f"--between names {name!r}, which is none of {', '.join(known)}")
    chosen = [known[name] for name in options.runs]
    check_same_net(*(read_run_config(directory) for directory in chosen), options.runs)
    return chosen


def analyze(directories: Sequence[Path], output: Path) -> list[Path]:
    """Measures and draws the runs as the flags say; returns the files.

    Raises:
      UserError: options that do not go together, or a run without checkpoint.
    """
    names = ("kind", "points", "reach", "images", "seed", "between", "statistics")
    *values, runs, statistics = (flags.FLAGS[name].value for name in names)
    return study(directories, output, Options(*values, tuple(runs), statistics))


def study(directories: Sequence[Path], output: Path, options: Options) -> list[Path]:
    """Measures the runs; writes landscape_KIND.csv, .png and .svg, and returns these.

    Args:
      directories: of runs.
      output: where the files go.
      options: what is measured.

    Raises:
      UserError: options that do not go together, or a run without checkpoint.
    """
    if options.runs and options.kind != "between":
        raise ConfigError(f"--between is for --kind=between, got --kind={options.kind}")
    axis = options.axis()

    def cost(config: ConfigDict) -> int:
        if options.statistics == "population":
            check_has_statistics(config)
        return config.model.depth * len(axis) ** (2 if options.kind == "plane" else 1)

    if options.kind == "between":
        ends = _ends(directories, options)
        costs = [cost(read_run_config(directory)) for directory in ends]
        with progress(costs[0]) as done:
            runs = [load(directory) for directory in ends]
            rows = measure_between(*runs, options, done)
    else:
        rows, runs = measure_all(directories, cost, lambda run, done: measure(run, options, done))
    path = output / f"landscape_{options.kind}"
    files = [write_rows(rows, path.with_suffix(".csv"))]
    said = note(runs, _what(runs[0], options))
    if options.kind == "between":
        return files + landscape_figures.draw_between(rows, path, said)
    if options.kind == "plane":
        return files + landscape_figures.draw_plane(rows, path, said)
    groups = {run.net: _group(run.config.model) for run in runs}
    return files + landscape_figures.draw_lines(rows, groups, path, said)


def _group(model: ConfigDict) -> str:
    """Which nets it is drawn with."""
    plain = model.name in ("plain", "lenet") or (model.name == "vgg" and not model.skip)
    return f"nets {'without' if plain else 'with'} shortcuts"


def _what(run: TrainedRun, options: Options) -> str:
    """What the figure shows."""
    size = len(run.dataset.train)
    images = f"{min(options.images or size, size):,} training images"
    text = {
        "line": f"{images}, along a filter-normalised random direction",
        "plane": f"loss on {images}, along two filter-normalised random directions",
        "between": f"{images}, between {' and '.join(options.runs)}",
    }[options.kind]
    if run.config.model.norm == "batch":
        text += f", {options.statistics} statistics"
        if (options.kind, options.statistics) == ("between", "running"):
            text += " interpolated, which are not those of the nets there"
    return text
