"""Learning-rate schedules: the learning rate as a function of the step and the config.

They are written out, because results of optax's schedules differ in the last bits for some
settings. `flaxres.training.learning_rate` adds the warm-ups.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32
from ml_collections import ConfigDict


def scheduled_learning_rate(config: ConfigDict, step: Int32[Array, ""]) -> Float[Array, ""]:
    """Returns the learning rate of a step without warm-up.

    T is the number of steps after the linear warm-up, t the step counted from its end, and F the
    `final_learning_rate`, which a step t = T would have. `config.schedule` is one of

    - 'piecewise-constant': multiplied by `decay_factor` at each boundary. Boundaries count from the
      first step of the run, warm-up included.
    - 'cosine': F + (learning_rate - F) / 2 * (1 + cos(pi * t / T)): Loshchilov and Hutter 2017
      (arXiv 1608.03983), equation 5, without restarts; with a warm-up as in He et al. 2019 (arXiv
      1812.01187), section 5.1.
    - 'polynomial': F + (learning_rate - F) * (1 - t / T)^polynomial_power.
    - 'one-cycle': half a cosine from `one_cycle.initial_factor` * learning_rate up to learning_rate
      at step `one_cycle.rise_fraction` * num_steps, then half a cosine down to F: Smith and Topin
      2018 (arXiv 1708.07120) with cosines instead of their straight lines, as in fastai and
      PyTorch. The momentum is constant.
    - 'wsd': learning_rate until the last n = `cooldown_steps` steps, then F + (learning_rate - F) *
      (1 - u) or ... * (1 - sqrt(u)) for the fraction u of the cooldown: Hu et al. 2024 (arXiv
      2404.06395), Hägele et al. 2024 (arXiv 2405.18392).

    Args:
      config: config of the run.
      step: number of the step; the first is 0.
    """
    warmup_steps = config.linear_warmup_steps
    if config.schedule == "cosine":
        progress = jnp.maximum(step - warmup_steps, 0) / (config.num_steps - warmup_steps)
        if not config.final_learning_rate:
            return config.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        return _between(config, 0.5 * (1 + jnp.cos(jnp.pi * progress)))
    if config.schedule == "polynomial":
        progress = jnp.maximum(step - warmup_steps, 0) / (config.num_steps - warmup_steps)
        return _between(config, (1 - progress) ** config.polynomial_power)
    if config.schedule == "one-cycle":
        return _one_cycle(config, step)
    if config.schedule == "wsd":
        first = config.num_steps - config.cooldown_steps
        progress = jnp.maximum(step - first, 0) / config.cooldown_steps
        is_linear = config.cooldown_shape == "linear"
        return _between(config, 1 - (progress if is_linear else jnp.sqrt(progress)))
    if not config.boundaries:
        return jnp.float32(config.learning_rate)
    num_drops = jnp.sum(step >= jnp.asarray(config.boundaries, jnp.int32))
    return config.learning_rate * jnp.float32(config.decay_factor) ** num_drops


def _one_cycle(config: ConfigDict, step: Int32[Array, ""]) -> Float32[Array, ""]:
    """Returns the learning rate of a step of 'one-cycle'."""
    rise_steps = max(1, int(config.one_cycle.rise_fraction * config.num_steps))
    rise = 0.5 * (1 - jnp.cos(jnp.pi * step / rise_steps))
    initial = config.one_cycle.initial_factor
    fall_steps = max(1, config.num_steps - rise_steps)
    fall = 0.5 * (1 + jnp.cos(jnp.pi * jnp.maximum(step - rise_steps, 0) / fall_steps))
    rising = config.learning_rate * (initial + (1 - initial) * rise)
    return jnp.where(step < rise_steps, rising, _between(config, fall))


def _between(config: ConfigDict, factor: Float32[Array, ""]) -> Float32[Array, ""]:
    """Returns `final_learning_rate` for factor 0, `learning_rate` for 1, and linearly between."""
    final = config.final_learning_rate
    return final + (config.learning_rate - final) * factor
