"""Gradients of one training step: augmentation, loss, accumulation over micro-batches, and SAM.

The functions are written for one device and its shard of the batch. `axis` is the name of the
device axis over which the batch is sharded, or None on a single device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32
from ml_collections import ConfigDict

from flaxres.errors import ConfigError, counted
from flaxres.models.batch_norm import pool_running_statistics
from flaxres.models.layers import BATCH_POSITION, FIRST_IMAGE, SHARED_DROPOUT
from flaxres.training.augmented_batch import augment_batch
from flaxres.training.fine_tuning import stop_frozen_gradients
from flaxres.training.losses import Targets, image_losses
from flaxres.training.metrics import MetricSums
from flaxres.training.train_state import DROPOUT_STREAM, SHARED_DROPOUT_STREAM, TrainState

PyTree = Any

MICRO_BATCH_AXIS = "micro_batches"  # axis of the micro-batches of a device

Loss = Callable[[PyTree], tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]]


def check_micro_batches(config: ConfigDict, num_devices: int) -> None:
    """Checks that `config.accumulation_steps` divides the batch of each device.

    Raises:
      ConfigError: it does not.
    """
    device_batch = config.batch_size // num_devices
    if device_batch % config.accumulation_steps:
        raise ConfigError(
            f"accumulation_steps must be a divisor of {device_batch:,}, the images of a batch on "
            f"each of {counted(num_devices, 'device')}, got {config.accumulation_steps:,}"
        )


def compute_gradients(
    model: nn.Module,
    config: ConfigDict,
    state: TrainState,
    images: Float[Array, "batch height width channels"],
    labels: Int32[Array, " batch"],
    axis: str | None = None,
) -> tuple[PyTree, MetricSums, PyTree]:
    """Returns gradients, metric sums and updated running statistics of the step after `state`.

    With `config.sam_radius` the gradients are those of sharpness-aware minimization
    (`perturb_params`): the second pass uses the same augmented images and the same dropout masks,
    and its metrics and statistics are discarded.

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
    gradient_fn = make_gradient_fn(model, config, state, images, targets, axis)
    gradients, (losses, logits, batch_stats) = gradient_fn(state.params)
    counted = jnp.ones(labels.shape, bool)
    sums = MetricSums.from_batch(losses, logits, targets.main_labels, counted)
    if axis is not None:
        gradients = jax.lax.pmean(gradients, axis)
        sums = sums.sum_over_devices(axis)
        if config.bn_scope == "device":
            batch_stats = pool_running_statistics(batch_stats, axis, config.model.norm_momentum)
    if config.sam_radius:
        gradients, _ = gradient_fn(perturb_params(state.params, gradients, config.sam_radius))
        if axis is not None:
            gradients = jax.lax.pmean(gradients, axis)
    return gradients, sums, batch_stats


def perturb_params(params: PyTree, gradients: PyTree, radius: float) -> PyTree:
    """Returns the parameters at which sharpness-aware minimization computes its gradients.

    Foret et al. 2021 (arXiv 2010.01412), equation 2 with p = 2: w + radius * g / ||g||, where the
    norm is that of all parameters together. If all gradients are zero, it is w.

    Args:
      params: parameters of the model, float32.
      gradients: gradients of the loss, without weight decay, in the structure of `params`.
      radius: rho of the paper, the L2 norm of the perturbation.
    """
    # Not `optax.global_norm`, which optax is renaming.
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradients)))
    scale = jnp.where(norm > 0, radius / jnp.where(norm > 0, norm, 1), 0)
    return jax.tree.map(lambda w, g: w + scale * g, params, gradients)


