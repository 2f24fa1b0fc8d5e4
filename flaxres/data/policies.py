"""Augmentation policies: random sequences of operations for each image, drawn on the device.

RandAugment (Cubuk et al. 2020, arXiv 1909.13719), TrivialAugment in its wide search space (Müller
and Hutter 2021, arXiv 2103.10158) and AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019, arXiv
1805.09501, table 7). Ranges and random numbers are those of torchvision's classes of these names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Key, UInt8
from ml_collections import ConfigDict

from flaxres.data.augment import draw_for_device
from flaxres.data.image_operations import OPERATIONS, apply_operations

MAX_MAGNITUDE = 30  # torchvision's scale: 31 magnitudes, of which the last has the full strength
MAX_AUTOAUGMENT_MAGNITUDE = 9  # AutoAugment's scale: 10 magnitudes
NUM_DRAWN = OPERATIONS.index("invert")  # RandAugment and TrivialAugment do not invert
SIGNED = np.isin(OPERATIONS, OPERATIONS[1:10])  # geometric operations and blends

# AutoAugment's policy for CIFAR-10: 25 pairs of (operation, probability, magnitude).
AUTOAUGMENT_CIFAR10 = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate-x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear-y", 0.5, 8), ("translate-y", 0.7, 9)),
    (("auto-contrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear-y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate-x", 0.5, 8)),
    (("equalize", 0.3, 0), ("auto-contrast", 0.4, 0)),
    (("translate-y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("auto-contrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("auto-contrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("auto-contrast", 0.9, 0)),
    (("translate-y", 0.9, 9), ("translate-y", 0.7, 9)),
    (("auto-contrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate-y", 0.7, 9), ("auto-contrast", 0.9, 0)),
)

Draws = tuple[Int32[Array, "batch slots"], Float32[Array, "batch slots"]]


def apply_policy(
    key: Key[Array, ""],
    images: UInt8[Array, "batch height width channels"],
    options: ConfigDict,
    axis: str | None = None,
) -> UInt8[Array, "batch height width channels"]:
    """Applies the operations of a policy to each image.

    Args:
      key: random key, the same on all devices.
      images: images on this device.
      options: `config.augment`, whose `policy` is not 'none'.
      axis: mapped axis over which the batch is sharded; None if it is not.
    """
    operations, values = POLICIES[options.policy](key, images.shape, options, axis)
    return apply_operations(images, operations, values, options.policy_fill)


def operation_values(
    operations: Int32[Array, "batch slots"],
    strengths: Float32[Array, "batch slots"],
    is_negative: Array,
    shape: tuple[int, ...],
    wide: bool,
) -> Float32[Array, "batch slots"]:
    """Returns the argument of each operation.

    Args:
      operations: indices into `OPERATIONS`.
      strengths: magnitude of each operation over the largest magnitude, 0..1.
      is_negative: bool (batch, slots), direction of operations that have two.
      shape: shape of the images; RandAugment and AutoAugment translate by a part of their size.
      wide: if True, uses the ranges of TrivialAugment.
    """
    first, last = np.zeros((2, len(OPERATIONS)), np.float32)
    _, height, width, _ = shape
    shear, degrees, blending, bits = (0.99, 135, 0.99, 6) if wide else (0.3, 30, 0.9, 4)
    # AutoAugment translates its ImageNet crops of 331 pixels by up to 150 pixels.
    pixels = (32, 32) if wide else (150 / 331 * width, 150 / 331 * height)
    blends = ("brightness", "color", "contrast", "sharpness")
    ranges = {
        **{"shear-x": (0, shear), "shear-y": (0, shear)},
        **{"translate-x": (0, pixels[0]), "translate-y": (0, pixels[1])},
        **{"rotate": (0, degrees)},
        **dict.fromkeys(blends, (0, blending)),
        **{"posterize": (8, 8 - bits), "solarize": (255, 0)},
    }
    for name, limits in ranges.items():
        first[OPERATIONS.index(name)], last[OPERATIONS.index(name)] = limits
    values = jnp.asarray(first)[operations] + strengths * jnp.asarray(last - first)[operations]
    removed_bits = jnp.round(bits * strengths)
    values = jnp.where(operations == OPERATIONS.index("posterize"), 8 - removed_bits, values)
    return jnp.where(jnp.asarray(SIGNED)[operations] & is_negative, -values, values)


def draw_randaugment(
    key: Key[Array, ""], shape: tuple[int, ...], options: ConfigDict, axis: str | None = None
) -> Draws:
    """Draws `policy_operations` operations of one magnitude for each image.

    Each one takes place with the probability `policy_probability`. The magnitude varies by a
    Gaussian random number if `policy_magnitude_std` is not 0, as in timm.
    """
    operation_key, sign_key, apply_key, magnitude_key = jax.random.split(key, 4)
    slots = (shape[0], options.policy_operations)
    draw = functools.partial(jax.random.randint, minval=0, maxval=NUM_DRAWN)
    operations = draw_for_device(draw, operation_key, slots, axis)
    is_negative = draw_for_device(jax.random.bernoulli, sign_key, slots, axis)
    magnitudes = jnp.full(slots, options.policy_magnitude, jnp.float32)
    if options.policy_magnitude_std:
        normal = draw_for_device(jax.random.normal, magnitude_key, slots, axis)
        magnitudes = jnp.clip(magnitudes + options.policy_magnitude_std * normal, 0, MAX_MAGNITUDE)
    if options.policy_probability < 1:
        uniform = draw_for_device(jax.random.uniform, apply_key, slots, axis)
        identity = OPERATIONS.index("identity")
        operations = jnp.where(uniform < options.policy_probability, operations, identity)
    strengths = magnitudes / MAX_MAGNITUDE
    return operations, operation_values(operations, strengths, is_negative, shape, wide=False)


def draw_trivial_augment(
    key: Key[Array, ""], shape: tuple[int, ...], options: ConfigDict, axis: str | None = None
) -> Draws:
    """Draws one operation for each image, with a magnitude of its own."""
    del options
    operation_key, sign_key, magnitude_key = jax.random.split(key, 3)
    slots = (shape[0], 1)
    draw = functools.partial(jax.random.randint, minval=0, maxval=NUM_DRAWN)
    operations = draw_for_device(draw, operation_key, slots, axis)
    is_negative = draw_for_device(jax.random.bernoulli, sign_key, slots, axis)
    draw = functools.partial(jax.random.randint, minval=0, maxval=MAX_MAGNITUDE + 1)
    strengths = draw_for_device(draw, magnitude_key, slots, axis) / MAX_MAGNITUDE
    return operations, operation_values(operations, strengths, is_negative, shape, wide=True)


def draw_autoaugment_cifar10(
    key: Key[Array, ""], shape: tuple[int, ...], options: ConfigDict, axis: str | None = None
) -> Draws:
    """Draws one of AutoAugment's pairs for each image; each operation has its probability."""
    del options
    pair_key, sign_key, apply_key = jax.random.split(key, 3)
    draw = functools.partial(jax.random.randint, minval=0, maxval=len(AUTOAUGMENT_CIFAR10))
    pairs = draw_for_device(draw, pair_key, (shape[0],), axis)
    slots = (shape[0], 2)
    is_negative = draw_for_device(jax.random.bernoulli, sign_key, slots, axis)
    uniform = draw_for_device(jax.random.uniform, apply_key, slots, axis)
    table = [[(OPERATIONS.index(name), p, m) for name, p, m in x] for x in AUTOAUGMENT_CIFAR10]
    operations, probabilities, magnitudes = np.moveaxis(np.array(table, np.float32), 2, 0)
    is_applied = uniform < jnp.asarray(probabilities)[pairs]
    chosen = jnp.asarray(operations, jnp.int32)[pairs]
    chosen = jnp.where(is_applied, chosen, OPERATIONS.index("identity"))
    strengths = jnp.asarray(magnitudes)[pairs] / MAX_AUTOAUGMENT_MAGNITUDE
    return chosen, operation_values(chosen, strengths, is_negative, shape, wide=False)


POLICIES: dict[str, Callable[..., Draws]] = {
    "randaugment": draw_randaugment,
    "trivial-augment": draw_trivial_augment,
    "autoaugment-cifar10": draw_autoaugment_cifar10,
}
