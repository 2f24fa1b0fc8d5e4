"""Train state: everything that a run needs to resume bit for bit."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Integer, PRNGKeyArray
from ml_collections import ConfigDict

from flaxres.cpu import kernels
from flaxres.training.fine_tuning import check_frozen
from flaxres.training.learning_rate import Warmup
from flaxres.training.metrics import Leaf, MetricSums

PyTree = Any
Seed = Integer[Array, ""] | np.uint32 | int

# Independent streams of random numbers, all derived from the seed of the run.
INIT_STREAM = 1
AUGMENT_STREAM = 2
DROPOUT_STREAM = 3
COLOR_STREAM = 4
POLICY_STREAM = 5
ERASING_STREAM = 6
MIXING_STREAM = 7
SHARED_DROPOUT_STREAM = 8


@struct.dataclass
class TrainState:
    """State of the training after a number of steps; a pytree of arrays.

    The model and the optimizer are not part of it. The position in the data and all random numbers
    follow from `seed` and `step`. With several replicas, every leaf has a leading axis for them.

    Attributes:
      step: int32, number of steps done.
      seed: uint32.
      params: trainable parameters, float32.
      batch_stats: running statistics of batch norm, float32; {} for models without batch norm.
      opt_state: state of the optimizer: the momentum.
      warmup: state of the warm-up that ends at a training error.
      sums: training metrics since the last logged step.
      learning_rate: float32, learning rate of the last step.
    """

    step: Leaf
    seed: Leaf
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    warmup: Warmup
    sums: MetricSums
    learning_rate: Leaf

    def key(self, stream: int) -> PRNGKeyArray:
        """Returns the random key of (seed, stream, step)."""
        return jax.random.fold_in(stream_key(self.seed, stream), self.step)

    @property
    def variables(self) -> dict[str, PyTree]:
        """Parameters and batch statistics, as `model.apply` accepts them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@struct.dataclass
class AveragedTrainState(TrainState):
    """Train state of a run with a moving average of its weights (`config.ema_decay`).

    It is a class of its own, so that the checkpoints of other runs do not have the field.

    Attributes:
      ema: average of the parameters and batch statistics, in the structure of `variables`.
    """

    ema: dict[str, PyTree]

    @classmethod
    def start(cls, state: TrainState) -> AveragedTrainState:
        """Returns the state with an average that starts with its weights."""
        fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        # Copies, because the buffers of a state are donated, each of them once.
        return cls(**fields | {"ema": jax.tree.map(lambda leaf: leaf.copy(), state.variables)})


def stream_key(seed: Seed, stream: int) -> PRNGKeyArray:
    """Returns the random key of (seed, stream)."""
    return jax.random.fold_in(jax.random.key(seed), stream)


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    seed: Seed,
) -> TrainState:
    """Returns the state before the first step. JAX can trace this function.

    Args:
      model: a model of `flaxres.models`.
      optimizer: the optimizer, from `flaxres.training.optimizer`.
      config: config of the run; its warm-up, frozen layers, `ema_decay` and `model.init_gain` are
        used.
      image_shape: (height, width, channels).
      seed: seed of the initial parameters, and of all random numbers of the training.

    Raises:
      ConfigError: the model does not fit the images, or `transfer.frozen` does not fit the model.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    # `lazy_init` needs only the shapes of the activations, so the CPU kernels do not run.
    with kernels.kernels_disabled():
        variables = model.lazy_init(stream_key(seed, INIT_STREAM), images, train=False)
    params = _scale_kernels(variables["params"], config.model.init_gain)
    check_frozen(config, params)
    state = TrainState(
        step=jnp.int32(0),
        seed=jnp.asarray(seed, jnp.uint32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
        warmup=Warmup.create(config),
        sums=MetricSums.zeros(),
        learning_rate=jnp.float32(0),
    )
    return AveragedTrainState.start(state) if config.ema_decay else state


def _scale_kernels(params: PyTree, gain: float) -> PyTree:
    """Multiplies the kernels of convolutions by `gain`."""
    if gain == 1:
        return params
    return jax.tree.map(lambda leaf: gain * leaf if leaf.ndim == 4 else leaf, params)
