"""Metrics as sums on the device, divided once on the host."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class MetricSums:
    """Sums over images; two of them add up to the sums over both.

    Attributes:
      loss: float32, cross-entropy in nats.
      wrong: int32, images whose largest logit is not their label's.
      count: int32, images.
    """

    loss: jax.Array
    wrong: jax.Array
    count: jax.Array

    @classmethod
    def zeros(cls) -> MetricSums:
        """The sums over no image."""
        return cls(jnp.float32(0), jnp.int32(0), jnp.int32(0))

    @classmethod
    def from_batch(
        cls, losses: jax.Array, logits: jax.Array, labels: jax.Array, weights: jax.Array
    ) -> MetricSums:
        """Sums over a batch of n images.

        Args:
          losses: float32 (n,).
          logits: (n, classes).
          labels: int32 (n,).
          weights: bool (n,), False for images that only fill the batch.
        """
        wrong = (jnp.argmax(logits, axis=-1) != labels) & weights
        return cls(
            jnp.sum(losses * weights),
            jnp.sum(wrong, dtype=jnp.int32),
            jnp.sum(weights, dtype=jnp.int32),
        )

    def __add__(self, other: MetricSums) -> MetricSums:
        return jax.tree.map(jnp.add, self, other)

    def averages(self, prefix: str) -> dict[str, float | list[float]]:
        """Mean loss and top-1 error in percent, as floats; lists if the sums have an axis."""
        loss, wrong, count = (
            np.asarray(leaf, np.float64) for leaf in (self.loss, self.wrong, self.count)
        )
        return {
            f"{prefix}_loss": (loss / count).tolist(),
            f"{prefix}_error": (100.0 * wrong / count).tolist(),
        }


def sum_on_host(parts: Sequence[MetricSums]) -> MetricSums:
    """Adds up sums on the host, in their order; waits until they are computed."""
    parts = jax.device_get(list(parts))
    # By numpy: an addition by JAX would be one more program for a device that is at work.
    return jax.tree.map(lambda *leaves: functools.reduce(np.add, leaves), *parts)


@struct.dataclass
class TrainMetrics:
    """What a record says of the training: outputs that outlive the state, which is donated.

    Attributes:
      sums: since the last logged step.
      learning_rate: float32, of the last step.
    """

    sums: MetricSums
    learning_rate: jax.Array
