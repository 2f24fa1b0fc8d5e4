"""Augmentation of a training batch: every random number is a function of (seed, stream, step)."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float, Int32
from ml_collections import ConfigDict

from flaxres.data.augment import augment, pca_color_augmentation
from flaxres.training.losses import Targets
from flaxres.training.train_state import AUGMENT_STREAM, COLOR_STREAM, TrainState


def augment_batch(
    config: ConfigDict,
    state: TrainState,
    images: Float[Array, "batch height width channels"],
    labels: Int32[Array, " batch"],
    axis: str | None = None,
) -> tuple[Float[Array, "batch height width channels"], Targets]:
    """Augments the batch of the step after `state`.

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
    return images, Targets(labels)
