"""Initial kernels of plain networks, chosen by the config field `model.init`.

he: zero-mean Gaussian (He et al. 2015, arXiv 1502.01852, equation 10).
delta-orthogonal: a random orthogonal matrix in the center tap, zeros in the other taps, so that the
  layer preserves norms (Xiao et al. 2018, arXiv 1806.05393, section 2).
dirac: the identity in the center tap of layers that keep the number of channels (as in the Dirac
  parametrization of Zagoruyko and Komodakis 2017, arXiv 1706.00388, with W = 0); delta-orthogonal
  in the others. With zeros instead, the channels that a layer adds would be equal and stay so.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from flaxres.errors import ConfigError

INITS = ("he", "delta-orthogonal", "dirac")


def make_kernel_init(name: str, squared_gain: float) -> nn.initializers.Initializer:
    """Returns the initializer of convolution kernels (size, size, channels, filters).

    Args:
      name: one of `INITS`.
      squared_gain: square of the factor that makes up for the activation, such as 2 for ReLU. The
        identity of 'dirac' has gain 1, because ReLU does not change what a ReLU returned.
    """
    if name == "he":
        return nn.initializers.variance_scaling(squared_gain, "fan_in", "normal")
    orthogonal = nn.initializers.delta_orthogonal(math.sqrt(squared_gain))

    def init(
        key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32, *_: Any
    ) -> Float[Array, "size size channels filters"]:
        channels, filters = shape[-2:]
        if channels > filters:
            raise ConfigError(
                f"model.init={name!r} needs convolutions that do not reduce the number of "
                f"channels, got {channels} channels and {filters} filters"
            )
        if name == "dirac" and channels == filters:
            return dirac_kernel(shape, dtype)
        return orthogonal(key, shape, dtype)

    return init


def dirac_kernel(
    shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Float[Array, "size size channels filters"]:
    """Returns the kernel of an identity: 1 from channel i to filter i in the center tap.

    Further filters are zero, and further channels are not read, as in `torch.nn.init.dirac_`. With
    a stride, the convolution keeps every `stride`-th pixel.

    Args:
      shape: (size, size, channels, filters) with an odd size.
      dtype: dtype of the kernel.
    """
    center, (channels, filters) = shape[0] // 2, shape[2:]
    identity = jnp.eye(channels, filters, dtype=dtype)
    return jnp.zeros(shape, dtype).at[center, center].set(identity)
