"""Normalisation and augmentation on the device: He15 (arXiv 1512.03385), section 4.2."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def normalise(images: jax.Array, mean: jax.Array) -> jax.Array:
    """uint8 (n, h, w, c) to float32 in 0..1 less the per-pixel `mean` (h, w, c)."""
    return images.astype(jnp.float32) * (1 / 255) - mean


def random_crop(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Pads `pad` zeros on each side, then crops the original size anywhere.

    The offsets of each image are drawn evenly from 0..2*pad on both axes. Zeros are the mean colour
    of normalised images.
    """
    n, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    offsets = jax.random.randint(key, (n, 2), 0, 2 * pad + 1)

    def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, offsets)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Flips each image left to right with probability one half."""
    flip = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1, :], images)


def augment(key: jax.Array, images: jax.Array, *, pad: int, flip: bool) -> jax.Array:
    """Random crop and flip of normalised `images` (n, h, w, c); keeps shape and dtype."""
    crop_key, flip_key = jax.random.split(key)
    if pad:
        images = random_crop(crop_key, images, pad)
    if flip:
        images = random_flip(flip_key, images)
    return images
