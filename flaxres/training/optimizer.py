"""SGD with momentum and weight decay, and the learning-rate schedules.

The defaults follow He et al. 2015 (arXiv 1512.03385), section 4.2: a piecewise constant learning
rate, and for ResNet-110 a warm-up that ends when the training error falls below a threshold. A
cosine schedule and a linear warm-up are available too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from jaxtyping import Array, Float32, Int32, Num
from ml_collections import ConfigDict

from flaxres.errors import first_few
from flaxres.training.fine_tuning import frozen_leaves
from flaxres.training.metrics import Leaf

PyTree = Any

MAX_NAMES = 5  # boundaries in a message


def kernel_mask(params: PyTree) -> PyTree:
    """Returns True for the kernels of convolutions and dense layers, False for other parameters."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: path[-1] == "kernel" for path in flat})


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the transformation of gradients into a velocity, to be scaled by the learning rate.

    The velocity is v = momentum * v + (gradient + weight_decay * w). The learning rate is applied
    afterwards, w = w - learning_rate * v, so a drop of the learning rate scales the whole velocity
    at once, as in PyTorch. (Caffe keeps the learning rate inside the velocity.)

    With `config.nesterov` the update is gradient + weight_decay * w + momentum * v, as in PyTorch:
    Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning",
    section 2, written in terms of the look-ahead parameters.

    Weight decay does not apply to frozen layers (`flaxres.training.fine_tuning`).
    """

    def decay_mask(params: PyTree) -> PyTree:
        mask = jax.tree.map(lambda frozen: not frozen, frozen_leaves(config, params))
        if config.weight_decay_on == "kernels":
            mask = jax.tree.map(lambda a, b: a and b, mask, kernel_mask(params))
        return mask

    is_masked = config.weight_decay_on == "kernels" or len(config.transfer.frozen) > 0
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, decay_mask if is_masked else None),
        optax.trace(config.momentum, nesterov=config.nesterov),
    )


@struct.dataclass
class Warmup:
    """State of the warm-up that ends at a training error; part of the train state.

    Attributes:
      active: bool, True until the warm-up ends.
      wrong: float32, number of misclassified images in the current window.
      count: float32, number of images in the current window.
    """

    active: Leaf
    wrong: Leaf
    count: Leaf

    @classmethod
    def create(cls, config: ConfigDict) -> Warmup:
        """Returns the state before the first step."""
        return cls(jnp.asarray(config.warmup.enabled), jnp.float32(0), jnp.float32(0))

    def update(
        self,
        config: ConfigDict,
        step: Int32[Array, ""],
        wrong: Num[Array, ""],
        count: Num[Array, ""],
    ) -> Warmup:
        """Returns the state after one step.

        The warm-up ends for good at the end of the first window of `warmup.window` steps whose
        training error is below `warmup.train_error` percent, or after `warmup.max_steps` steps.

        Args:
          config: config of the run.
          step: number of the step; the first is 0.
          wrong: number of images that the step misclassified.
          count: number of images in the step's batch.
        """
        wrong, count = self.wrong + wrong, self.count + count
        steps_done = step + 1
        window_ends = steps_done % config.warmup.window == 0
        is_below = 100 * wrong < config.warmup.train_error * count
        ends = (window_ends & is_below) | (steps_done >= config.warmup.max_steps)
        return Warmup(
            active=self.active & ~ends,
            wrong=jnp.where(window_ends, 0.0, wrong),
            count=jnp.where(window_ends, 0.0, count),
        )


def describe_unreached_boundaries(config: ConfigDict) -> str | None:
    """Returns a line on the boundaries that the run does not reach, or None if it reaches all."""
    unreached = [step for step in config.boundaries if step >= config.num_steps]
    if config.schedule != "piecewise-constant" or not unreached:
        return None
    reached = config.boundaries[: -len(unreached)]
    names = f"boundaries ({first_few([*map(str, unreached)], MAX_NAMES)}) are"
    if len(unreached) == 1:
        names = f"boundary {unreached[0]} is"
    effect = f"is lowered only at {first_few([*map(str, reached)], MAX_NAMES)}"
    return (
        f"the {names} not below num_steps ({config.num_steps}), so the learning rate "
        f"{effect if reached else 'is never lowered'}"
    )


def learning_rate(config: ConfigDict, step: Int32[Array, ""], warmup: Warmup) -> Float32[Array, ""]:
    """Returns the learning rate of a step.

    `config.schedule` is one of

    - 'piecewise-constant': multiplied by `decay_factor` at each boundary. Boundaries count from the
      first step of the run, warm-up included.
    - 'cosine': learning_rate / 2 * (1 + cos(pi * t / T)) for step t of the T steps that follow the
      linear warm-up, falling to 0 at `num_steps`: Loshchilov and Hutter 2017 (arXiv 1608.03983),
      equation 5, without restarts; with a warm-up as in He et al. 2019 (arXiv 1812.01187), section
      5.1.

    During the first n = `linear_warmup_steps` steps the value is multiplied by (step + 1) / n, so
    the last of them has the full learning rate: Goyal et al. 2017 (arXiv 1706.02677), section 2.2.
    It starts near 0, as in He et al. 2019, section 3.1. While `warmup` is active,
    `config.warmup.learning_rate` is used instead.

    Args:
      config: config of the run.
      step: number of the step; the first is 0.
      warmup: state of the warm-up before the step.
    """
    warmup_steps = config.linear_warmup_steps
    if config.schedule == "cosine":
        progress = jnp.maximum(step - warmup_steps, 0) / (config.num_steps - warmup_steps)
        value = config.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    else:
        value = jnp.float32(config.learning_rate)
        if config.boundaries:
            num_drops = jnp.sum(step >= jnp.asarray(config.boundaries, jnp.int32))
            value = config.learning_rate * jnp.float32(config.decay_factor) ** num_drops
    if warmup_steps:
        value = value * jnp.minimum((step + 1) / warmup_steps, 1)
    return jnp.where(warmup.active, config.warmup.learning_rate, value).astype(jnp.float32)
