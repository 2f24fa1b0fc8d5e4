"""Normalisation layers, chosen by name: one field, `norm`, for every net."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
from jax.typing import DTypeLike

NORMS = ("batch", "layer", "group", "instance", "none")


class NoNorm(nn.Module):
    """Stands where a norm would: returns its input, has no parameters."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x`."""
        return x


def make_norm(
    name: str,
    *,
    train: bool,
    dtype: DTypeLike,
    momentum: float,
    epsilon: float,
) -> Callable[..., nn.Module]:
    """Returns a constructor of norm modules; call it with `name=` inside a block.

    Statistics and parameters are float32 whatever the compute `dtype` is.

    Args:
      name: one of `NORMS`. Only 'batch' keeps running statistics, in the collection `batch_stats`.
      train: normalise by the batch's own statistics (True) or by the running ones (False).
      dtype: type of the output.
      momentum: weight of the old running statistics, so 0.9 here is PyTorch's 0.1.
      epsilon: added to the variance.

    Raises:
      ValueError: `name` is not one of `NORMS`.
    """
    if name == "batch":
        return functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=momentum,
            epsilon=epsilon,
            dtype=dtype,
        )
    if name == "layer":  # over height, width and channels of each image
        return functools.partial(
            nn.LayerNorm, epsilon=epsilon, dtype=dtype, reduction_axes=(-3, -2, -1)
        )
    if name == "group":  # groups of 8 channels: every width of the CIFAR nets divides by it
        return functools.partial(
            nn.GroupNorm, num_groups=None, group_size=8, epsilon=epsilon, dtype=dtype
        )
    if name == "instance":
        return functools.partial(nn.InstanceNorm, epsilon=epsilon, dtype=dtype)
    if name == "none":
        return NoNorm
    raise ValueError(f"model.norm must be one of {', '.join(NORMS)}, got {name!r}")
