"""Measurement of loss and training error along lines and planes in weight space."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from flaxres.errors import ConfigError
from flaxres.experiments.analyses.base import Evaluation, TrainedRun, Variables
from flaxres.experiments.analyses.directions import interpolate, move, random_direction
from flaxres.experiments.analyses.progress import Advance, no_progress
from flaxres.experiments.results.tables import Row
from flaxres.field_checks import FieldChecker
from flaxres.inference.population_statistics import (
    BATCH_STATS,
    MomentAccumulator,
    epoch_batches,
    make_batch_statistics,
)

# Kind of landscape -> default number of points on each axis.
DEFAULT_POINTS = {"line": 41, "plane": 21, "between": 21}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the analysis.

    Attributes:
      kind: 'line', 'plane' or 'between'.
      points: number of points on each axis; 0 for the default of the kind.
      reach: an axis of a line or plane extends from -reach to reach, in filter norms.
      images: number of training images, from the start of the split; 0 for all.
      seed: seed of the random directions.
      between: names of the two runs for kind 'between'.
      statistics: statistics of batch norm, 'running' or 'population'.
    """

    kind: str = "line"
    points: int = 0
    reach: float = 1.0
    images: int = 1_500
    seed: int = 0
    between: tuple[str, ...] = ()
    statistics: str = "running"

    def __post_init__(self) -> None:
        check = FieldChecker(dataclasses.asdict(self))
        check.require_one_of("kind", DEFAULT_POINTS)
        check.require_one_of("statistics", BATCH_STATS)
        check.require(self.points >= 0, "points", "at least 0")
        check.require(self.reach >= 1e-6, "reach", "at least 1e-6")
        check.require(self.images >= 0, "images", "at least 0")
        check.require(self.seed >= 0, "seed", "at least 0")

    def axis(self) -> Float[np.ndarray, " points"]:
        """Returns the distances along an axis, float64, in rising order.

        Raises:
          ConfigError: the points do not include the trained models themselves.
        """
        points = self.points or DEFAULT_POINTS[self.kind]
        if self.kind == "between":
            if points < 2:
                raise ConfigError(f"--points must be at least 2 between two runs, got {points}")
            return np.linspace(0, 1, points)
        if points < 3 or points % 2 == 0:
            raise ConfigError(
                "--points must be odd and at least 3, so that the trained model is in the middle, "
                f"got {points}"
            )
        half = np.linspace(0, self.reach, points // 2 + 1)
        return np.concatenate([-half[:0:-1], half])  # bitwise symmetric


class Surface:
    """Loss and training error as a function of a model's variables.

    `surface(variables) -> {'loss': nats, 'error': percent}` is compiled once. The values may be
    infinite or NaN.
    """

    def __init__(self, run: TrainedRun, options: Options):
        """Prepares the training images of a run.

        Raises:
          ConfigError: population statistics of a model whose norm has no statistics.
        """
        train = run.dataset.train
        self._evaluation = Evaluation(run, train, max_images=options.images)
        self._batch_statistics = None
        if options.statistics == "population":
            self._batch_statistics = make_batch_statistics(run.config, run.dataset)
            size = min(options.images or len(train), len(train))
            self._batches = epoch_batches(size, run.config.batch_size, run.config.seed)

    def __call__(self, variables: Variables) -> dict[str, float]:
        """Returns the loss in nats and the error in percent."""
        if self._batch_statistics is not None:
            accumulator = MomentAccumulator()
            with np.errstate(all="ignore"):  # models far away overflow
                for number, rows in enumerate(self._batches):
                    accumulator.add(self._batch_statistics(variables, rows, number), len(rows))
            variables = {**variables, "batch_stats": accumulator.statistics()}
        return self._evaluation(variables)


def measure(run: TrainedRun, options: Options, advance: Advance = no_progress) -> list[Row]:
    """Returns one row for each point of a line or plane.

    The line is the x axis of the plane.

    Args:
      run: the run in the middle.
      options: options of the analysis.
      advance: called after each point with the run's name and the number of layers.

    Returns:
      Rows with x, y (for a plane), loss in nats and error in percent.
    """
    axis = options.axis()
    num_dimensions = 2 if options.kind == "plane" else 1
    params = run.variables["params"]
    directions = [random_direction(params, options.seed, i) for i in range(num_dimensions)]
    surface = Surface(run, options)
    rows = []
    for y in axis if num_dimensions == 2 else (0.0,):
        for x in axis:
            point = {"x": float(x), "y": float(y)} if num_dimensions == 2 else {"x": float(x)}
            metrics = surface(move(run.variables, directions, list(point.values())))
            rows.append(run.columns | {"seed": options.seed} | point | metrics)
            advance(run.name, run.config.model.depth)
    return rows


def measure_between(
    first: TrainedRun, second: TrainedRun, options: Options, advance: Advance = no_progress
) -> list[Row]:
    """Returns one row for each point on the line from the first run (x = 0) to the second (x = 1).

    Args:
      first: a run.
      second: another run of the same model.
      options: options of the analysis.
      advance: called after each point with the runs' names and the number of layers.

    Returns:
      Rows with x, loss in nats and error in percent.

    Raises:
      ConfigError: the weights of the runs differ in shape.
    """
    surface = Surface(first, options)
    columns: Row = {"run": first.name, "other": second.name, "statistics": options.statistics}
    rows = []
    for x in options.axis():
        metrics = surface(interpolate(first.variables, second.variables, x))
        rows.append(columns | {"x": float(x)} | metrics)
        advance(f"{first.name} to {second.name}", first.config.model.depth)
    return rows
