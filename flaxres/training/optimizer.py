"""Optimizers with weight decay, the warm-ups, and the learning rate of a step.

The defaults follow He et al. 2015 (arXiv 1512.03385), section 4.2: SGD with momentum, a piecewise
constant learning rate, and for ResNet-110 a warm-up that ends when the training error falls below a
threshold. `flaxres.training.schedules` has the schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from jaxtyping import Array, Float32, Int32, Num
from ml_collections import ConfigDict

from flaxres.errors import first_few
from flaxres.training.clipping import clip_by_global_norm
from flaxres.training.fine_tuning import frozen_leaves
from flaxres.training.metrics import Leaf
from flaxres.training.schedules import scheduled_learning_rate

PyTree = Any

MAX_NAMES = 5  # boundaries in a message


def kernel_mask(params: PyTree) -> PyTree:
    """Returns True for the kernels of convolutions and dense layers, False for other parameters."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: path[-1] == "kernel" for path in flat})


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the transformation of gradients into directions, to be scaled by the learning rate.

    The learning rate is applied afterwards, w = w - learning_rate * direction. With the gradient g,
    the weights w, and d = `weight_decay`, `config.optimizer` is one of

    - 'sgd': v = momentum * v + (g + d * w), the direction. A drop of the learning rate scales the
      whole velocity at once, as in PyTorch. (Caffe keeps the learning rate inside the velocity.)
      With `config.nesterov` it is g + d * w + momentum * v, as in PyTorch: Sutskever et al. 2013,
      "On the importance of initialization and momentum in deep learning", section 2, written in
      terms of the look-ahead parameters.
    - 'adamw': m / (sqrt(s) + epsilon) + d * w, for the means m of g and s of g * g with corrected
      bias: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2. PyTorch's and optax's.
    - 'lars': the gradient g + d * w of every array is scaled by `trust_ratio.coefficient` * |w| /
      |g + d * w| before the momentum: You et al. 2017 (arXiv 1708.03888), algorithm 1. There the
      learning rate is inside the velocity, and the denominator is |g| + d * |w|; `optax.lars`
      differs in the first only.
    - 'lamb': the direction of 'adamw', scaled to the norm |w| of every array: You et al. 2020
      (arXiv 1904.00962), algorithm 2.

    Weight decay does not apply to frozen layers (`flaxres.training.fine_tuning`), and with
    `weight_decay_on='kernels'` only to kernels. The ratio of norms applies to kernels unless
    `trust_ratio.parameters` is 'all'. With `clip_norm`, gradients are clipped first
    (`flaxres.training.clipping`).
    """
    parts = [_OPTIMIZERS[config.optimizer](config)]
    if config.clip_norm:
        parts.insert(0, clip_by_global_norm(config.clip_norm))
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


def _weight_decay(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the transformation that adds weight_decay * w to its input."""

    def decay_mask(params: PyTree) -> PyTree:
        mask = jax.tree.map(lambda frozen: not frozen, frozen_leaves(config, params))
        if config.weight_decay_on == "kernels":
            mask = jax.tree.map(lambda a, b: a and b, mask, kernel_mask(params))
        return mask

    is_masked = config.weight_decay_on == "kernels" or len(config.transfer.frozen) > 0
    return optax.add_decayed_weights(config.weight_decay, decay_mask if is_masked else None)


def _trust_ratio(config: ConfigDict, coefficient: float) -> optax.GradientTransformation:
    """Returns the transformation that scales each array to coefficient * |w|, if none is 0."""
    scale = optax.scale_by_trust_ratio(trust_coefficient=coefficient)
    return scale if config.trust_ratio.parameters == "all" else optax.masked(scale, kernel_mask)


def _momentum(config: ConfigDict) -> optax.GradientTransformation:
    return optax.trace(config.momentum, nesterov=config.nesterov)


def _adam(config: ConfigDict) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.adam.beta1, config.adam.beta2, config.adam.epsilon)


def _sgd(config: ConfigDict) -> optax.GradientTransformation:
    return optax.chain(_weight_decay(config), _momentum(config))


def _adamw(config: ConfigDict) -> optax.GradientTransformation:
    return optax.chain(_adam(config), _weight_decay(config))


def _lars(config: ConfigDict) -> optax.GradientTransformation:
    scale = _trust_ratio(config, config.trust_ratio.coefficient)
    return optax.chain(_weight_decay(config), scale, _momentum(config))


def _lamb(config: ConfigDict) -> optax.GradientTransformation:
    return optax.chain(_adam(config), _weight_decay(config), _trust_ratio(config, 1.0))


_OPTIMIZERS: Mapping[str, Callable[[ConfigDict], optax.GradientTransformation]] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "lars": _lars,
    "lamb": _lamb,
}


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
    """Returns the learning rate of a step: that of `config.schedule`, with the warm-ups.

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
    value = scheduled_learning_rate(config, step)
    if warmup_steps:
        value = value * jnp.minimum((step + 1) / warmup_steps, 1)
    return jnp.where(warmup.active, config.warmup.learning_rate, value).astype(jnp.float32)
