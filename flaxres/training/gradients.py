"""Gradients of one training step: augmentation, loss, and averages over devices.

The functions are written for one device and its shard of the batch. `axis` is the name of the
device axis over which the batch is sharded, or None on a single device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32
from ml_collections import ConfigDict

from flaxres.models.norms import pool_running_statistics
from flaxres.training.augmented_batch import augment_batch
from flaxres.training.fine_tuning import stop_frozen_gradients
from flaxres.training.losses import Targets, image_losses
from flaxres.training.metrics import MetricSums
from flaxres.training.train_state import DROPOUT_STREAM, TrainState

PyTree = Any

Loss = Callable[[PyTree], tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]]


def compute_gradients(
    model: nn.Module,
    config: ConfigDict,
    state: TrainState,
    images: Float[Array, "batch height width channels"],
    labels: Int32[Array, " batch"],
    axis: str | None = None,
) -> tuple[PyTree, MetricSums, PyTree]:
    """Returns the gradients of the step after `state`, the metrics of its batch and its statistics.

    Args:
      model: the model.
      config: config of the run.
      state: state before the step.
      images: float32 (batch, height, width, channels), normalized images of this device.
      labels: int32 (batch,).
      axis: name of the device axis; None on a single device.

    Returns:
      `(gradients, sums, batch_stats)`, equal on all devices: gradients of the mean loss over the
      whole batch, without weight decay; loss and errors of the whole batch; and the updated running
      statistics.
    """
    images, targets = augment_batch(config, state, images, labels, axis)
    loss_fn = make_batch_loss(model, config, state, images, targets, axis)
    gradients, (losses, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    counted = jnp.ones(labels.shape, bool)
    sums = MetricSums.from_batch(losses, logits, targets.main_labels, counted)
    if axis is not None:
        gradients = jax.lax.pmean(gradients, axis)
        sums = sums.sum_over_devices(axis)
        if config.bn_scope == "device":
            batch_stats = pool_running_statistics(batch_stats, axis, config.model.norm_momentum)
    return gradients, sums, batch_stats


def make_loss(
    model: nn.Module,
    config: ConfigDict,
    state: TrainState,
    images: Float[Array, "batch height width channels"],
    labels: Int32[Array, " batch"],
    axis: str | None = None,
) -> Loss:
    """Returns the loss that the step after `state` differentiates, as a function of the parameters.

    Args:
      model: the model.
      config: config of the run.
      state: state before the step.
      images: float32 (batch, height, width, channels), normalized images of this device. They are
        augmented here.
      labels: int32 (batch,).
      axis: name of the device axis; None on a single device.

    Returns:
      The loss, as `make_batch_loss` returns it.
    """
    images, targets = augment_batch(config, state, images, labels, axis)
    return make_batch_loss(model, config, state, images, targets, axis)


def make_batch_loss(
    model: nn.Module,
    config: ConfigDict,
    state: TrainState,
    images: Float[Array, "batch height width channels"],
    targets: Targets,
    axis: str | None = None,
) -> Loss:
    """Returns the loss of an augmented batch as a function of the parameters.

    Args:
      model: the model.
      config: config of the run.
      state: state before the step.
      images: float32 (batch, height, width, channels), augmented images of this device.
      targets: labels of the images; each of its arrays has a leading axis for them.
      axis: name of the device axis; None on a single device.

    Returns:
      `loss(params) -> (mean, (losses, logits, batch_stats))`: mean loss, loss and logits of each
      image, and the updated running statistics.
    """
    dropout_key = state.key(DROPOUT_STREAM)
    if axis is not None:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis))

    def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]:
        params = stop_frozen_gradients(config, params)
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        losses = image_losses(config, logits, targets)
        return jnp.mean(losses), (losses, logits, updated.get("batch_stats", {}))

    return loss
