"""Normalisation and augmentation on the device: He15 (arXiv 1512.03385), sections 3.4 and 4.2."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from flaxres.errors import ConfigError


def normalize(images: jax.Array, mean: jax.Array) -> jax.Array:
    """uint8 (n, h, w, c) to float32 in 0..1 less the per-pixel `mean` (h, w, c)."""
    return images.astype(jnp.float32) * (1 / 255) - mean


def draw_for_own_images(
    draw: Callable[..., jax.Array], key: jax.Array, shape: tuple[int, ...], axis: str | None
) -> jax.Array:
    """Random numbers for the device's own images, such that the batch's do not depend on devices.

    Args:
      draw: `draw(key, shape=shape)`.
      key: the same on all devices.
      shape: (images of this device, ...).
      axis: name of the axis of devices that share the batch; None if this one has all of it.
    """
    if axis is None:
        return draw(key, shape=shape)
    n = shape[0]
    everyones = draw(key, shape=(n * jax.lax.axis_size(axis), *shape[1:]))
    return jax.lax.dynamic_slice_in_dim(everyones, n * jax.lax.axis_index(axis), n)


def random_crop(key: jax.Array, images: jax.Array, pad: int, axis: str | None = None) -> jax.Array:
    """Pads `pad` zeros on each side, then crops the original size anywhere.

    The offsets of each image are drawn evenly from 0..2*pad on both axes. Zeros are the mean colour
    of normalised images. `axis`: see `augment`.
    """
    n, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    draw = functools.partial(jax.random.randint, minval=0, maxval=2 * pad + 1)
    offsets = draw_for_own_images(draw, key, (n, 2), axis)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array, axis: str | None = None) -> jax.Array:
    """Flips each image left to right with probability one half. `axis`: see `augment`."""
    draw = functools.partial(jax.random.bernoulli, p=0.5)
    flip = draw_for_own_images(draw, key, (len(images), 1, 1, 1), axis)
    return jnp.where(flip, images[:, :, ::-1, :], images)


def pca_color_augmentation(
    key: jax.Array, images: jax.Array, options: ConfigDict, axis: str | None = None
) -> jax.Array:
    """Shifts the colour of each image along the principal components of RGB.

    Krizhevsky et al. 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
    section 4.1: to each pixel [p1, p2, p3] [a1 l1, a2 l2, a3 l3] is added, with the eigenvectors p
    and eigenvalues l of the covariance of RGB, and a Gaussian random number a for each image and
    component.

    Args:
      key: of this step; the numbers are the same however many devices share the batch.
      images: float32 (n, height, width, 3), in units of 0..1, normalised or not.
      options: `config.augment`: colour, the deviation of a; colour_values; colour_vectors.
      axis: see `augment`.

    Returns:
      Of the same shape; not clipped to any range, as the paper does not say that it was.

    Raises:
      ConfigError: see `check_color_channels`.
    """
    check_color_channels(options, images.shape[-1])
    vectors = jnp.asarray(options.color_eigenvectors, jnp.float32).reshape(3, 3)
    a = options.color * draw_for_own_images(jax.random.normal, key, (len(images), 3), axis)
    along = a * jnp.asarray(options.color_eigenvalues, jnp.float32)
    shift = jnp.sum(along[:, :, None] * vectors, axis=1)  # in full precision on every device
    return images + shift[:, None, None, :]


def check_color_channels(options: ConfigDict, channels: int) -> None:
    """Checks that images can have their colour shifted, if they are to.

    Raises:
      ConfigError: they have not three channels.
    """
    if options.color and channels != 3:
        raise ConfigError(
            f"augment.color must be 0 for images that are not RGB, got {options.color} with "
            f"{channels} channel{'s' * (channels != 1)}"
        )


def augment(
    key: jax.Array, images: jax.Array, *, pad: int, flip: bool, axis: str | None = None
) -> jax.Array:
    """Random crop and flip of normalised `images` (n, h, w, c); keeps shape and dtype.

    With `axis`, `images` are the device's own part of a batch that the devices of that axis share.
    """
    crop_key, flip_key = jax.random.split(key)
    if pad:
        images = random_crop(crop_key, images, pad, axis)
    if flip:
        images = random_flip(flip_key, images, axis)
    return images
