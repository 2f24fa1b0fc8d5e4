"""Convolutions and batch norm for the CPU: those of cc/ in the place of XLA's operations.

They take float32 images (batch, height, width, channels) and, where they do not cover something,
or there is no C++ compiler to build them with, XLA's own operations are taken. Results are those of
the plain formulation but for rounding, and do not depend on the number of threads. They have
gradients of first order; FLAXRES_CPU_KERNELS=0 leaves them out, for gradients of gradients say.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxres.cpu.convolutions import (
    NHWC,
    conv_general_dilated,
    convolve,
    convolve_groups,
    input_gradient,
    supports_convolution,
)
from flaxres.cpu.library import active_kernels, kernels_disabled, library

__all__ = [
    "NHWC",
    "batch_norm",
    "conv_general_dilated",
    "convolve",
    "convolve_groups",
    "kernels_disabled",
    "library",
    "norm_relu_convolve",
    "normalize",
    "supports_convolution",
    "supports_norm",
]


def supports_norm(x: jax.Array) -> bool:
    """Whether `batch_norm` and `normalize` can take `x`."""
    if x.ndim != 4 or x.dtype != jnp.float32:
        return False
    taken = active_kernels()
    return taken is not None and x.shape[3] % taken.lanes == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    add: jax.Array | None,
    epsilon: float,
    relu: bool,
) -> jax.Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias + add, and ReLU if `relu`.

    Args:
      x: float32 (batch, height, width, channels).
      scale: float32 (channels,), as are `bias`, `mean` and `variance`.
      bias: see there.
      mean: see there.
      variance: see there.
      add: of the shape of `x`, or None; only with ReLU.
      epsilon: added to the variance.
      relu: replace negative numbers by 0.
    """
    other = jnp.zeros(0, jnp.float32) if add is None else add
    return library().call(
        *("normalize", x.shape, x, scale, bias, mean, variance, other),
        epsilon=np.float32(epsilon),
        relu=relu,
        adds=add is not None,
    )


def _plain_normalize(x, scale, bias, mean, variance, add, epsilon, relu):
    y = (x - mean) * (scale * lax.rsqrt(variance + epsilon)) + bias
    y = y if add is None else y + add
    return jax.nn.relu(y) if relu else y


def _normalize_forward(*arguments):
    return normalize(*arguments), arguments[:6]


def _normalize_backward(epsilon, relu, saved, dy):
    plain = functools.partial(_plain_normalize, epsilon=epsilon, relu=relu)
    return jax.vjp(plain, *saved)[1](dy)


normalize.defvjp(_normalize_forward, _normalize_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    add: jax.Array | None,
    epsilon: float,
    relu: bool,
    axis: str | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`normalize` by the statistics of `x` itself: Ioffe and Szegedy 2015 (arXiv 1502.03167).

    Args:
      x: float32 (batch, height, width, channels).
      scale: float32 (channels,), as is `bias`.
      bias: see there.
      add: see `normalize`.
      epsilon: see there.
      relu: see there.
      axis: name of an axis of devices over which the statistics are taken together, or None.

    Returns:
      The result, the mean and the variance. The last two are for running statistics and are not
      differentiated.
    """
    return _batch_norm_forward(x, scale, bias, add, epsilon, relu, axis)[0]


def _batch_norm_forward(x, scale, bias, add, epsilon, relu, axis):
    mean, variance = _statistics(x, axis)
    y = normalize(x, scale, bias, mean, variance, add, epsilon, relu)
    saved = (x, scale, bias, mean, variance, None if add is None else y)
    return (y, mean, variance), saved


def _statistics(x: jax.Array, axis: str | None) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel."""
    channels = x.shape[3:]
    sums = library().call("norm_sums", (channels, channels), x)
    mean, squares = (total * (channels[0] / x.size) for total in sums)
    if axis is not None:
        mean, squares = lax.pmean((mean, squares), axis)
    return mean, jnp.maximum(squares - mean * mean, 0)


def _batch_norm_backward(epsilon, relu, axis, saved, cotangents):
    x, scale, bias, mean, variance, y = saved
    dy, adds, epsilon = cotangents[0], y is not None, np.float32(epsilon)
    shapes = (scale.shape, scale.shape, x.shape if adds else (0,))
    other = y if adds else jnp.zeros(0, jnp.float32)
    # d: dy where ReLU let something through. It is only written down where something was added,
    # as it is also the gradient of that.
    dscale, dbias, d = library().call(
        *("norm_gradient_sums", shapes, dy, x, scale, bias, mean, variance, other),
        epsilon=epsilon,
        relu=relu,
        adds=adds,
    )
    count, totals = x.size // x.shape[3], (dscale, dbias)
    if axis is not None:
        count, totals = count * lax.axis_size(axis), lax.psum(totals, axis)
    dx = library().call(
        *("norm_gradient", x.shape, d if adds else dy, x, scale, bias, mean, variance, *totals),
        count=count,
        epsilon=epsilon,
        relu=relu and not adds,
    )
    return dx, dscale, dbias, d if adds else None


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def norm_relu_convolve(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    kernel: jax.Array,
    epsilon: float,
    axis: str | None,
    stride: int,
    pad: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`convolve` of the ReLU of `batch_norm`, whose result is never written to memory.

    Args:
      x: see `batch_norm`, as are `scale`, `bias`, `epsilon` and `axis`.
      scale: see there.
      bias: see there.
      kernel: see `convolve`, as are `stride` and `pad`.
      epsilon: see there.
      axis: see there.
      stride: see there.
      pad: see there.

    Returns:
      The result of the convolution, and the mean and the variance of `x`, which are not
      differentiated.
    """
    return _norm_relu_convolve_forward(x, scale, bias, kernel, epsilon, axis, stride, pad)[0]


def _norm_relu_convolve_forward(x, scale, bias, kernel, epsilon, axis, stride, pad):
    mean, variance = _statistics(x, axis)
    size = kernel.shape[0]
    height, width = ((length + 2 * pad - size) // stride + 1 for length in x.shape[1:3])
    shape = (len(x), height, width, kernel.shape[3])
    affine = _affine(scale, bias, mean, variance, epsilon)
    y = library().call("convolve", shape, x, kernel, *affine, stride=stride, pad=pad)
    return (y, mean, variance), (x, scale, bias, mean, variance, kernel)


def _affine(scale, bias, mean, variance, epsilon):
    """Factor and summand of each channel that normalize it."""
    factor = scale * lax.rsqrt(variance + epsilon)
    return factor, bias - mean * factor


def _norm_relu_convolve_backward(epsilon, axis, stride, pad, saved, cotangents):
    *norm, kernel = saved
    x, dy = saved[0], cotangents[0]
    affine = _affine(*norm[1:], epsilon)
    dkernel = library().call(
        *("kernel_gradient", kernel.shape, x, dy, *affine), stride=stride, pad=pad
    )
    dz = input_gradient(x.shape, kernel, stride, pad, dy)
    dx, dscale, dbias, _ = _batch_norm_backward(epsilon, True, axis, (*norm, None), (dz,))
    return dx, dscale, dbias, dkernel


norm_relu_convolve.defvjp(_norm_relu_convolve_forward, _norm_relu_convolve_backward)
