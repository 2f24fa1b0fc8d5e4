"""Convolutions for the CPU: those of cc/, and where these cannot be, XLA's."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxres.cpu.library import active_kernels, library

NOTHING = (np.zeros(0, np.float32),) * 2  # no scale and shift
NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """`lax.conv_general_dilated`, for `nn.Conv(conv_general_dilated=...)`."""
    if supports_convolution(lhs, rhs, window_strides, padding, options):
        return convolve(lhs, rhs, window_strides[0], padding[0][0])
    groups = options.get("feature_group_count", 1)
    alone = options | {"feature_group_count": 1}
    if groups > 1 and supports_convolution(lhs, rhs, window_strides, padding, alone):
        return convolve_groups(lhs, rhs, window_strides[0], padding[0][0], groups)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def supports_convolution(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]] | str,
    options: dict[str, Any],
) -> bool:
    """Float32, two axes, a square kernel, equal strides and equal padding less than the kernel."""
    if isinstance(padding, str) or x.ndim != 4 or options.get("dimension_numbers") != NHWC:
        return False
    dilations = [*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())]
    pads = {pad for pair in padding for pad in pair}
    return (
        x.dtype == kernel.dtype == jnp.float32
        and kernel.shape[0] == kernel.shape[1]
        and strides[0] == strides[1]
        and len(pads) == 1
        and 0 <= min(pads) < kernel.shape[0]
        and set(dilations) <= {1}
        and options.get("feature_group_count", 1) == 1
        and options.get("precision") is None
        and (taken := active_kernels()) is not None
        and kernel.shape[3] % taken.lanes == 0
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: jax.Array, kernel: jax.Array, stride: int, pad: int) -> jax.Array:
    """Convolves images with a kernel (size, size, in, out), `out` a multiple of the lanes.

    Args:
      x: float32 (batch, height, width, in).
      kernel: float32.
      stride: on both axes.
      pad: zeros on each side, fewer than `size`.
    """
    size = kernel.shape[0]
    height, width = ((length + 2 * pad - size) // stride + 1 for length in x.shape[1:3])
    shape = (len(x), height, width, kernel.shape[3])
    return library().call("convolve", shape, x, kernel, *NOTHING, stride=stride, pad=pad)


def convolve_groups(
    x: jax.Array, kernel: jax.Array, stride: int, pad: int, groups: int
) -> jax.Array:
    """A convolution in groups: output channels of a group see the input channels of that group.

    As many groups as fill the lanes are one convolution, with zeros between them.

    Args:
      x: float32 (batch, height, width, in).
      kernel: float32 (size, size, in / groups, out), `out` a multiple of the lanes.
      stride: see `convolve`, as is `pad`.
      pad: see there.
      groups: a divisor of `in` and `out`.
    """
    size, _, into, out = kernel.shape
    lanes, out = library().lanes, out // groups
    together = lanes // math.gcd(lanes, out)
    together = together if groups % together == 0 else groups
    parts = groups // together
    split = kernel.reshape(size, size, into, parts, together, out)
    zeros_between = jnp.eye(together, dtype=kernel.dtype)
    kernels = jnp.einsum("hwipgo,gk->phwgiko", split, zeros_between)
    kernels = kernels.reshape(parts, size, size, together * into, together * out)
    images = jnp.split(x, parts, axis=3)
    results = [convolve(image, kernels[i], stride, pad) for i, image in enumerate(images)]
    return jnp.concatenate(results, axis=3)


def _convolve_forward(x: jax.Array, kernel: jax.Array, stride: int, pad: int):
    return convolve(x, kernel, stride, pad), (x, kernel)


def _convolve_backward(stride: int, pad: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array):
    x, kernel = saved
    dx = input_gradient(x.shape, kernel, stride, pad, dy)
    kinds = {"stride": stride, "pad": pad}
    return dx, library().call("kernel_gradient", kernel.shape, x, dy, *NOTHING, **kinds)


def input_gradient(
    shape: tuple[int, ...], kernel: jax.Array, stride: int, pad: int, dy: jax.Array
) -> jax.Array:
    """The gradient of `convolve` with respect to its images, of that `shape`; `dy` is its own."""
    channels = shape[3]
    more = -channels % library().lanes
    filled = jnp.pad(kernel, ((0, 0), (0, 0), (0, more), (0, 0))) if more else kernel
    shape = (*shape[:3], channels + more)
    dx = library().call("input_gradient", shape, dy, filled, stride=stride, pad=pad)
    return dx[..., :channels] if more else dx


convolve.defvjp(_convolve_forward, _convolve_backward)
