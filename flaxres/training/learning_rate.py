"""Learning rate of a step: the schedule with the warm-ups.

The defaults follow He et al. 2015 (arXiv 1512.03385), section 4.2: a piecewise constant learning
rate, and for ResNet-110 a warm-up that ends when the training error falls below a threshold.
`flaxres.training.schedules` has the schedules.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float32, Int32, Num
from ml_collections import ConfigDict

from flaxres.errors import first_few
from flaxres.training.metrics import Leaf
from flaxres.training.schedules import scheduled_learning_rate

MAX_NAMES = 5  # boundaries in a message


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
