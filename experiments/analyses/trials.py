"""Mean and standard deviation over random trials of a run and over seeds of a variant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from flaxres.experiments.results.tables import Row


def sample_std(values: Sequence[float]) -> float:
    """Returns the standard deviation of a sample (n - 1), or 0 for a single value."""
    std = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return round(float(std), 9)  # rounding errors of equal values are removed


def mean_over_seeds(
    rows: Sequence[Row], x: str, metric: str
) -> tuple[list[int], Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Returns a curve of `metric` against `x`, averaged over the seeds of a variant.

    Args:
      rows: rows of one variant, one for each seed and value of `x`, with the columns `metric` and
        `metric`_std (standard deviation over trials).
      x: column of the x axis.
      metric: column of the y axis.

    Returns:
      The sorted values of `x`, the means, and the standard deviations. Their variance is the mean
      variance over trials plus the variance of the means over seeds.
    """
    rows_at: dict[int, list[Row]] = {}
    for row in rows:
        rows_at.setdefault(row[x], []).append(row)
    positions = sorted(rows_at)
    mean, std = [], []
    for position in positions:
        means = [row[metric] for row in rows_at[position]]
        variances = [row[f"{metric}_std"] ** 2 for row in rows_at[position]]
        mean.append(np.mean(means))
        std.append(np.sqrt(np.mean(variances) + np.var(means)))
    return positions, np.array(mean), np.array(std)
