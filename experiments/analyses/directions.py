"""Directions in the weight space of a model, and models along them.

Li et al. 2018 (arXiv 1712.09913), section 4: a network with ReLU and batch norm does not change
when its filters are rescaled, so the effect of a step in weight space depends on their scale. Each
filter of a random direction is therefore scaled to the norm of the corresponding filter of the
model. Biases and norm parameters have no filters, so they do not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32

from flaxres.errors import ConfigError
from flaxres.experiments.analyses.base import Variables

# Parameters with filters: convolutions (h, w, in, out) and dense layers (in, out).
KERNEL = "kernel"


def random_direction(params: dict[str, Any], seed: int, number: int) -> dict[str, Any]:
    """Returns a Gaussian random direction with the filter norms of `params`.

    Args:
      params: parameters of a model. A filter is a slice along the last axis of a kernel, which
        computes one output.
      seed: random seed. The direction is a function of `seed`, `number` and the kernels' shapes.
      number: index of the direction.

    Returns:
      Float32 NumPy arrays with the structure of `params`; all except kernels are zero.
    """
    rng = np.random.default_rng((seed, number))

    def direction_of(path: tuple[Any, ...], leaf: np.ndarray) -> np.ndarray:
        leaf = np.asarray(leaf)
        if path[-1].key != KERNEL:
            return np.zeros(leaf.shape, np.float32)
        direction = rng.standard_normal(leaf.shape, np.float32)
        return direction * (filter_norms(leaf) / filter_norms(direction))

    return jax.tree_util.tree_map_with_path(direction_of, dict(params))


def filter_norms(kernel: Float[np.ndarray, "... out"]) -> Float32[np.ndarray, " out"]:
    """Returns the Euclidean norm of each filter of a kernel."""
    return np.sqrt(np.sum(np.square(kernel), axis=tuple(range(kernel.ndim - 1))))


def move(
    variables: Variables, directions: Sequence[dict[str, Any]], distances: Sequence[float]
) -> Variables:
    """Returns the variables moved along directions, with the same running statistics.

    Args:
      variables: 'params' and 'batch_stats' of a model.
      directions: directions with the structure of the parameters.
      distances: distance along each direction.
    """
    params = variables["params"]
    for direction, distance in zip(directions, np.asarray(distances, np.float32), strict=True):
        params = jax.tree.map(lambda w, d, a=distance: w + a * d, params, direction)
    return {**variables, "params": params}


def interpolate(first: Variables, second: Variables, fraction: float) -> Variables:
    """Returns the variables at a fraction of the way from one model to another.

    Parameters and running statistics are both interpolated.

    Args:
      first: variables of a model.
      second: variables of another model with the same shapes.
      fraction: 0 for the first model, 1 for the second.

    Raises:
      ConfigError: the models' weights differ in shape.
    """
    if jax.tree.map(np.shape, first) != jax.tree.map(np.shape, second):
        raise ConfigError("cannot interpolate between models whose weights differ in shape")
    b = np.float32(fraction)
    return jax.tree.map(lambda w, v: (1 - b) * w + b * v, dict(first), dict(second))
