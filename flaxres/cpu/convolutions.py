"""Convolutions by the kernels of cc/, or by XLA where the kernels do not support them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from flaxres.cpu.kernel_files import DTYPES
from flaxres.cpu.library import active_kernels, require_library

NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))

# Images are float32 or bfloat16.
Images = Float[Array | np.ndarray, "batch height width channels"]
Kernel = Float32[Array | np.ndarray, "size size channels filters"]
Outputs = Float[Array, "batch out_height out_width filters"]


def promote_images(
    *arrays: Float[Array | np.ndarray, ...] | None, dtype: DTypeLike | None = None
) -> list[Float[Array | np.ndarray, ...] | None]:
    """Casts images, a convolution kernel and a bias, or None, to the dtype of the computation.

    Use it as `nn.Conv(promote_dtype=promote_images)`. If the kernels of cc/ are active, the
    convolution kernel stays float32, so that its gradient is not rounded to `dtype`.
    """
    if len(arrays) == 3:
        images, bias = promote_dtype(arrays[0], arrays[2], dtype=dtype)
        if active_kernels(images.dtype) is not None:
            return [images, arrays[1], bias]
    return promote_dtype(*arrays, dtype=dtype)


def conv_general_dilated(
    lhs: Float[Array | np.ndarray, ...],
    rhs: Float[Array | np.ndarray, ...],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]] | str,
    **options: Any,
) -> Float[Array, ...]:
    """Computes `lax.conv_general_dilated`, by the kernels if they support it.

    Use it as `nn.Conv(conv_general_dilated=conv_general_dilated)`.

    Args:
      lhs: images.
      rhs: convolution kernel. XLA's convolution rounds it to the dtype of the images.
      window_strides: stride in each spatial dimension.
      padding: (low, high) padding in each spatial dimension, or the name of a padding.
      **options: further arguments of `lax.conv_general_dilated`.
    """
    if supports_convolution(lhs, rhs, window_strides, padding, options):
        return convolve(lhs, rhs.astype(jnp.float32), window_strides[0], int(padding[0][0]))
    groups = options.get("feature_group_count", 1)
    ungrouped = options | {"feature_group_count": 1}
    if groups > 1 and supports_convolution(lhs, rhs, window_strides, padding, ungrouped):
        kernel = rhs.astype(jnp.float32)
        return convolve_groups(lhs, kernel, window_strides[0], int(padding[0][0]), groups)
    arrays = jnp.asarray(lhs), jnp.asarray(rhs.astype(lhs.dtype))
    return lax.conv_general_dilated(*arrays, window_strides, padding, **options)


def supports_convolution(
    x: Float[Array | np.ndarray, ...],
    kernel: Float[Array | np.ndarray, ...],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]] | str,
    options: dict[str, Any],
) -> bool:
    """Returns True if the kernels are active and support a convolution.

    They support float32 and bfloat16 images in the layout `NHWC`, square convolution kernels, equal
    strides, equal padding that is smaller than the kernel, no dilation, one group, the default
    precision and a number of filters that is a multiple of the vector length.

    Args:
      x: images.
      kernel: convolution kernel.
      strides: stride in each spatial dimension.
      padding: (low, high) padding in each spatial dimension, or the name of a padding.
      options: further arguments of `lax.conv_general_dilated`.
    """
    if isinstance(padding, str) or x.ndim != 4 or options.get("dimension_numbers") != NHWC:
        return False
    dilations = [*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())]
    pads = {pad for pair in padding for pad in pair}
    return (
        kernel.dtype.name in DTYPES
        and kernel.shape[0] == kernel.shape[1]
        and strides[0] == strides[1]
        and len(pads) == 1
        and 0 <= min(pads) < kernel.shape[0]
        and set(dilations) <= {1}
        and options.get("feature_group_count", 1) == 1
        and options.get("precision") is None
        and (kernels := active_kernels(x.dtype)) is not None
        and kernel.shape[3] % kernels.lanes == 0
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(x: Images, kernel: Kernel, stride: int, pad: int) -> Outputs:
    """Convolves images with a kernel.

    Args:
      x: images.
      kernel: convolution kernel; `filters` must be a multiple of the vector length.
      stride: stride in both spatial dimensions.
      pad: number of zeros on each side of the image, less than `size`.

    Returns:
      The results, in the dtype of the images.
    """
    result = convolution_result(x, kernel.shape, stride, pad)
    return require_library(x.dtype).call("convolve", result, x, kernel, stride=stride, pad=pad)


def convolution_result(
    x: Images, kernel: tuple[int, ...], stride: int, pad: int
) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of the result of `convolve`.

    Args:
      x: images.
      kernel: shape of the convolution kernel.
      stride: stride in both spatial dimensions.
      pad: number of zeros on each side of the image.
    """
    height, width = ((length + 2 * pad - kernel[0]) // stride + 1 for length in x.shape[1:3])
    return jax.ShapeDtypeStruct((x.shape[0], height, width, kernel[3]), x.dtype)


def convolve_groups(
    x: Images,
    kernel: Float32[Array | np.ndarray, "size size group_channels filters"],
    stride: int,
    pad: int,
    groups: int,
) -> Outputs:
    """Convolves images in groups: the filters of a group read only the channels of that group.

    As many groups as fill a vector register are merged into one convolution, with zeros in the
    kernel between groups.

    Args:
      x: images.
      kernel: convolution kernel; `filters` must be a multiple of the vector length.
      stride: stride in both spatial dimensions.
      pad: number of zeros on each side of the image, less than `size`.
      groups: number of groups, a divisor of the numbers of channels and filters.
    """
    size, _, group_channels, filters = kernel.shape
    lanes, group_filters = require_library(x.dtype).lanes, filters // groups
    merged = lanes // math.gcd(lanes, group_filters)  # number of groups in one convolution
    merged = merged if groups % merged == 0 else groups
    parts = groups // merged
    split = kernel.reshape(size, size, group_channels, parts, merged, group_filters)
    zeros_between = jnp.eye(merged, dtype=kernel.dtype)
    kernels = jnp.einsum("hwipgo,gk->phwgiko", split, zeros_between)
    kernels = kernels.reshape(parts, size, size, merged * group_channels, merged * group_filters)
    images = jnp.split(x, parts, axis=3)
    results = [convolve(image, kernels[i], stride, pad) for i, image in enumerate(images)]
    return jnp.concatenate(results, axis=3)


def _convolve_forward(
    x: Images, kernel: Kernel, stride: int, pad: int
) -> tuple[Outputs, tuple[Images, Kernel]]:
    return convolve(x, kernel, stride, pad), (x, kernel)


def _convolve_backward(
    stride: int, pad: int, residuals: tuple[Images, Kernel], dy: Outputs
) -> tuple[Images, Kernel]:
    x, kernel = residuals
    dx = input_gradient(x.shape, kernel, stride, pad, dy)
    return dx, kernel_gradient(kernel.shape, stride, pad, x, dy)


def kernel_gradient(
    shape: tuple[int, ...],
    stride: int,
    pad: int,
    x: Images,
    dy: Outputs,
    affine: Sequence[Float32[Array | np.ndarray, " _"]] = (),
) -> Float32[Array, "size size channels filters"]:
    """Returns the gradient of `convolve` with respect to its kernel.

    Args:
      shape: shape of the kernel.
      stride: stride in both spatial dimensions.
      pad: number of zeros on each side of the image.
      x: images.
      dy: gradient with respect to the result of `convolve`.
      affine: scale and shift if the convolution read ReLU(x * scale + shift); empty if it read x.
    """
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    return require_library(x.dtype).call(
        "kernel_gradient", result, x, dy, *affine, stride=stride, pad=pad
    )


def input_gradient(
    shape: tuple[int, ...],
    kernel: Kernel,
    stride: int,
    pad: int,
    dy: Outputs,
    add: Images | None = None,
) -> Float[Array, "batch height width channels"]:
    """Returns the gradient of `convolve` with respect to its images.

    Args:
      shape: shape of the images.
      kernel: convolution kernel.
      stride: stride in both spatial dimensions.
      pad: number of zeros on each side of the image.
      dy: gradient with respect to the result of `convolve`.
      add: array to add to the result, or None.
    """
    channels = shape[3]
    kernels = require_library(dy.dtype)
    missing = -channels % kernels.lanes  # channels to fill a vector register
    filled = jnp.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0))) if missing else kernel
    result = jax.ShapeDtypeStruct((*shape[:3], channels + missing), dy.dtype)
    addends = () if add is None or missing else (add,)
    dx = kernels.call("input_gradient", result, dy, filled, *addends, stride=stride, pad=pad)
    if not missing:
        return dx
    return dx[..., :channels] if add is None else dx[..., :channels] + add


convolve.defvjp(_convolve_forward, _convolve_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_and_pass(
    x: Images, kernel: Kernel, stride: int, pad: int
) -> tuple[Outputs, Float[Array, "batch height width channels"]]:
    """Returns the result of `convolve`, and `x` for another use.

    The kernel of the gradient of `x` adds the gradient of that use, which saves a pass over memory.
    """
    return convolve(x, kernel, stride, pad), jnp.asarray(x)


def _convolve_and_pass_forward(
    x: Images, kernel: Kernel, stride: int, pad: int
) -> tuple[tuple[Outputs, Float[Array, "batch height width channels"]], tuple[Images, Kernel]]:
    return convolve_and_pass(x, kernel, stride, pad), (x, kernel)


def _convolve_and_pass_backward(
    stride: int, pad: int, residuals: tuple[Images, Kernel], gradients: tuple[Outputs, Images]
) -> tuple[Images, Kernel]:
    (x, kernel), (dy, dx) = residuals, gradients
    dx = input_gradient(x.shape, kernel, stride, pad, dy, add=dx)
    return dx, kernel_gradient(kernel.shape, stride, pad, x, dy)


convolve_and_pass.defvjp(_convolve_and_pass_forward, _convolve_and_pass_backward)
