"""Random erasing (Zhong et al. 2020, arXiv 1708.04896) and Cutout (DeVries 2017, arXiv 1708.04552).

Erased pixels are zeros of normalized images, which is their mean color.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Key
from ml_collections import ConfigDict

from flaxres.data.augment import draw_for_device

ATTEMPTS = 10  # rectangles that are drawn until one fits into the image, as in torchvision and timm


def erase(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    options: ConfigDict,
    axis: str | None = None,
) -> Float[Array, "batch height width channels"]:
    """Erases a random rectangle (random erasing) and a random square (Cutout) of each image.

    Args:
      key: random key, the same on all devices.
      images: normalized images on this device.
      options: `config.augment`; the fields of both methods are used.
      axis: mapped axis over which the batch is sharded; None if it is not.
    """
    rectangle_key, square_key = jax.random.split(key)
    if options.erasing_probability:
        erased = erased_rectangles(rectangle_key, images.shape, options, axis)
        images = jnp.where(erased[..., None], 0, images)
    if options.cutout:
        erased = cutout_squares(square_key, images.shape, options.cutout, axis)
        images = jnp.where(erased[..., None], 0, images)
    return images


def erased_rectangles(
    key: Key[Array, ""], shape: tuple[int, ...], options: ConfigDict, axis: str | None = None
) -> Bool[Array, "batch height width"]:
    """Returns the pixels of random erasing, algorithm 1 of the paper.

    A rectangle has a uniform area and a log-uniform ratio of height to width, as in torchvision and
    timm; the paper's ratio is uniform. Of ten rectangles, the first one smaller than the image is
    erased; if none is, the image stays as it is.
    """
    apply_key, area_key, ratio_key, place_key = jax.random.split(key, 4)
    batch, height, width, _ = shape
    draw = functools.partial(
        jax.random.uniform, minval=options.erasing_area[0], maxval=options.erasing_area[1]
    )
    areas = height * width * draw_for_device(draw, area_key, (batch, ATTEMPTS), axis)
    low, high = map(math.log, options.erasing_aspect_ratio)
    draw = functools.partial(jax.random.uniform, minval=low, maxval=high)
    ratios = jnp.exp(draw_for_device(draw, ratio_key, (batch, ATTEMPTS), axis))
    heights, widths = jnp.round(jnp.sqrt(areas * ratios)), jnp.round(jnp.sqrt(areas / ratios))
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    sizes = jnp.stack(
        [jnp.take_along_axis(side, first, axis=1)[:, 0] for side in (heights, widths)], axis=1
    )
    free = jnp.array([height, width]) - sizes + 1
    places = draw_for_device(jax.random.uniform, place_key, (batch, 2), axis)
    # A product with a number just below 1 may round up to `free`.
    starts = jnp.minimum(jnp.floor(places * free), free - 1).astype(jnp.int32)
    uniform = draw_for_device(jax.random.uniform, apply_key, (batch,), axis)
    is_erased = (uniform < options.erasing_probability) & jnp.any(fits, axis=1)
    inside = rectangles(starts, starts + sizes.astype(jnp.int32), (height, width))
    return inside & is_erased[:, None, None]


def cutout_squares(
    key: Key[Array, ""], shape: tuple[int, ...], size: int, axis: str | None = None
) -> Bool[Array, "batch height width"]:
    """Returns the pixels of Cutout: a square around a random pixel, of which parts may lie outside.

    Args:
      key: random key, the same on all devices.
      shape: shape of the images on this device.
      size: side of the square, in pixels.
      axis: mapped axis over which the batch is sharded; None if it is not.
    """
    batch, height, width, _ = shape
    draw = functools.partial(
        jax.random.randint, minval=jnp.zeros(2, jnp.int32), maxval=jnp.array([height, width])
    )
    starts = draw_for_device(draw, key, (batch, 2), axis) - size // 2
    return rectangles(starts, starts + size, (height, width))


def rectangles(
    starts: Int32[Array, "batch 2"], stops: Int32[Array, "batch 2"], size: tuple[int, int]
) -> Bool[Array, "batch height width"]:
    """Returns the pixels with `start <= (row, column) < stop` of each rectangle.

    Args:
      starts: first row and column of each rectangle.
      stops: row and column after the last ones.
      size: height and width of the images.
    """

    def along(axis: int) -> Bool[Array, "batch side"]:
        pixels = jnp.arange(size[axis])
        return (starts[:, axis, None] <= pixels) & (pixels < stops[:, axis, None])

    return along(0)[:, :, None] & along(1)[:, None, :]
