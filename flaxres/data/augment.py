"""Normalization and augmentation on the device: He15 (arXiv 1512.03385), sections 3.4 and 4.2."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Key, Shaped, UInt8
from ml_collections import ConfigDict

from flaxres.errors import ConfigError, counted
from flaxres.platforms import traced_platform


def normalize(
    images: UInt8[Array, "*batch height width channels"],
    mean: Float[Array | np.ndarray, "height width channels"],
) -> Float32[Array, "*batch height width channels"]:
    """Scales images to 0..1 and subtracts the per-pixel mean image."""
    return images.astype(jnp.float32) * (1 / 255) - mean


def draw_for_device(
    draw: Callable[..., Shaped[Array, "*shape"]],
    key: Key[Array, ""],
    shape: tuple[int, ...],
    axis: str | None,
) -> Shaped[Array, "*shape"]:
    """Draws random numbers for the images on this device.

    The numbers of the whole batch do not depend on the number of devices.

    Args:
      draw: random function, called as `draw(key, shape=shape)`.
      key: random key, the same on all devices.
      shape: shape of the result; its first axis counts the images on this device.
      axis: mapped axis over which the batch is sharded; None if it is not.
    """
    if axis is None:
        return draw(key, shape=shape)
    num_images = shape[0]
    whole_batch = draw(key, shape=(num_images * jax.lax.axis_size(axis), *shape[1:]))
    return jax.lax.dynamic_slice_in_dim(
        whole_batch, num_images * jax.lax.axis_index(axis), num_images
    )


def random_crop(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    pad: int,
    axis: str | None = None,
) -> Float[Array, "batch height width channels"]:
    """Pads images with zeros, then takes random crops of the original size.

    Zeros are the mean color of normalized images.

    Args:
      key: random key, the same on all devices.
      images: normalized images on this device.
      pad: pixels added on each side; offsets are drawn uniformly from 0..2*pad on both axes.
      axis: mapped axis over which the batch is sharded; None if it is not.
    """
    batch_size, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    draw = functools.partial(jax.random.randint, minval=0, maxval=2 * pad + 1)
    offsets = draw_for_device(draw, key, (batch_size, 2), axis)

    if traced_platform() == "tpu":
        rows = _select_shift(padded, offsets[:, 0], axis=1, size=height)
        return _select_shift(rows, offsets[:, 1], axis=2, size=width)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def _select_shift(
    images: Float[Array, "batch height width channels"],
    offsets: Int32[Array, " batch"],
    axis: int,
    size: int,
) -> Float[Array, "batch out_height out_width channels"]:
    """Takes a slice of each image along one axis, as one selection for each possible offset.

    A TPU would run a loop over the images for slices that start at different pixels.

    Args:
      images: images.
      offsets: first pixel of each slice.
      axis: axis of the slices: 1 for rows, 2 for columns.
      size: length of the slices.
    """
    sliced = jax.lax.slice_in_dim(images, 0, size, axis=axis)
    for offset in range(1, images.shape[axis] - size + 1):
        shifted = jax.lax.slice_in_dim(images, offset, offset + size, axis=axis)
        sliced = jnp.where((offsets == offset)[:, None, None, None], shifted, sliced)
    return sliced


def random_flip(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    axis: str | None = None,
) -> Float[Array, "batch height width channels"]:
    """Flips each image horizontally with probability one half.

    Args:
      key: random key, the same on all devices.
      images: images on this device.
      axis: mapped axis over which the batch is sharded; None if it is not.
    """
    draw = functools.partial(jax.random.bernoulli, p=0.5)
    flip = draw_for_device(draw, key, (len(images), 1, 1, 1), axis)
    return jnp.where(flip, images[:, :, ::-1, :], images)


def pca_color_augmentation(
    key: Key[Array, ""],
    images: Float32[Array, "batch height width channels"],
    options: ConfigDict,
    axis: str | None = None,
) -> Float32[Array, "batch height width channels"]:
    """Shifts the color of each image along the principal components of RGB.

    Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
    section 4.1, adds `[p1, p2, p3] [a1 l1, a2 l2, a3 l3]` to each pixel. p and l are the
    eigenvectors and eigenvalues of the covariance of RGB; a is a Gaussian random number for each
    image and component. The result is not clipped, as the paper does not mention clipping.

    Args:
      key: random key of this step; results do not depend on the number of devices.
      images: RGB images in units of 0..1, normalized or not.
      options: `config.augment`, with `color` (the standard deviation of a), `color_eigenvalues` and
        `color_eigenvectors`.
      axis: mapped axis over which the batch is sharded; None if it is not.

    Raises:
      ConfigError: the images do not have three channels.
    """
    check_color_channels(options, images.shape[-1])
    vectors = jnp.asarray(options.color_eigenvectors, jnp.float32).reshape(3, 3)
    a = options.color * draw_for_device(jax.random.normal, key, (len(images), 3), axis)
    along = a * jnp.asarray(options.color_eigenvalues, jnp.float32)
    # A sum instead of a matrix product: full float32 precision on every device.
    shift = jnp.sum(along[:, :, None] * vectors, axis=1)
    return images + shift[:, None, None, :]


def check_color_channels(options: ConfigDict, channels: int) -> None:
    """Checks that PCA color augmentation is used only for RGB images.

    Args:
      options: `config.augment`.
      channels: channels of an image.

    Raises:
      ConfigError: `color` is not 0, and the images do not have three channels.
    """
    if options.color and channels != 3:
        raise ConfigError(
            f"augment.color must be 0 for images that are not RGB, got {options.color} with "
            f"{counted(channels, 'channel')}"
        )


def augment(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    *,
    pad: int,
    flip: bool,
    axis: str | None = None,
) -> Float[Array, "batch height width channels"]:
    """Applies random crops and flips to normalized images.

    Args:
      key: random key, the same on all devices.
      images: normalized images on this device.
      pad: zeros added on each side before the crop, in pixels; 0 for no random crop.
      flip: if True, flips each image horizontally with probability one half.
      axis: mapped axis over which the batch is sharded; None if it is not.
    """
    crop_key, flip_key = jax.random.split(key)
    if pad:
        images = random_crop(crop_key, images, pad, axis)
    if flip:
        images = random_flip(flip_key, images, axis)
    return images
