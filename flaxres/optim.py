"""SGD with momentum and L2, and the learning rate: He15 (arXiv 1512.03385), section 4.2."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from ml_collections import ConfigDict


def decay_mask(params: dict) -> dict:
    """True for the kernels of convolutions and dense layers, False for norms and biases."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: path[-1] == "kernel" for path in flat})


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """L2 added to the gradient, then momentum: v = momentum * v + (gradient + decay * w).

    The learning rate is applied after it, w = w - rate * v, so that a drop of the rate acts at once
    on the whole velocity, as in PyTorch. (Caffe keeps the rate inside the velocity.)
    """
    mask = decay_mask if config.weight_decay_on == "kernels" else None
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask),
        optax.trace(config.momentum),
    )


@struct.dataclass
class Warmup:
    """What the schedule remembers of the training error; part of the training state.

    Attributes:
      active: bool, the warm-up has not ended.
      wrong: float32, images misclassified in the current window.
      count: float32, images seen in it.
    """

    active: jax.Array
    wrong: jax.Array
    count: jax.Array

    @classmethod
    def create(cls, config: ConfigDict) -> Warmup:
        """The state before the first step."""
        return cls(jnp.asarray(config.warmup.enabled), jnp.float32(0), jnp.float32(0))

    def update(self, config: ConfigDict, step: jax.Array, wrong: jax.Array, count: jax.Array):
        """The state after step `step` (0 is the first), which misclassified `wrong` of `count`.

        At the end of each window of `warmup.window` steps the warm-up ends if the training error
        over that window is under `warmup.train_error` percent; it never comes back.
        """
        wrong, count = self.wrong + wrong, self.count + count
        done = step + 1  # steps done
        window_ends = done % config.warmup.window == 0
        below = 100 * wrong < config.warmup.train_error * count
        over = (window_ends & below) | (done >= config.warmup.max_steps)
        return Warmup(
            active=self.active & ~over,
            wrong=jnp.where(window_ends, 0.0, wrong),
            count=jnp.where(window_ends, 0.0, count),
        )


def learning_rate(config: ConfigDict, step: jax.Array, warmup: Warmup) -> jax.Array:
    """float32 rate of step `step` (0 is the first): warm-up, then a drop at each boundary."""
    boundaries = jnp.asarray(config.boundaries, jnp.int32)
    drops = jnp.sum(step >= boundaries)
    rate = config.learning_rate * jnp.float32(config.decay_factor) ** drops
    return jnp.where(warmup.active, config.warmup.learning_rate, rate).astype(jnp.float32)