def make_gradient_fn(
    model: nn.Module,
    config: ConfigDict,
    state: TrainState,
    images: Float[Array, "batch height width channels"],
    targets: Targets,
    axis: str | None = None,
) -> Callable[[PyTree], tuple[PyTree, tuple[jax.Array, jax.Array, PyTree]]]:
    """Returns the function that computes the gradients of an augmented batch on this device.

    With `config.accumulation_steps` of k > 1, the images of the device are processed as k
    micro-batches, one after the other, and their gradients are averaged. Batch norm then normalizes
    by the statistics of each micro-batch. Running statistics are pooled over the micro-batches, as
    over devices (`pool_running_statistics`), so they equal those of the whole batch.

    Args:
      model: the model.
      config: config of the run.
      state: state before the step.
      images: float32 (batch, height, width, channels), augmented images of this device.
      targets: labels of the images; each of its arrays has a leading axis for them.
      axis: name of the device axis; None on a single device.

    Returns:
      `gradient_fn(params) -> (gradients, (losses, logits, batch_stats))`: gradients of the mean
      loss, loss and logits of each image, and the updated running statistics.
    """
    num_micro_batches = config.accumulation_steps
    if num_micro_batches == 1:
        loss_fn = make_batch_loss(model, config, state, images, targets, _shard_number(axis))
        return jax.grad(loss_fn, has_aux=True)

    # Micro-batches are numbered like the shards of as many devices, also in their dropout masks.
    first_micro_batch = 0 if axis is None else num_micro_batches * jax.lax.axis_index(axis)
    numbers = first_micro_batch + jnp.arange(num_micro_batches)
    divided = jax.tree.map(
        lambda leaf: leaf.reshape(num_micro_batches, -1, *leaf.shape[1:]), (images, targets)
    )
    micro_batches = (numbers, *divided)

    def accumulate(params: PyTree) -> tuple[PyTree, tuple[jax.Array, jax.Array, PyTree]]:
        def add_micro_batch(total: PyTree, micro_batch: PyTree) -> tuple[PyTree, PyTree]:
            number, micro_images, micro_targets = micro_batch
            loss_fn = make_batch_loss(model, config, state, micro_images, micro_targets, number)
            gradients, auxiliary = jax.grad(loss_fn, has_aux=True)(params)
            return jax.tree.map(jnp.add, total, gradients), auxiliary

        zeros = jax.tree.map(jnp.zeros_like, params)
        total, (losses, logits, batch_stats) = jax.lax.scan(add_micro_batch, zeros, micro_batches)
        gradients = jax.tree.map(lambda leaf: leaf / num_micro_batches, total)
        logits = logits.reshape(-1, logits.shape[-1])
        batch_stats = _pool_micro_batches(batch_stats, config.model.norm_momentum)
        return gradients, (losses.reshape(-1), logits, batch_stats)

    return accumulate


def _shard_number(axis: str | None) -> Int32[Array, ""] | None:
    """Returns the index of this device on the device axis; None on a single device."""
    return None if axis is None else jax.lax.axis_index(axis)


def _pool_micro_batches(batch_stats: PyTree, momentum: float) -> PyTree:
    """Pools the running statistics of micro-batches, which are stacked on a leading axis."""
    if not jax.tree.leaves(batch_stats):
        return batch_stats
    pool = functools.partial(pool_running_statistics, axis=MICRO_BATCH_AXIS, momentum=momentum)
    return jax.vmap(pool, out_axes=None, axis_name=MICRO_BATCH_AXIS)(batch_stats)


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
    return make_batch_loss(model, config, state, images, targets, _shard_number(axis))


def make_batch_loss(
    model: nn.Module,
    config: ConfigDict,
    state: TrainState,
    images: Float[Array, "batch height width channels"],
    targets: Targets,
    shard: Int32[Array, ""] | None = None,
) -> Loss:
    """Returns the loss of an augmented batch as a function of the parameters.

    Args:
      model: the model.
      config: config of the run.
      state: state before the step.
      images: float32 (batch, height, width, channels), augmented images of one shard.
      targets: labels of the images; each of its arrays has a leading axis for them.
      shard: number of the shard of the batch that `images` are, over devices and micro-batches. Its
        dropout masks are a function of it. None if they are the whole batch.

    Returns:
      `loss(params) -> (mean, (losses, logits, batch_stats))`: mean loss, loss and logits of each
      image, and the updated running statistics.
    """
    dropout_key = state.key(DROPOUT_STREAM)
    rngs = {"dropout": dropout_key, SHARED_DROPOUT: state.key(SHARED_DROPOUT_STREAM)}
    variables: PyTree = {"batch_stats": state.batch_stats}
    if shard is not None:
        rngs["dropout"] = jax.random.fold_in(dropout_key, shard)
        variables[BATCH_POSITION] = {FIRST_IMAGE: shard * len(images)}

    def loss(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]:
        params = stop_frozen_gradients(config, params)
        logits, updated = model.apply(
            {"params": params, **variables},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs=rngs,
        )
        losses = image_losses(config, logits, targets)
        return jnp.mean(losses), (losses, logits, updated.get("batch_stats", {}))

    return loss
