"""Convolutions and batch norm on a CPU, by the kernels of cc/ instead of XLA's operations.

The kernels read float32 or bfloat16 images (batch, height, width, channels) and return results of
the same dtype. Parameters, statistics and sums are float32. XLA's operations are used where
the kernels do not support an operation, or if there is no C++ compiler to build them. Results equal
those of XLA up to rounding and do not depend on the number of threads. Only first-order gradients
are defined; FLAXRES_CPU_KERNELS=0 disables the kernels, for example for second-order gradients.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Shaped

from flaxres.cpu.convolutions import (
    NHWC,
    Images,
    Kernel,
    Outputs,
    conv_general_dilated,
    convolution_result,
    convolve,
    convolve_and_pass,
    convolve_groups,
    input_gradient,
    kernel_gradient,
    promote_images,
    supports_convolution,
)
from flaxres.cpu.library import active_kernels, kernels_disabled, library, require_library

__all__ = [
    "NHWC",
    "batch_norm",
    "conv_general_dilated",
    "convolve",
    "convolve_and_pass",
    "convolve_groups",
    "kernels_disabled",
    "library",
    "norm_relu_convolve",
    "normalize",
    "promote_images",
    "scale_and_shift",
    "supports_convolution",
    "supports_norm",
]

Channels = Float32[Array | np.ndarray, " channels"]
Normalized = Float[Array, "batch height width channels"]
# Saved for the gradient of `normalize`: x, scale, bias, mean, variance, add.
NormalizeResiduals = tuple[Images, Channels, Channels, Channels, Channels, Images | None]
# Saved for the gradient of `batch_norm`: x, scale, bias, mean, variance, and y if it had an `add`.
BatchNormResiduals = tuple[Images, Channels, Channels, Channels, Channels, Images | None]
# Saved for the gradient of `norm_relu_convolve`: x, scale, bias, mean, variance, kernel.
NormConvolveResiduals = tuple[Images, Channels, Channels, Channels, Channels, Kernel]


def supports_norm(x: Shaped[Array | np.ndarray, ...]) -> bool:
    """Returns True if the kernels are active and `batch_norm` and `normalize` support `x`."""
    if x.ndim != 4:
        return False
    kernels = active_kernels(x.dtype)
    return kernels is not None and x.shape[3] % kernels.lanes == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def normalize(
    x: Images,
    scale: Channels,
    bias: Channels,
    mean: Channels,
    variance: Channels,
    add: Images | None,
    epsilon: float,
    relu: bool,
) -> Normalized:
    """Returns (x - mean) / sqrt(variance + epsilon) * scale + bias + add, or the ReLU of it.

    Args:
      x: feature maps.
      scale: factor of each channel.
      bias: summand of each channel.
      mean: mean of each channel.
      variance: variance of each channel.
      add: array to add, or None. It requires `relu`.
      epsilon: constant added to the variance.
      relu: if True, ReLU is applied last.
    """
    addends = () if add is None else (add,)
    return require_library(x.dtype).call(
        *("normalize", _like(x), x, scale, bias, mean, variance, *addends),
        epsilon=np.float32(epsilon),
        relu=relu,
    )


def _like(x: Float[Array | np.ndarray, ...]) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of an array."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _xla_normalize(
    x: Images,
    scale: Channels,
    bias: Channels,
    mean: Channels,
    variance: Channels,
    add: Images | None,
    epsilon: float,
    relu: bool,
) -> Images:
    """Computes `normalize` by XLA's operations, which have gradients."""
    y = (x - mean) * (scale * lax.rsqrt(variance + epsilon)) + bias
    y = y if add is None else y + add
    return (jax.nn.relu(y) if relu else y).astype(x.dtype)


def _normalize_forward(
    x: Images,
    scale: Channels,
    bias: Channels,
    mean: Channels,
    variance: Channels,
    add: Images | None,
    epsilon: float,
    relu: bool,
) -> tuple[Normalized, NormalizeResiduals]:
    y = normalize(x, scale, bias, mean, variance, add, epsilon, relu)
    return y, (x, scale, bias, mean, variance, add)


def _normalize_backward(
    epsilon: float, relu: bool, residuals: NormalizeResiduals, dy: Normalized
) -> NormalizeResiduals:
    function = functools.partial(_xla_normalize, epsilon=epsilon, relu=relu)
    return jax.vjp(function, *residuals)[1](dy)


