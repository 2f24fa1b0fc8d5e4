"""The training state: everything that a restart needs to go on as if nothing had happened."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from ml_collections import ConfigDict

from flaxres.cpu import kernels
from flaxres.training.fine_tuning import check_frozen
from flaxres.training.metrics import MetricSums
from flaxres.training.optimizer import Warmup

# Streams of random numbers: one seed, and none of them depends on another.
INIT_STREAM = 1
AUGMENT_STREAM = 2
DROPOUT_STREAM = 3
COLOUR_STREAM = 4


@struct.dataclass
class TrainState:
    """A pytree of arrays; models and optimizers are passed to the steps beside it.

    The position in the data and all random numbers follow from `seed` and `step`.

    Attributes:
      step: int32, steps done.
      seed: uint32.
      params: trainable parameters, float32.
      batch_stats: running statistics of batch norm, float32; {} for nets without.
      opt_state: momentum.
      warmup: what the learning-rate schedule remembers.
      sums: training metrics since the last logged step.
      learning_rate: float32, of the last step done.
    """

    step: jax.Array
    seed: jax.Array
    params: dict
    batch_stats: dict
    opt_state: optax.OptState
    warmup: Warmup
    sums: MetricSums
    learning_rate: jax.Array

    def key(self, stream: int) -> jax.Array:
        """The random key of (seed, stream, step)."""
        return jax.random.fold_in(stream_key(self.seed, stream), self.step)

    @property
    def variables(self) -> dict:
        """Params and statistics as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def stream_key(seed: jax.Array | int, stream: int) -> jax.Array:
    """The random key of (seed, stream)."""
    return jax.random.fold_in(jax.random.key(seed), stream)


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    image_shape: tuple[int, int, int],
    seed: jax.Array | int,
) -> TrainState:
    """The state before the first step. Traceable, so that it can be compiled or only shaped.

    Args:
      model: a net of `flaxres.models`.
      optimizer: of `flaxres.training.optimizer`.
      config: the experiment, for its warm-up and `model.init_gain`.
      image_shape: (height, width, channels).
      seed: of the parameters, and kept for all random numbers of the training.

    Raises:
      ConfigError: a net or frozen layers that cannot be, with these images.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with kernels.kernels_disabled():  # what the images become is not computed
        variables = model.lazy_init(stream_key(seed, INIT_STREAM), images, train=False)
    params = _scale_kernels(variables["params"], config.model.init_gain)
    check_frozen(config, params)
    return TrainState(
        step=jnp.int32(0),
        seed=jnp.asarray(seed, jnp.uint32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(params),
        warmup=Warmup.create(config),
        sums=MetricSums.zeros(),
        learning_rate=jnp.float32(0),
    )


def _scale_kernels(params: dict, gain: float) -> dict:
    """Kernels of convolutions times `gain`."""
    if gain == 1:
        return params
    return jax.tree.map(lambda leaf: gain * leaf if leaf.ndim == 4 else leaf, params)
