"""Convolutions that normalize their input with running statistics, for evaluation on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flaxres.cpu.convolutions import (
    Images,
    Kernel,
    Outputs,
    conv_general_dilated,
    convolution_result,
    input_gradient,
    kernel_gradient,
    supports_convolution,
)
from flaxres.cpu.kernels import Channels, normalize, scale_and_shift
from flaxres.cpu.library import require_library

# Scale, bias, mean and variance of each channel.
RunningNorm = tuple[Channels, Channels, Channels, Channels]
# Saved for the gradient: x, factor, summand, kernel.
Residuals = tuple[Images, Channels, Channels, Kernel]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def affine_relu_convolve(
    x: Images, factor: Channels, summand: Channels, kernel: Kernel, stride: int, pad: int
) -> Outputs:
    """Convolves ReLU(x * factor + summand), which is never written to memory.

    Args:
      x: feature maps.
      factor: factor of each channel.
      summand: summand of each channel.
      kernel: convolution kernel; `filters` must be a multiple of the vector length.
      stride: stride in both spatial dimensions.
      pad: number of zeros on each side of the image, less than `size`.
    """
    result = convolution_result(x, kernel.shape, stride, pad)
    arrays = (x, kernel, factor, summand)
    kernels = require_library(x.dtype)
    y: jax.Array = kernels.call("convolve", result, *arrays, stride=stride, pad=pad)
    return y


def _forward(
    x: Images, factor: Channels, summand: Channels, kernel: Kernel, stride: int, pad: int
) -> tuple[Outputs, Residuals]:
    y = affine_relu_convolve(x, factor, summand, kernel, stride, pad)
    return y, (x, factor, summand, kernel)


def _backward(stride: int, pad: int, residuals: Residuals, dy: Outputs) -> Residuals:
    x, factor, summand, kernel = residuals
    dkernel = kernel_gradient(kernel.shape, stride, pad, x, dy, (factor, summand))
    dnormalized = input_gradient(x.shape, kernel, stride, pad, dy)

    def affine_relu(x: Images, factor: Channels, summand: Channels) -> Images:
        return jax.nn.relu(x * factor + summand).astype(x.dtype)

    _, vjp = jax.vjp(affine_relu, x, factor, summand)
    dx, dfactor, dsummand = vjp(dnormalized)
    return dx, dfactor, dsummand, dkernel


affine_relu_convolve.defvjp(_forward, _backward)


def norm_relu_conv_general_dilated(
    norm: RunningNorm,
    epsilon: float,
    x: Float[Array | np.ndarray, "batch height width channels"],
    kernel: Float[Array | np.ndarray, "size size group_channels filters"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]] | str,
    **options: Any,
) -> Float[Array, "batch out_height out_width filters"]:
    """Computes `lax.conv_general_dilated` of the ReLU of batch norm with running statistics.

    Args:
      norm: parameters and running statistics of the norm.
      epsilon: constant added to the variance.
      x: feature maps, which `kernels.supports_norm`.
      kernel: convolution kernel.
      strides: stride in each spatial dimension.
      padding: (low, high) padding in each spatial dimension, or the name of a padding.
      **options: further arguments of `lax.conv_general_dilated`.
    """
    if supports_convolution(x, kernel, strides, padding, options):
        arrays = (*scale_and_shift(*norm, epsilon), kernel.astype(jnp.float32))
        return affine_relu_convolve(x, *arrays, strides[0], int(padding[0][0]))
    y = normalize(x, *norm, None, epsilon, True)
    return conv_general_dilated(y, kernel, strides, padding, **options)