normalize.defvjp(_normalize_forward, _normalize_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def batch_norm(
    x: Images,
    scale: Channels,
    bias: Channels,
    add: Images | None,
    epsilon: float,
    relu: bool,
    axis: str | None,
) -> tuple[Normalized, Channels, Channels]:
    """Normalizes `x` with its own statistics: Ioffe and Szegedy 2015 (arXiv 1502.03167).

    Args:
      x: feature maps.
      scale: factor of each channel.
      bias: summand of each channel.
      add: array to add to the result, or None. It requires `relu`.
      epsilon: constant added to the variance.
      relu: if True, ReLU is applied last.
      axis: name of the device axis that the statistics are averaged over, or None.

    Returns:
      The result, the mean and the variance. The mean and the variance are meant for running
      statistics and have no gradients.
    """
    return _batch_norm_forward(x, scale, bias, add, epsilon, relu, axis)[0]


def _batch_norm_forward(
    x: Images,
    scale: Channels,
    bias: Channels,
    add: Images | None,
    epsilon: float,
    relu: bool,
    axis: str | None,
) -> tuple[tuple[Normalized, Channels, Channels], BatchNormResiduals]:
    mean, variance = _statistics(x, axis)
    y = normalize(x, scale, bias, mean, variance, add, epsilon, relu)
    residuals = (x, scale, bias, mean, variance, None if add is None else y)
    return (y, mean, variance), residuals


def _statistics(x: Images, axis: str | None) -> tuple[Channels, Channels]:
    """Returns the mean and variance of each channel."""
    result = jax.ShapeDtypeStruct(x.shape[3:], jnp.float32)
    sums = require_library(x.dtype).call("norm_sums", (result, result), x)
    mean, mean_square = (total * (x.shape[3] / x.size) for total in sums)
    if axis is not None:
        mean, mean_square = lax.pmean((mean, mean_square), axis)
    return mean, jnp.maximum(mean_square - mean * mean, 0)


def _batch_norm_backward(
    epsilon: float,
    relu: bool,
    axis: str | None,
    residuals: BatchNormResiduals,
    cotangents: tuple[Normalized, Channels, Channels],
) -> tuple[Images, Channels, Channels, Images | None]:
    return _batch_norm_gradients(epsilon, relu, axis, residuals, cotangents[0])


def _batch_norm_gradients(
    epsilon: float,
    relu: bool,
    axis: str | None,
    residuals: BatchNormResiduals,
    dy: Normalized,
) -> tuple[Images, Channels, Channels, Images | None]:
    """Returns the gradients of `batch_norm` with respect to x, scale, bias and add."""
    x, scale, bias, mean, variance, y = residuals
    # The gradient of `add` is dy where the ReLU was positive, else 0. Without an `add` it is not
    # written to memory.
    outputs = () if y is None else (y,)
    results = (_like(scale), _like(scale), *map(_like, outputs))
    dscale, dbias, *dadds = require_library(x.dtype).call(
        *("norm_gradient_sums", results, dy, x, scale, bias, mean, variance, *outputs),
        epsilon=np.float32(epsilon),
        relu=relu,
    )
    dadd = dadds[0] if dadds else None
    count, totals = x.size // x.shape[3], (dscale, dbias)
    if axis is not None:
        count, totals = count * lax.axis_size(axis), lax.psum(totals, axis)
    d = dy if dadd is None else dadd
    dx = require_library(x.dtype).call(
        *("norm_gradient", _like(x), d, x, scale, bias, mean, variance, *totals),
        count=count,
        epsilon=np.float32(epsilon),
        relu=relu and dadd is None,
    )
    return dx, dscale, dbias, dadd


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def norm_relu_convolve(
    x: Images,
    scale: Channels,
    bias: Channels,
    kernel: Kernel,
    epsilon: float,
    axis: str | None,
    stride: int,
    pad: int,
) -> tuple[Outputs, Channels, Channels]:
    """Convolves the ReLU of the batch norm of `x`, which is never written to memory.

    Args:
      x: feature maps.
      scale: factor of each channel.
      bias: summand of each channel.
      kernel: convolution kernel; `filters` must be a multiple of the vector length.
      epsilon: constant added to the variance.
      axis: name of the device axis that the statistics are averaged over, or None.
      stride: stride in both spatial dimensions.
      pad: number of zeros on each side of the image, less than `size`.

    Returns:
      The result of the convolution, and the mean and the variance of `x`, which have no gradients.
    """
    return _norm_relu_convolve_forward(x, scale, bias, kernel, epsilon, axis, stride, pad)[0]


def _norm_relu_convolve_forward(
    x: Images,
    scale: Channels,
    bias: Channels,
    kernel: Kernel,
    epsilon: float,
    axis: str | None,
    stride: int,
    pad: int,
) -> tuple[tuple[Outputs, Channels, Channels], NormConvolveResiduals]:
    mean, variance = _statistics(x, axis)
    result = convolution_result(x, kernel.shape, stride, pad)
    affine = scale_and_shift(scale, bias, mean, variance, epsilon)
    kernels = require_library(x.dtype)
    y = kernels.call("convolve", result, x, kernel, *affine, stride=stride, pad=pad)
    return (y, mean, variance), (x, scale, bias, mean, variance, kernel)


def scale_and_shift(
    scale: Channels, bias: Channels, mean: Channels, variance: Channels, epsilon: float
) -> tuple[Channels, Channels]:
    """Returns the factor and the summand of each channel that normalize it."""
    factor = scale * lax.rsqrt(variance + epsilon)
    return factor, bias - mean * factor


def _norm_relu_convolve_backward(
    epsilon: float,
    axis: str | None,
    stride: int,
    pad: int,
    residuals: NormConvolveResiduals,
    cotangents: tuple[Outputs, Channels, Channels],
) -> tuple[Images, Channels, Channels, Kernel]:
    x, scale, bias, mean, variance, kernel = residuals
    dy = cotangents[0]
    affine = scale_and_shift(scale, bias, mean, variance, epsilon)
    dkernel = kernel_gradient(kernel.shape, stride, pad, x, dy, affine)
    dnormalized = input_gradient(x.shape, kernel, stride, pad, dy)
    norm_residuals = (x, scale, bias, mean, variance, None)
    dx, dscale, dbias, _ = _batch_norm_gradients(epsilon, True, axis, norm_residuals, dnormalized)
    return dx, dscale, dbias, dkernel


norm_relu_convolve.defvjp(_norm_relu_convolve_forward, _norm_relu_convolve_backward)
