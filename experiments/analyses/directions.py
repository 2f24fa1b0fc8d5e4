"""Directions in the space of a net's weights, and nets that lie along them.

Li et al. 2018 (arXiv 1712.09913), section 4: a net with ReLU and batch norm is the same when the
scale of its filters changes, so how far a step takes it depends on that scale. Each filter of a
random direction therefore gets the norm of that filter of the net. Biases and the parameters of
norms have no filters: they stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from flaxres.errors import ConfigError

KERNEL = "kernel"  # the name of what has filters: convolutions (h, w, in, out), dense (in, out)


def random_direction(params: Mapping, seed: int, number: int) -> dict:
    """A direction of Gaussian numbers, with the norms of the filters of `params`.

    Args:
      params: the collection of a net; a filter is what makes one output, so a slice of the last
        axis of a kernel.
      seed: of the random numbers, which are a function of it, `number` and the kernels' shapes.
      number: of the direction.

    Returns:
      Float32 arrays of NumPy in the form of `params`: zeros but for the kernels.
    """
    rng = np.random.default_rng((seed, number))

    def one(path: tuple, leaf: np.ndarray) -> np.ndarray:
        leaf = np.asarray(leaf)
        if path[-1].key != KERNEL:
            return np.zeros(leaf.shape, np.float32)
        direction = rng.standard_normal(leaf.shape, np.float32)
        return direction * (filter_norms(leaf) / filter_norms(direction))

    return jax.tree_util.tree_map_with_path(one, dict(params))


def filter_norms(kernel: np.ndarray) -> np.ndarray:
    """Euclidean norm of each filter of a kernel (..., out): float32 (out,)."""
    return np.sqrt(np.sum(np.square(kernel), axis=tuple(range(kernel.ndim - 1))))


def move(variables: Mapping, directions: Sequence[Mapping], distances: Sequence[float]) -> dict:
    """The net that lies so far along each direction; its running statistics stay.

    Args:
      variables: 'params' and what else the net has.
      directions: in the form of its params.
      distances: one for each.
    """
    params = variables["params"]
    for direction, distance in zip(directions, np.float32(distances), strict=True):
        params = jax.tree.map(lambda w, d, a=distance: w + a * d, params, direction)
    return {**variables, "params": params}


def between(one: Mapping, other: Mapping, share: float) -> dict:
    """The net at `share` of the way from one to the other: params and statistics alike.

    Args:
      one: variables of a net.
      other: those of another, of the same form.
      share: 0 for the first net, 1 for the second.

    Raises:
      ConfigError: the nets are not of one form.
    """
    if jax.tree.map(np.shape, one) != jax.tree.map(np.shape, other):
        raise ConfigError("there is no line between nets whose weights differ in shape")
    b = np.float32(share)
    return jax.tree.map(lambda w, v: (1 - b) * w + b * v, dict(one), dict(other))
