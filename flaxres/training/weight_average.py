"""Exponential moving average of the weights of a run (`config.ema_decay`).

The average covers the parameters and the running statistics of batch norm, as timm's ModelEma does:
Szegedy et al. 2016 (arXiv 1512.00567), section 8, evaluate such an average of the parameters. It
does not affect the training. It is part of the train state, so a resumed run continues it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32
from ml_collections import ConfigDict

from flaxres.training.train_state import AveragedTrainState, TrainState

PyTree = Any
State = TypeVar("State", bound=TrainState)

EMA_PREFIX = "ema_"  # prefix of the metrics of the average, such as 'ema_test_error'


def ema_decay(config: ConfigDict, step: Int32[Array, ""]) -> Float32[Array, ""]:
    """Returns the decay of the average after a step.

    With `config.ema_ramp` it is min(ema_decay, (1 + t) / (10 + t)) for step t, as in TensorFlow's
    tf.train.ExponentialMovingAverage with `num_updates`: the initial weights, with which the
    average starts, are forgotten within few steps of a short run.

    Args:
      config: config of the run.
      step: number of the step; the first is 0.
    """
    decay = jnp.float32(config.ema_decay)
    if not config.ema_ramp:
        return decay
    t = step.astype(jnp.float32)
    return jnp.minimum(decay, (1 + t) / (10 + t))


def update_average(config: ConfigDict, state: State, step: Int32[Array, ""]) -> State:
    """Returns the state with its average moved toward its weights: d * average + (1 - d) * weights.

    Args:
      config: config of the run.
      state: state after the step. A state without an average is returned unchanged.
      step: number of the step; the first is 0.
    """
    if not isinstance(state, AveragedTrainState):
        return state
    rate = 1 - ema_decay(config, step)
    # In this form, weights that do not change, such as those of frozen layers, are not rounded.
    ema = jax.tree.map(lambda a, w: a + rate * (w - a), state.ema, state.variables)
    return dataclasses.replace(state, ema=ema)


def evaluated_states(state: TrainState) -> dict[str, TrainState]:
    """Returns the train states to evaluate, by the prefix of their metrics.

    Returns:
      {'': state}, and for a state with an average also 'ema_': a state whose parameters and batch
      statistics are the average.
    """
    if not isinstance(state, AveragedTrainState):
        return {"": state}
    return {"": state, EMA_PREFIX: dataclasses.replace(state, **state.ema)}
