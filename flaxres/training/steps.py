"""Training and evaluation steps: pure functions of a train state and a batch.

Each step is written for one device and its shard of the batch. `axis` is the name of the device
axis over which the batch is sharded (`flaxres.parallel.sharding`), or None on a single device. All
devices return the same values.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Float32, Int32, UInt8
from ml_collections import ConfigDict

from flaxres.data.augment import normalize
from flaxres.training.augmented_batch import PixelAugmentation, keep_pixels
from flaxres.training.fine_tuning import keep_frozen, update_params
from flaxres.training.gradients import compute_gradients
from flaxres.training.layer_decay import learning_rate_factors
from flaxres.training.learning_rate import learning_rate
from flaxres.training.metrics import Leaf, MetricSums, TrainMetrics
from flaxres.training.train_state import TrainState
from flaxres.training.weight_average import update_average

PyTree = Any


@struct.dataclass
class DeviceData:
    """Images and labels on the devices: a whole split, or streamed batches.

    The fields of a split have a leading axis for its n images. Those of batches have two leading
    axes: (batches, images of a batch). The same structure holds NumPy arrays before they are put on
    the devices, shape structs, and flags that say which fields are sharded.

    The pixels of an image are in one axis, because a TPU pads the last two axes of an array in
    memory, and would copy images with few channels into another layout in every dispatch.

    Attributes:
      images: uint8 (n, height * width * channels).
      labels: int32 (n,).
      mean: float32 (height, width, channels), mean image of the training split.
    """

    images: Leaf
    labels: Leaf
    mean: Leaf

    @classmethod
    def from_images(
        cls,
        images: UInt8[Array | np.ndarray, "*n height width channels"],
        labels: Int32[Array | np.ndarray, "*n"],
        mean: Float32[Array | np.ndarray, "height width channels"],
    ) -> DeviceData:
        """Returns the structure with the pixels of each image in one axis."""
        return cls(images.reshape(*labels.shape, -1), labels, mean)

    @classmethod
    def structs(cls, num_images: tuple[int, ...], image_shape: tuple[int, int, int]) -> DeviceData:
        """Returns shape structs of the arrays.

        Args:
          num_images: (n,) of a split, or (batches, images of a batch).
          image_shape: (height, width, channels).
        """
        return cls(
            images=jax.ShapeDtypeStruct((*num_images, math.prod(image_shape)), np.uint8),
            labels=jax.ShapeDtypeStruct(num_images, np.int32),
            mean=jax.ShapeDtypeStruct(image_shape, np.float32),
        )

    def batch(
        self,
        rows: Int32[Array | np.ndarray, " batch"],
        augment_pixels: Callable[[jax.Array], jax.Array] = lambda images: images,
    ) -> tuple[Float32[Array, "batch height width channels"], Int32[Array, " batch"]]:
        """Returns the normalized images and the labels with the given indices.

        Args:
          rows: int32 (batch,), indices of the images.
          augment_pixels: function of uint8 images, applied before they are normalized.
        """
        images = self.images[rows].reshape(len(rows), *self.mean.shape)
        return normalize(augment_pixels(images), self.mean), self.labels[rows]


# Inputs of a compiled step besides the train state: arrays, and int32 indices of the images of each
# batch in them. With several replicas, the indices have a leading axis for them.
StepInputs = tuple[DeviceData, Int32[np.ndarray, "*replicas steps batch_size"]]
TrainStep = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, MetricSums]]
TrainSteps = Callable[[TrainState, DeviceData, jax.Array], tuple[TrainState, TrainMetrics]]
Evaluate = Callable[[TrainState, DeviceData, jax.Array], MetricSums]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    axis: str | None = None,
) -> TrainStep:
    """Returns `train_step(state, images, labels) -> (state, sums)`, one step on normalized images.

    The step augments the images, differentiates the mean loss, and updates parameters, batch
    statistics, momentum and warm-up. `sums` are the metrics of this batch in training: with
    augmented images, smoothed and mixed labels, batch statistics, and the parameters before the
    update. The error of a mixed image counts the label with the larger weight.
    Weight decay is part of the gradient, not of the loss. Frozen layers do not change
    (`flaxres.training.fine_tuning`).

    Batch norm normalizes by statistics of the whole batch or of each device's shard, depending on
    how the model was built. In both cases the running statistics are those of the whole batch.
    """

    def train_step(
        state: TrainState,
        images: Float[Array, "batch height width channels"],
        labels: Int32[Array, " batch"],
    ) -> tuple[TrainState, MetricSums]:
        gradients, sums, batch_stats = compute_gradients(model, config, state, images, labels, axis)
        step_learning_rate = learning_rate(config, state.step, state.warmup)
        factors = learning_rate_factors(model, config, state.params, images.shape[1:])
        velocity, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=update_params(config, state.params, velocity, step_learning_rate, factors),
            batch_stats=keep_frozen(config, state.batch_stats, batch_stats),
            opt_state=opt_state,
            warmup=state.warmup.update(config, state.step, sums.wrong, sums.count),
            sums=_sums_since_last_log(config, state) + sums,
            learning_rate=step_learning_rate,
        )
        return update_average(config, state, state.step - 1), sums

    return train_step


def _sums_since_last_log(config: ConfigDict, state: TrainState) -> MetricSums:
    """Returns the sums of the state, or zeros if its step was logged."""
    is_logged = (state.step % config.log_every == 0) | (state.step % config.eval_every == 0)
    return jax.tree.map(lambda leaf: jnp.where(is_logged, jnp.zeros_like(leaf), leaf), state.sums)


def make_train_steps(
    train_step: TrainStep, augment_pixels: PixelAugmentation = keep_pixels
) -> TrainSteps:
    """Returns `train_steps(state, arrays, indices) -> (state, metrics)`: many steps, one dispatch.

    `indices`, int32 (steps, images of this device), selects the images of each batch from `arrays`.
    `metrics` are those of the state after the last step, in buffers of their own.

    A single step is not put into a loop, because XLA's CPU backend runs convolutions inside loops
    many times slower than outside.

    Args:
      train_step: one step on normalized images.
      augment_pixels: augmentation of uint8 images before the step.
    """

    def run_step(state: TrainState, arrays: DeviceData, rows: Int32[Array, " batch"]) -> TrainState:
        return train_step(state, *arrays.batch(rows, functools.partial(augment_pixels, state)))[0]

    def train_steps(
        state: TrainState, arrays: DeviceData, indices: Int32[Array, "steps batch"]
    ) -> tuple[TrainState, TrainMetrics]:
        if len(indices) == 1:
            state = run_step(state, arrays, indices[0])
        else:
            state, _ = jax.lax.scan(
                lambda s, rows: (run_step(s, arrays, rows), None), state, indices
            )
        return state, TrainMetrics.of(state)

    return train_steps


def is_batched(arrays: DeviceData) -> bool:
    """Returns True if the arrays are streamed batches, False if they are a whole split."""
    return arrays.labels.ndim > 1


def on_flat_batches(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Converts a step function for a whole split into one for streamed batches.

    Args:
      function: `function(state, arrays, rows)`, where `rows` are indices into the split.

    Returns:
      The same function for `arrays` with images (batches, images of this device, pixels). Its
      `rows` are indices into the images of all batches.
    """

    def flat_function(
        state: TrainState, arrays: DeviceData, rows: Int32[Array, "batches batch"]
    ) -> PyTree:
        images = arrays.images.reshape(-1, arrays.images.shape[-1])
        flat = dataclasses.replace(arrays, images=images, labels=arrays.labels.ravel())
        return function(state, flat, rows)

    return flat_function


def make_evaluate(model: nn.Module, axis: str | None = None) -> Evaluate:
    """Returns `evaluate(state, arrays, rows) -> sums` over the images `rows` of a split.

    The model uses running statistics, and images are not augmented. `rows`, int32 (batches, images
    of this device), may be padded with -1, which is not counted.
    """

    def evaluate_batch(
        state: TrainState, arrays: DeviceData, rows: Int32[Array, " batch"]
    ) -> MetricSums:
        images, labels = arrays.batch(rows)
        logits: Any = model.apply(state.variables, images, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return MetricSums.from_batch(losses, logits, labels, rows >= 0)

    def evaluate(
        state: TrainState, arrays: DeviceData, rows: Int32[Array, "batches batch"]
    ) -> MetricSums:
        if len(rows) == 1:  # no loop, because XLA's CPU backend runs convolutions slower inside one
            sums = evaluate_batch(state, arrays, rows[0])
        else:
            sums = MetricSums.zeros()
            sums, _ = jax.lax.scan(
                lambda s, batch: (s + evaluate_batch(state, arrays, batch), None), sums, rows
            )
        return sums if axis is None else jax.lax.psum(sums, axis)

    return evaluate
