"""Curves of a report: metrics of a run, down-sampled to what a screen can show.

A curve with more points than that is cut into buckets of equally many records. Each bucket keeps
its smallest and its largest value, at the steps where they were recorded, so that no peak is lost.
The mean of each bucket is kept too, from which the page computes smoothed curves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from flaxres.run.records import MetricColumns

MAX_POINTS = 2_000  # of a curve: two for each pixel column of a wide chart
MIN_POINTS = 60
MAX_POINTS_OF_PAGE = 150_000  # of all curves together; each takes some 13 bytes of the page
SIGNIFICANT_DIGITS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Points of a metric, and means over buckets if points were left out.

    Attributes:
      steps: steps of the points, increasing.
      values: values of the points.
      mean_steps: mean step of each bucket; the same as `steps` if no point was left out.
      mean_values: mean value of each bucket; the same as `values` if no point was left out.
    """

    steps: Int64[np.ndarray, " points"]
    values: Float64[np.ndarray, " points"]
    mean_steps: Int64[np.ndarray, " buckets"]
    mean_values: Float64[np.ndarray, " buckets"]

    @property
    def is_complete(self) -> bool:
        """True if no point was left out."""
        return self.mean_values is self.values


def reduce_curve(
    steps: Int64[np.ndarray, " points"], values: Float64[np.ndarray, " points"], max_points: int
) -> Curve:
    """Reduces a curve to `max_points`; keeps the first, the last, and all extreme points.

    Args:
      steps: steps of the points, increasing.
      values: values of the points.
      max_points: largest number of points, at least 4. A shorter curve stays as it is.
    """
    if len(steps) <= max_points:
        return Curve(steps, values, steps, values)
    size = -(-len(steps) // (max_points // 2 - 1))  # records of a bucket; the last may have fewer
    starts = np.arange(0, len(steps), size)
    counts = np.diff(starts, append=len(steps))
    # An equal value before the padding comes first, so the padding is never an extreme.
    padding = np.full(len(starts) * size - len(steps), values[-1])
    buckets = np.concatenate([values, padding]).reshape(-1, size)
    extremes = [starts + buckets.argmin(axis=1), starts + buckets.argmax(axis=1)]
    kept = np.unique(np.concatenate([[0], *extremes, [len(steps) - 1]]))
    mean_steps = np.add.reduceat(steps, starts) // counts
    return Curve(steps[kept], values[kept], mean_steps, np.add.reduceat(values, starts) / counts)


def points_per_curve(num_curves: int) -> int:
    """Returns the largest number of points of a curve on a page with `num_curves` curves."""
    return int(np.clip(MAX_POINTS_OF_PAGE // max(1, num_curves), MIN_POINTS, MAX_POINTS))


def round_digits(values: Float64[np.ndarray, " points"]) -> list[float]:
    """Rounds values to SIGNIFICANT_DIGITS, so that they are short as text."""
    with np.errstate(divide="ignore"):
        magnitude = np.floor(np.log10(np.abs(values)))
    digits = np.where(np.isfinite(magnitude), SIGNIFICANT_DIGITS - 1 - magnitude, 0)
    # Powers of ten are exact up to 1e22; smaller values do not occur in metrics.
    scale = 10.0 ** np.clip(digits, 0, 22)
    rounded: list[float] = (np.round(values * scale) / scale).tolist()
    return rounded


class CurveTable:
    """Curves as JSON: lists of steps are stored once, as differences.

    Attributes:
      steps: lists of steps; each is its first step, then the differences to the step before.
    """

    def __init__(self, max_points: int):
        self.steps: list[list[int]] = []
        self._max_points = max_points
        self._indices: dict[bytes, int] = {}

    def add(self, metrics: MetricColumns) -> dict[str, list[Any]]:
        """Returns the curves of a run by metric.

        Each curve is [index in `steps`, values], followed by the same for its means if points were
        left out.
        """
        curves = {}
        for name in metrics.values:
            steps, values = metrics.curve(name)
            if not len(steps):
                continue
            curve = reduce_curve(steps, values, self._max_points)
            curves[name] = [self._index(curve.steps), round_digits(curve.values)]
            if not curve.is_complete:
                curves[name] += [self._index(curve.mean_steps), round_digits(curve.mean_values)]
        return curves

    def _index(self, steps: Int64[np.ndarray, " points"]) -> int:
        key = steps.tobytes()
        if key not in self._indices:
            self._indices[key] = len(self.steps)
            self.steps.append(np.diff(steps, prepend=0).tolist())
        return self._indices[key]


def count_curves(runs: Iterable[MetricColumns]) -> int:
    """Returns the number of metrics of all runs that have enough records to be down-sampled."""
    return sum(len(run) > MIN_POINTS for run in runs for _ in run.values)
