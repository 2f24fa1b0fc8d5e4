"""Training and evaluation steps: pure functions of a state and a batch.

Each is written for one device and its part of a batch. `axis` names the axis of the devices that
share the batch (`flaxres.devices`); what the steps return is the same on all of them.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from flaxres.data.augment import augment, normalise
from flaxres.metrics import Sums, TrainMetrics
from flaxres.models.norms import pool_running_statistics
from flaxres.optim import learning_rate
from flaxres.state import AUGMENT_STREAM, DROPOUT_STREAM, TrainState


@struct.dataclass
class Arrays:
    """A split on the device.

    Attributes:
      images: uint8 (n, height, width, channels).
      labels: int32 (n,).
      mean: float32 (height, width, channels), of the training split.
    """

    images: jax.Array
    labels: jax.Array
    mean: jax.Array


TrainStep = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Sums]]
TrainSteps = Callable[[TrainState, Arrays, jax.Array], tuple[TrainState, TrainMetrics]]
Evaluate = Callable[[TrainState, Arrays, jax.Array], Sums]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    axis: str | None = None,
) -> TrainStep:
    """Returns `train_step(state, images, labels) -> (state, sums)` on normalised images.

    It augments, differentiates the mean cross-entropy and updates parameters, batch statistics,
    momentum and schedule. `sums` are the metrics of this batch, as seen in training: augmented
    images, batch statistics, parameters before the update. L2 is in the gradient, not in the loss.

    Batch norm normalises by the statistics of the devices' joined batch or of each device's part,
    as the model was built; the running statistics are those of the joined batch either way.
    """

    def train_step(state: TrainState, images: jax.Array, labels: jax.Array):
        loss_fn = make_loss(model, config, state, images, labels, axis)
        gradients, (losses, logits, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
        sums = Sums.of(losses, logits, labels, jnp.ones(labels.shape, bool))
        if axis is not None:
            gradients = jax.lax.pmean(gradients, axis)
            sums = jax.lax.psum(sums, axis)
            if config.bn_scope == "device":
                batch_stats = pool_running_statistics(batch_stats, axis, config.model.norm_momentum)
        rate = learning_rate(config, state.step, state.warmup)
        velocity, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=jax.tree.map(lambda w, v: w - rate * v, state.params, velocity),
            batch_stats=batch_stats,
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
    images = augment(key, images, pad=options.pad, flip=options.flip, axis=axis)

    def loss(params: dict):
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), (losses, logits, updated.get("batch_stats", {}))

    return loss


def _since_last_log(config: ConfigDict, state: TrainState) -> Sums:
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

    def one(state: TrainState, arrays: Arrays, rows: jax.Array) -> TrainState:
        images = normalise(arrays.images[rows], arrays.mean)
        return train_step(state, images, arrays.labels[rows])[0]

    def train_steps(state: TrainState, arrays: Arrays, indices: jax.Array):
        if len(indices) == 1:
            state = one(state, arrays, indices[0])
        else:
            state, _ = jax.lax.scan(lambda s, rows: (one(s, arrays, rows), None), state, indices)
        return state, TrainMetrics(state.sums, state.learning_rate)

    return train_steps


def make_evaluate(model: nn.Module, axis: str | None = None) -> Evaluate:
    """Returns `evaluate(state, arrays, rows) -> sums` over the images `rows` of a split.

    Running statistics, no augmentation. `rows`, int32 (batches, images of this device), may be
    filled up with -1, which counts for nothing.
    """

    def one(state: TrainState, arrays: Arrays, rows: jax.Array) -> Sums:
        images = normalise(arrays.images[rows], arrays.mean)
        labels = arrays.labels[rows]
        logits = model.apply(state.variables, images, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return Sums.of(losses, logits, labels, rows >= 0)

    def evaluate(state: TrainState, arrays: Arrays, rows: jax.Array) -> Sums:
        if len(rows) == 1:  # no loop, for the same reason as above
            sums = one(state, arrays, rows[0])
        else:
            sums = Sums.zeros()
            sums, _ = jax.lax.scan(
                lambda s, batch: (s + one(state, arrays, batch), None), sums, rows
            )
        return sums if axis is None else jax.lax.psum(sums, axis)

    return evaluate
