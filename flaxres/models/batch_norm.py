"""Batch norm with the kernels for CPUs, and its running statistics over several devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from flaxres.cpu import kernels
from flaxres.cpu.running_norm import norm_relu_conv_general_dilated


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm, which can also apply the addition and the ReLU that follow it.

    On a CPU this saves several passes over memory (`flaxres.cpu.kernels`). On other devices XLA
    fuses a norm with the operations after it.
    """

    def uses_kernels(self, x: Float[Array | np.ndarray, "batch height width channels"]) -> bool:
        """Returns True if `flaxres.cpu.kernels` can apply the norm to `x`."""
        return kernels.supports_norm(x) and x.dtype == (self.dtype or jnp.float32)

    @nn.compact
    def __call__(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        use_running_average: bool | None = None,
        *,
        mask: Bool[Array, ...] | None = None,
        add: Float[Array | np.ndarray, "batch height width channels"] | None = None,
        relu: bool = False,
        factor: Float[Array | np.ndarray, "*channels"] | None = None,
        for_convolution: bool = False,
    ) -> Float[Array, "batch height width channels"] | Callable[..., Array]:
        """Applies batch norm and the operations that follow it.

        Args:
          x: feature maps.
          use_running_average: overrides the attribute of this name if that is None.
          mask: positions that the statistics include, or None for all, as in `nn.BatchNorm`.
          add: added to the normalized `x`, unless None.
          relu: if True, ReLU is applied last.
          factor: factor of the normalized `x` before the addition, () or (channels,); None for 1.
          for_convolution: if True, nothing is computed yet. The result is a function to use instead
            of `lax.conv_general_dilated`: it takes `x` and convolves the ReLU of its norm. Allowed
            only if `uses_kernels(x)`.
        """
        if not self.uses_kernels(x) or (add is not None and not relu) or mask is not None:
            y = super().__call__(x, use_running_average, mask=mask)
            y = y if factor is None else jnp.asarray(y * factor, y.dtype)
            y = y if add is None else y + add
            return nn.relu(y) if relu else y
        evaluates = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        channels = x.shape[-1:]
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", self.bias_init, channels)
        if factor is not None:
            scale, bias = factor * scale, factor * bias
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if evaluates:
            arrays = (scale, bias, mean.value, var.value)
            if for_convolution:
                return functools.partial(norm_relu_conv_general_dilated, arrays, self.epsilon)
            return kernels.normalize(x, *arrays, add, self.epsilon, relu)
        axis = None if self.is_initializing() else self.axis_name

        def update(*batch_statistics: Float[Array | np.ndarray, " channels"]) -> None:
            if not self.is_initializing():
                for running, statistic in zip((mean, var), batch_statistics, strict=True):
                    running.value = self.momentum * running.value + (1 - self.momentum) * statistic

        if for_convolution:

            def convolve(
                x: Float[Array | np.ndarray, "batch height width channels"],
                kernel: Float[Array | np.ndarray, "size size group_channels filters"],
                strides: Sequence[int],
                padding: Sequence[tuple[int, int]] | str,
                **options: Any,
            ) -> Float[Array, "batch out_height out_width filters"]:
                if kernels.supports_convolution(x, kernel, strides, padding, options):
                    window = (strides[0], int(padding[0][0]))
                    y, *statistics = kernels.norm_relu_convolve(
                        x, scale, bias, kernel.astype(jnp.float32), self.epsilon, axis, *window
                    )
                    update(*statistics)
                    return y
                y, *statistics = kernels.batch_norm(x, scale, bias, None, self.epsilon, True, axis)
                update(*statistics)
                return kernels.conv_general_dilated(y, kernel, strides, padding, **options)

            return convolve
        y, *statistics = kernels.batch_norm(x, scale, bias, add, self.epsilon, relu, axis)
        update(*statistics)
        return y


def pool_running_statistics(
    batch_stats: dict[str, Any], axis: str, momentum: float
) -> dict[str, Any]:
    """Pools the running statistics that each device updated with its own images.

    All devices start a step from the same running statistics r. Device i updates them to
    r_i = momentum * r + (1 - momentum) * b_i, where b_i are the statistics of its images. The mean
    of the whole batch is the mean of the means. Its variance is the mean of the variances plus the
    variance between the means, where (r_i - mean r_i) / (1 - momentum) = b_i - mean b_i.

    Args:
      batch_stats: on each device, the collection of its batch norms ('mean' and 'var' of each).
      axis: name of the device axis; all devices hold equally many images.
      momentum: weight of the previous running statistics in an update.

    Returns:
      On every device, the running statistics that batch norm over the whole batch would have.
    """
    if not jax.tree.leaves(batch_stats):
        return batch_stats
    # All layers are in one vector, because an all-reduce takes as long for one layer as for all.
    device, unravel = ravel_pytree(batch_stats)
    pooled = jax.lax.pmean(device, axis)
    between = unravel(jax.lax.pmean((device - pooled) ** 2, axis))
    flat, deviations = map(traverse_util.flatten_dict, (unravel(pooled), between))
    for path in flat:
        if path[-1] == "var":
            flat[path] += deviations[*path[:-1], "mean"] / (1 - momentum)
    return traverse_util.unflatten_dict(flat)
