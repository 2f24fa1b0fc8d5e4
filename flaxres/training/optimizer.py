"""SGD with momentum and L2, and the learning rate: He15 (arXiv 1512.03385), section 4.2.

Besides the drops of that paper there is half a cosine, and besides the warm-up of its ResNet-110 a
linear one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from ml_collections import ConfigDict

from flaxres.training.fine_tuning import frozen_leaves


def kernel_mask(params: dict) -> dict:
    """True for the kernels of convolutions and dense layers, False for norms and biases."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: path[-1] == "kernel" for path in flat})


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """L2 added to the gradient, then momentum: v = momentum * v + (gradient + decay * w).

    The learning rate is applied after it, w = w - rate * v, so that a drop of the rate acts at once
    on the whole velocity, as in PyTorch. (Caffe keeps the rate inside the velocity.)

    With `config.nesterov` the step is along what v will be after another step with this gradient,
    gradient + decay * w + momentum * v, as in PyTorch: Sutskever et al. 2013, "On the importance of
    initialization and momentum in deep learning", section 2, in terms of the params looked ahead.

    L2 leaves frozen layers alone (`flaxres.training.fine_tuning`).
    """

    def mask(params: dict) -> dict:
        decayed = jax.tree.map(lambda frozen: not frozen, frozen_leaves(config, params))
        if config.weight_decay_on == "kernels":
            decayed = jax.tree.map(lambda one, other: one and other, decayed, kernel_mask(params))
        return decayed

    is_masked = config.weight_decay_on == "kernels" or len(config.transfer.frozen) > 0
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask if is_masked else None),
        optax.trace(config.momentum, nesterov=config.nesterov),
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
    """float32 rate of step `step` (0 is the first): a warm-up, then what the schedule says.

    - 'piecewise-constant': a drop at each boundary, counted from the first step of all.
    - 'cosine': rate / 2 * (1 + cos(pi * t / T)) for step t of the T that follow the linear warm-up,
      from the whole rate to 0 at `num_steps`: Loshchilov and Hutter 2017 (arXiv 1608.03983),
      equation 5, without restarts; with a warm-up as in He et al. 2019 (arXiv 1812.01187), section
      5.1.

    In the first n = `linear_warmup_steps` steps it is times (step + 1) / n, so that the last of
    them has the whole rate: Goyal et al. 2017 (arXiv 1706.02677), section 2.2; He et al. 2019,
    section 3.1, for its beginning near 0. As long as `warmup` is active its rate holds.
    """
    ramp = config.linear_warmup_steps
    if config.schedule == "cosine":
        done = jnp.maximum(step - ramp, 0) / (config.num_steps - ramp)
        rate = config.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * done))
    else:
        boundaries = jnp.asarray(config.boundaries, jnp.int32)
        drops = jnp.sum(step >= boundaries)
        rate = config.learning_rate * jnp.float32(config.decay_factor) ** drops
    if ramp:
        rate = rate * jnp.minimum((step + 1) / ramp, 1)
    return jnp.where(warmup.active, config.warmup.learning_rate, rate).astype(jnp.float32)
