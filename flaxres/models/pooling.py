"""Poolings that subsample feature maps: means of windows, and a binomial blur."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BLUR = (0.25, 0.5, 0.25)  # Zhang 2019 (arXiv 1904.11486), section 4.1: Triangle-3


def average_pool(
    x: Float[Array | np.ndarray, "batch height width channels"], stride: int
) -> Float[Array, "batch out_height out_width channels"]:
    """Returns the means of windows of `stride` x `stride` pixels that do not overlap.

    Windows at the end that are cut off by the border are means of fewer pixels.

    Args:
      x: feature maps.
      stride: height and width of a window.

    Returns:
      (batch, ceil(height / stride), ceil(width / stride), channels), of the dtype of `x`.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // stride), -(-width // stride)
    padding = ((0, 0), (0, rows * stride - height), (0, columns * stride - width), (0, 0))
    # A window reduction of XLA would be several times slower on a CPU.
    windows = jnp.pad(x, padding).reshape(batch, rows, stride, columns, stride, channels)
    sums = windows.sum((2, 4), dtype=jnp.float32)

    def window_sizes(count: int, size: int) -> np.ndarray:
        return np.minimum(stride, size - stride * np.arange(count)).astype(np.float32)

    areas = np.outer(window_sizes(rows, height), window_sizes(columns, width))
    return (sums / areas[:, :, None]).astype(x.dtype)


def blur_pool(
    x: Float[Array | np.ndarray, "batch height width channels"], stride: int
) -> Float[Array, "batch out_height out_width channels"]:
    """Blurs feature maps with the outer product of `BLUR` and keeps every `stride`-th pixel.

    The border is reflected, as in timm. Zhang 2019 (arXiv 1904.11486), section 3.2.

    Args:
      x: feature maps of at least 2 x 2 pixels.
      stride: distance between the pixels that are kept, starting with the first.

    Returns:
      (batch, ceil(height / stride), ceil(width / stride), channels), of the dtype of `x`.
    """
    y = jnp.asarray(x, jnp.float32)
    for axis in (1, 2):
        padding = [(int(other == axis),) * 2 for other in range(4)]
        padded = jnp.pad(y, padding, mode="reflect")
        size = y.shape[axis]

        def taps(start: int, padded: Array = padded, axis: int = axis, size: int = size) -> Array:
            index = [slice(None)] * 4
            index[axis] = slice(start, start + size, stride)
            return padded[tuple(index)]

        y = sum((weight * taps(i) for i, weight in enumerate(BLUR)), start=jnp.float32(0))
    return y.astype(x.dtype)


# Subsampling after a convolution with stride 1, by values of `model.anti_alias`.
ANTI_ALIAS: dict[str, Callable[..., Float[Array, "batch height width channels"]] | None] = {
    "none": None,
    "average": average_pool,
    "blur": blur_pool,
}
