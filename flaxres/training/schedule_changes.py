"""Comparison of two learning-rate schedules over the steps that a run has done."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from flaxres.training.learning_rate import Warmup, learning_rate

# Fields that change nothing else than the learning rate and the number of steps.
SCHEDULE_FIELDS = (
    *("num_steps", "learning_rate", "schedule", "boundaries", "decay_factor"),
    *("linear_warmup_steps", "warmup.learning_rate", "warmup.train_error"),
    *("warmup.window", "warmup.max_steps", "final_learning_rate", "polynomial_power"),
    *("cooldown_steps", "cooldown_shape", "one_cycle.rise_fraction", "one_cycle.initial_factor"),
)

CHUNK = 2**20  # steps that are compared at once


def first_changed_step(old: ConfigDict, new: ConfigDict, num_steps: int) -> int | None:
    """Returns the first step whose learning rate may differ between two configs, or None.

    The end of a warm-up depends on the training errors (`Warmup`). A warm-up with another threshold
    or window may have ended at any step; one with another `max_steps` only from the smaller of both
    on. Learning rates that the warm-up hid are compared too.

    Args:
      old: a checked config.
      new: a config that differs from it in `SCHEDULE_FIELDS` only.
      num_steps: number of steps to compare, from the first step of the run.
    """
    changed = _first_changed_warmup_step(old, new)
    for start in range(0, num_steps, CHUNK):
        steps = np.arange(start, min(start + CHUNK, num_steps), dtype=np.int32)
        differs = np.flatnonzero(_learning_rates(old, steps) != _learning_rates(new, steps))
        if len(differs):
            changed = min(changed, start + int(differs[0]))
            break
    return None if changed >= num_steps else int(changed)


def _first_changed_warmup_step(old: ConfigDict, new: ConfigDict) -> float:
    """Returns the first step that another warm-up may change; infinity if none."""
    before, after = old.warmup, new.warmup
    if not (before.enabled or after.enabled):
        return np.inf
    fields = ("enabled", "learning_rate", "train_error", "window")
    if any(before[field] != after[field] for field in fields):
        return 0
    if before.max_steps != after.max_steps:
        # After this many steps the state of the warm-up differs, one step before the learning rate.
        return min(before.max_steps, after.max_steps) - 1
    return np.inf


def _learning_rates(config: ConfigDict, steps: np.ndarray) -> Float32[np.ndarray, " steps"]:
    """Returns the learning rates of steps without the warm-up that ends at a training error."""
    warmup = Warmup(jnp.asarray(False), jnp.float32(0), jnp.float32(0))
    return np.asarray(jax.jit(jax.vmap(lambda step: learning_rate(config, step, warmup)))(steps))
