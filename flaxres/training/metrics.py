"""Loss and error as sums, accumulated on the device and divided on the host."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int32

from flaxres.training.clipping import logged_gradient_norm

# Field of a pytree: an array, or what JAX puts in its place, such as a shape struct.
Leaf = Any


@struct.dataclass
class MetricSums:
    """Loss, errors and number of images, summed over images.

    Adding two instances gives the sums over both sets of images. With several replicas, each field
    has a leading axis for them.

    Attributes:
      loss: float32, summed cross-entropy in nats.
      wrong: int32, number of images whose largest logit is not the label's.
      count: int32, number of images.
    """

    loss: Leaf
    wrong: Leaf
    count: Leaf

    @classmethod
    def zeros(cls) -> MetricSums:
        """Returns the sums over no images."""
        return cls(jnp.float32(0), jnp.int32(0), jnp.int32(0))

    @classmethod
    def from_batch(
        cls,
        losses: Float[Array, " batch"],
        logits: Float[Array, "batch classes"],
        labels: Int32[Array, " batch"],
        weights: Bool[Array, " batch"],
    ) -> MetricSums:
        """Sums the metrics of one batch.

        Args:
          losses: float32 (batch,), cross-entropy of each image.
          logits: float32 (batch, classes).
          labels: int32 (batch,).
          weights: bool (batch,), False for padding, which is not counted.
        """
        wrong = (jnp.argmax(logits, axis=-1) != labels) & weights
        return cls(
            jnp.sum(losses * weights),
            jnp.sum(wrong, dtype=jnp.int32),
            jnp.sum(weights, dtype=jnp.int32),
        )

    def sum_over_devices(self, axis: str) -> MetricSums:
        """Returns the sums over all devices, for at most 2**24 images.

        The numbers of images are added as float32, in which they are exact, because XLA can then
        join the all-reduce with that of the gradients.

        Args:
          axis: name of the device axis.
        """
        as_float = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), self)
        total = jax.lax.psum(as_float, axis)
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), total, self)

    def __add__(self, other: MetricSums) -> MetricSums:
        return jax.tree.map(jnp.add, self, other)

    def averages(self, prefix: str) -> dict[str, float | list[float]]:
        """Returns the mean loss and the top-1 error in percent.

        Args:
          prefix: name of the split, such as 'test' for the keys 'test_loss' and 'test_error'.

        Returns:
          A float for each key; with several replicas, a list of one float per replica.
        """
        loss, wrong, count = (
            np.asarray(leaf, np.float64) for leaf in (self.loss, self.wrong, self.count)
        )
        return {
            f"{prefix}_loss": (loss / count).tolist(),
            f"{prefix}_error": (100.0 * wrong / count).tolist(),
        }


def sum_on_host(parts: Sequence[MetricSums]) -> MetricSums:
    """Waits for sums that devices are computing, and adds them up on the host, in order."""
    host_parts = jax.device_get(list(parts))
    # NumPy adds them, because an addition by JAX would queue another program on a busy device.
    return jax.tree.map(lambda *leaves: functools.reduce(np.add, leaves), *host_parts)


@struct.dataclass
class TrainMetrics:
    """Training metrics of one dispatch, in buffers that outlive the donated train state.

    Attributes:
      sums: sums since the last logged step.
      learning_rate: float32, learning rate of the last step.
      gradient_norm: float32, norm of the last gradient before it was clipped; None without
        clipping.
    """

    sums: MetricSums
    learning_rate: Leaf
    gradient_norm: Leaf = None

    @classmethod
    def of(cls, state: Any) -> TrainMetrics:
        """Returns the metrics of a `flaxres.training.train_state.TrainState`."""
        return cls(state.sums, state.learning_rate, logged_gradient_norm(state.opt_state))

    def of_last_step(self) -> dict[str, float | list[float]]:
        """Returns the learning rate and, with clipping, the gradient norm of the last step.

        Returns:
          A float for each key; with several replicas, a list of one float per replica.
        """
        values = {"learning_rate": self.learning_rate, "gradient_norm": self.gradient_norm}
        return {
            name: np.asarray(value, np.float64).tolist()
            for name, value in values.items()
            if value is not None
        }
