"""Augmentation of a training batch: every random number is a function of (seed, stream, step)."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int32, UInt8
from ml_collections import ConfigDict

from flaxres.data.augment import augment, pca_color_augmentation
from flaxres.data.erasing import erase
from flaxres.data.mixing import mix, mixes
from flaxres.data.policies import apply_policy
from flaxres.training.losses import Targets
from flaxres.training.train_state import (
    AUGMENT_STREAM,
    COLOR_STREAM,
    ERASING_STREAM,
    MIXING_STREAM,
    POLICY_STREAM,
    TrainState,
)

UInt8Images = UInt8[Array, "batch height width channels"]
PixelAugmentation = Callable[[TrainState, UInt8Images], UInt8Images]


def keep_pixels(state: TrainState, images: UInt8Images) -> UInt8Images:
    """Returns the images as they are."""
    del state
    return images


def pixel_augmentation(config: ConfigDict, axis: str | None = None) -> PixelAugmentation:
    """Returns the augmentation of images before they are normalized: `config.augment.policy`.

    Args:
      config: config of the run.
      axis: name of the device axis; None on a single device.

    Returns:
      `augment_pixels(state, images) -> images`, for the images of this device and the state before
      the step.
    """
    if config.augment.policy == "none":
        return keep_pixels

    def augment_pixels(state: TrainState, images: UInt8Images) -> UInt8Images:
        return apply_policy(state.key(POLICY_STREAM), images, config.augment, axis)

    return augment_pixels


def augment_batch(
    config: ConfigDict,
    state: TrainState,
    images: Float[Array, "batch height width channels"],
    labels: Int32[Array, " batch"],
    axis: str | None = None,
) -> tuple[Float[Array, "batch height width channels"], Targets]:
    """Augments the batch of the step after `state`.

    Policies come before, on uint8 images. The order is that of AutoAugment's CIFAR code: policy,
    crop and flip, then erasing (github.com/tensorflow/models, research/autoaugment/data_utils.py).
    Mixing is last.

    Args:
      config: config of the run.
      state: state before the step.
      images: float32 (batch, height, width, channels), normalized images of this device.
      labels: int32 (batch,).
      axis: name of the device axis; None on a single device.

    Returns:
      Augmented images and their targets.
    """
    key: jax.Array = state.key(AUGMENT_STREAM)
    options = config.augment
    if options.color:  # before the crop, so that its padding keeps the mean color
        images = pca_color_augmentation(state.key(COLOR_STREAM), images, options, axis)
    pad = options.pad if options.crop == "pad" else 0  # other crops are made while decoding
    images = augment(key, images, pad=pad, flip=options.flip, axis=axis)
    if options.erasing_probability or options.cutout:
        images = erase(state.key(ERASING_STREAM), images, options, axis)
    if not mixes(options):
        return images, Targets(labels)
    mixed, partner_labels, weights = mix(state.key(MIXING_STREAM), images, labels, options, axis)
    return mixed, Targets(labels, partner_labels, weights)
