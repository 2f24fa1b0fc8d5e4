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
import optax
from jaxtyping import Array, Float, Int32
from ml_collections import ConfigDict

from flaxres.data.augment import augment, pca_color_augmentation
from flaxres.models.norms import pool_running_statistics
from flaxres.training.fine_tuning import stop_frozen_gradients
from flaxres.training.metrics import MetricSums
from flaxres.training.train_state import AUGMENT_STREAM, COLOR_STREAM, DROPOUT_STREAM, TrainState

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
    loss_fn = make_loss(model, config, state, images, labels, axis)
    gradients, (losses, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    sums = MetricSums.from_batch(losses, logits, labels, jnp.ones(labels.shape, bool))
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
      `loss(params) -> (mean, (losses, logits, batch_stats))`: mean cross-entropy, cross-entropy and
      logits of each image, and the updated running statistics.
    """
    dropout_key = state.key(DROPOUT_STREAM)
    if axis is not None:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis))
    key, options = state.key(AUGMENT_STREAM), config.augment
    if options.color:  # before the crop, so that its padding keeps the mean color
        images = pca_color_augmentation(state.key(COLOR_STREAM), images, options, axis)
    pad = options.pad if options.crop == "pad" else 0  # other crops are made while decoding
    images = augment(key, images, pad=pad, flip=options.flip, axis=axis)

    def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]:
        params = stop_frozen_gradients(config, params)
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        losses = cross_entropy(logits, labels, config.label_smoothing)
        return jnp.mean(losses), (losses, logits, updated.get("batch_stats", {}))

    return loss


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int32[Array, " batch"], smoothing: float = 0.0
) -> Float[Array, " batch"]:
    """Returns the cross-entropy of each image, with label smoothing.

    Szegedy et al. 2016 (arXiv 1512.00567), section 7: (1 - smoothing) times the cross-entropy of
    the label, plus smoothing times the mean over all classes.

    Args:
      logits: float32 (batch, classes).
      labels: int32 (batch,).
      smoothing: weight given to the uniform distribution, in [0, 1).

    Returns:
      float32 (batch,), in nats.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not smoothing:
        return losses
    uniform_losses = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return (1 - smoothing) * losses + smoothing * uniform_losses
