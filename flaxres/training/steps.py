"""Training and evaluation steps: pure functions of a state and a batch.

Each is written for one device and its part of a batch. `axis` names the axis of the devices that
share the batch (`flaxres.parallel.sharding`); what the steps return is the same on all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from flaxres.data.augment import augment, normalize, pca_color_augmentation
from flaxres.models.norms import pool_running_statistics
from flaxres.training.fine_tuning import frozen_params_are_constants, keep_frozen, update_params
from flaxres.training.metrics import MetricSums, TrainMetrics
from flaxres.training.optimizer import learning_rate
from flaxres.training.train_state import AUGMENT_STREAM, COLOUR_STREAM, DROPOUT_STREAM, TrainState


@struct.dataclass
class DeviceData:
    """A split on the device; or batches, with an axis for them before that of the images.

    Attributes:
      images: uint8 (n, height, width, channels).
      labels: int32 (n,).
      mean: float32 (height, width, channels), of the training split.
    """

    images: jax.Array
    labels: jax.Array
    mean: jax.Array


TrainStep = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, MetricSums]]
TrainSteps = Callable[[TrainState, DeviceData, jax.Array], tuple[TrainState, TrainMetrics]]
Evaluate = Callable[[TrainState, DeviceData, jax.Array], MetricSums]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    axis: str | None = None,
) -> TrainStep:
    """Returns `train_step(state, images, labels) -> (state, sums)` on normalised images.

    It augments, differentiates the mean cross-entropy and updates parameters, batch statistics,
    momentum and schedule. `sums` are the metrics of this batch, as seen in training: augmented
    images, smoothed labels, batch statistics, parameters before the update. L2 is in the gradient,
    not in the loss. Layers that are frozen (`flaxres.training.fine_tuning`) stay as they are.

    Batch norm normalises by the statistics of the devices' joined batch or of each device's part,
    as the model was built; the running statistics are those of the joined batch either way.
    """

    def train_step(state: TrainState, images: jax.Array, labels: jax.Array):
        loss_fn = make_loss(model, config, state, images, labels, axis)
        gradients, (losses, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
        sums = MetricSums.from_batch(losses, logits, labels, jnp.ones(labels.shape, bool))
        if axis is not None:
            gradients = jax.lax.pmean(gradients, axis)
            sums = jax.lax.psum(sums, axis)
            if config.bn_scope == "device":
                batch_stats = pool_running_statistics(batch_stats, axis, config.model.norm_momentum)
        rate = learning_rate(config, state.step, state.warmup)
        velocity, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=update_params(config, state.params, velocity, rate),
            batch_stats=keep_frozen(config, state.batch_stats, batch_stats),
            opt_state=opt_state,
            warmup=state.warmup.update(config, state.step, sums.wrong, sums.count),
            sums=_since_last_log(config, state) + sums,
            learning_rate=rate,
        )
        return state, sums

    return train_step


def make_loss(
    model: nn.Module,
    config: ConfigDict,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    axis: str | None = None,
) -> Callable[[dict], tuple[jax.Array, tuple[jax.Array, jax.Array, dict]]]:
    """Returns the function of the parameters that the step after `state` differentiates.

    `loss(params) -> (mean, (losses, logits, batch_stats))`: cross-entropy, mean and each, of the
    device's normalised `images`, which are augmented here; and the updated running statistics.
    """
    dropout_key = state.key(DROPOUT_STREAM)
    if axis is not None:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis))
    key, options = state.key(AUGMENT_STREAM), config.augment
    if options.color:  # before the crop, so that what is padded has the mean colour
        images = pca_color_augmentation(state.key(COLOUR_STREAM), images, options, axis)
    pad = options.pad if options.crop == "pad" else 0  # others are made with the images
    images = augment(key, images, pad=pad, flip=options.flip, axis=axis)

    def loss(params: dict):
        params = frozen_params_are_constants(config, params)
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


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of each image with labels that give some of their weight to all classes.

    Szegedy et al. 2016 (arXiv 1512.00567), section 7: (1 - smoothing) times that of the label, plus
    smoothing times the mean over all classes.

    Args:
      logits: float32 (batch, classes).
      labels: int32 (batch,).
      smoothing: from 0, for the plain cross-entropy, to below 1.

    Returns:
      float32 (batch,).
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not smoothing:
        return losses
    evenly = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return (1 - smoothing) * losses + smoothing * evenly


def _since_last_log(config: ConfigDict, state: TrainState) -> MetricSums:
    """The state's sums, or none if a record was written after the last step."""
    logged = (state.step % config.log_every == 0) | (state.step % config.eval_every == 0)
    return jax.tree.map(lambda total: jnp.where(logged, jnp.zeros_like(total), total), state.sums)


def make_train_steps(train_step: TrainStep) -> TrainSteps:
    """Returns `train_steps(state, arrays, indices) -> (state, metrics)`: many steps, one dispatch.

    `indices`, int32 (steps, images of this device), say which images of `arrays` make the batches.
    `metrics` are those of the state after the last step, in memory of their own.

    A single step is not put into a loop: XLA's CPU backend runs convolutions inside loops many
    times slower than outside.
    """

    def one(state: TrainState, arrays: DeviceData, rows: jax.Array) -> TrainState:
        images = normalize(arrays.images[rows], arrays.mean)
        return train_step(state, images, arrays.labels[rows])[0]

    def train_steps(state: TrainState, arrays: DeviceData, indices: jax.Array):
        if len(indices) == 1:
            state = one(state, arrays, indices[0])
        else:
            state, _ = jax.lax.scan(lambda s, rows: (one(s, arrays, rows), None), state, indices)
        return state, TrainMetrics(state.sums, state.learning_rate)

    return train_steps


def is_batched(arrays: DeviceData) -> bool:
    """Whether these are batches, and not a split."""
    return arrays.labels.ndim > 1


def on_flat_batches(function: Callable) -> Callable:
    """Makes a function of a split one of batches, each device having its own part of them.

    `function(state, arrays, rows)` then takes images (batches, images of this device, ...), and
    `rows` that count them through all batches.
    """

    def own(state: TrainState, arrays: DeviceData, rows: jax.Array):
        images = arrays.images.reshape(-1, *arrays.images.shape[-3:])
        return function(state, arrays.replace(images=images, labels=arrays.labels.ravel()), rows)

    return own


def make_evaluate(model: nn.Module, axis: str | None = None) -> Evaluate:
    """Returns `evaluate(state, arrays, rows) -> sums` over the images `rows` of a split.

    Running statistics, no augmentation. `rows`, int32 (batches, images of this device), may be
    filled up with -1, which counts for nothing.
    """

    def one(state: TrainState, arrays: DeviceData, rows: jax.Array) -> MetricSums:
        images = normalize(arrays.images[rows], arrays.mean)
        labels = arrays.labels[rows]
        logits = model.apply(state.variables, images, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return MetricSums.from_batch(losses, logits, labels, rows >= 0)

    def evaluate(state: TrainState, arrays: DeviceData, rows: jax.Array) -> MetricSums:
        if len(rows) == 1:  # no loop, for the same reason as above
            sums = one(state, arrays, rows[0])
        else:
            sums = MetricSums.zeros()
            sums, _ = jax.lax.scan(
                lambda s, batch: (s + one(state, arrays, batch), None), sums, rows
            )
        return sums if axis is None else jax.lax.psum(sums, axis)

    return evaluate
