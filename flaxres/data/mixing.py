"""Mixing of the images of a batch: mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899).

One weight is drawn for each step. The partners of the images are the batch in reverse order, as in
timm.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Key, Shaped
from ml_collections import ConfigDict

from flaxres.data.erasing import rectangles


def mixes(options: ConfigDict) -> bool:
    """Returns True if images are mixed, given `config.augment`."""
    return bool(options.mixup or options.cutmix)


def mix(
    key: Key[Array, ""],
    images: Float[Array, "batch height width channels"],
    labels: Int32[Array, " batch"],
    options: ConfigDict,
    axis: str | None = None,
) -> tuple[
    Float[Array, "batch height width channels"], Int32[Array, " batch"], Float32[Array, " batch"]
]:
    """Mixes each image with its partner, by mixup or CutMix.

    Args:
      key: random key, the same on all devices.
      images: normalized images on this device.
      labels: int32 (batch,), labels of the images.
      options: `config.augment`: `mixup` and `cutmix` are alpha of Beta(alpha, alpha), from which
        the weight of the image is drawn, or 0 for methods that are not used. If both are used, a
        step uses CutMix with the probability `cutmix_probability`. A step mixes with the
        probability `mixing_probability`.
      axis: mapped axis over which the batch is sharded; None if it is not.

    Returns:
      Mixed images, the labels of the partners, and the weights of the images' own labels.
    """
    apply_key, choice_key, weight_key, box_key = jax.random.split(key, 4)
    is_mixed = jax.random.bernoulli(apply_key, options.mixing_probability)
    partners = reverse_batch(images, axis)

    def mixup(_: None) -> tuple[jax.Array, jax.Array]:
        weight = jax.random.beta(weight_key, options.mixup, options.mixup)
        weight = jnp.where(is_mixed, weight, 1)
        return weight * images + (1 - weight) * partners, weight

    def cutmix(_: None) -> tuple[jax.Array, jax.Array]:
        weight = jax.random.beta(weight_key, options.cutmix, options.cutmix)
        size = (images.shape[1], images.shape[2])
        box = cutmix_box(box_key, jnp.where(is_mixed, weight, 1), size)
        # The fraction of pixels that are kept, as the border may cut off a part of the box.
        weight = 1 - jnp.sum(box, dtype=jnp.float32) / box.size
        return jnp.where(box[..., None], partners, images), weight

    methods: list[Callable[[None], tuple[jax.Array, jax.Array]]] = []
    methods += [mixup] if options.mixup else []
    methods += [cutmix] if options.cutmix else []
    choice = jax.random.bernoulli(choice_key, options.cutmix_probability).astype(jnp.int32)
    mixed, weight = methods[0](None) if len(methods) == 1 else jax.lax.switch(choice, methods, None)
    return mixed, reverse_batch(labels, axis), jnp.full(labels.shape, weight)


def cutmix_box(
    key: Key[Array, ""], weight: Float32[Array, ""], size: tuple[int, int]
) -> Bool[Array, "height width"]:
    """Returns the pixels that CutMix takes from the partner, section 3.1 of the paper.

    The box has the image's aspect ratio and the area `1 - weight` before its parts outside the
    image are cut off. Its center is a random pixel.

    Args:
      key: random key.
      weight: weight of the image, in 0..1.
      size: height and width of the image.
    """
    side = jnp.sqrt(1 - weight)
    sizes = jnp.floor(jnp.array(size) * side).astype(jnp.int32)
    centers = jax.random.randint(key, (2,), 0, jnp.array(size))
    starts = centers - sizes // 2
    return rectangles(starts[None], (starts + sizes)[None], size)[0]


def reverse_batch(
    batch: Shaped[Array, "*shape"], axis: str | None = None
) -> Shaped[Array, "*shape"]:
    """Reverses the order of a batch that is sharded over devices; returns the shard of this device.

    Args:
      batch: shard of this device.
      axis: mapped axis over which the batch is sharded; None if it is not.
    """
    if axis is not None:
        last = jax.lax.axis_size(axis) - 1
        mirrored = [(device, last - device) for device in range(last + 1)]
        batch = jax.lax.ppermute(batch, axis, mirrored)
    return batch[::-1]
