"""Activations of plain networks without a norm, chosen by the config field `model.activation`.

relu: max(x, 0).
tanh: the hyperbolic tangent, as in Xiao et al. 2018 (arXiv 1806.05393).
tailored-relu: a leaky ReLU whose slope for negative inputs depends on the depth of the network, so
  that very different images are still told apart after all layers: Zhang et al. 2022 (arXiv
  2203.08120), section 4.1, after the Deep Kernel Shaping of Martens et al. 2021 (arXiv 2110.01765).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

# Square of the kernels' gain that preserves the second moment of the feature maps in the limit of
# many channels. ReLU halves it (He et al. 2015, arXiv 1502.01852, section 2.2). For tanh without
# biases, 1 is the critical point between order and chaos (Xiao et al. 2018, arXiv
# 1806.05393, section 2). The
# output scale of the tailored ReLU makes up for its slope.
SQUARED_GAINS = {"relu": 2.0, "tanh": 1.0, "tailored-relu": 1.0}
ACTIVATIONS = tuple(SQUARED_GAINS)

BISECTIONS = 60  # halvings of [0, 1], more than float64 resolves


def leaky_relu_c_map(c: float, slope: float) -> float:
    """Returns the correlation of a layer's outputs for two inputs with correlation `c`.

    This is the local C map of Zhang et al. 2022 (arXiv 2203.08120), section 4.1, for a leaky ReLU
    after Gaussian or orthogonal weights, in the limit of many channels.

    Args:
      c: cosine of the angle between the two inputs, from -1 to 1.
      slope: slope for negative inputs.
    """
    bend = (1 - slope) ** 2 / (math.pi * (1 + slope**2))
    return c + bend * (math.sqrt(max(1 - c * c, 0.0)) - c * math.acos(min(c, 1.0)))


def network_c_map(slope: float, num_layers: int) -> float:
    """Returns the correlation of the last outputs for two images with correlation 0.

    Args:
      slope: slope of the leaky ReLU of all layers for negative inputs.
      num_layers: number of layers of a network without shortcuts.
    """
    c = 0.0
    for _ in range(num_layers):
        c = leaky_relu_c_map(c, slope)
    return c


@functools.cache
def tailored_slope(num_layers: int, eta: float) -> float:
    """Returns the slope for which `network_c_map` is `eta`: Zhang et al. 2022, section 4.1.

    Without shortcuts, the whole network has the largest correlation of all its subnetworks.

    Args:
      num_layers: number of layers with an activation, one after the other.
      eta: correlation of the last outputs for two images with correlation 0, between 0 and 1; 0.9
        in the paper.

    Returns:
      A slope from 0 to 1; 0 (ReLU) if so few layers do not reach `eta`.
    """
    low, high = 0.0, 1.0
    if network_c_map(low, num_layers) <= eta:
        return low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if network_c_map(middle, num_layers) > eta:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def tailored_relu(x: Float[Array | np.ndarray, "*shape"], slope: float) -> Float[Array, "*shape"]:
    """Returns x for positive and slope * x for negative inputs, times sqrt(2 / (1 + slope^2)).

    The factor gives outputs the second moment 1 for standard normal inputs: Zhang et al. 2022
    (arXiv 2203.08120), section 4.1.
    """
    scale = math.sqrt(2 / (1 + slope**2))
    return jnp.where(x >= 0, scale * x, scale * slope * x)


def make_activation(name: str, num_layers: int, eta: float) -> Callable[..., Array]:
    """Returns an activation function of feature maps.

    Args:
      name: one of `ACTIVATIONS`.
      num_layers: number of layers with an activation; 'tailored-relu' depends on it.
      eta: argument of `tailored_slope`.
    """
    if name == "tailored-relu":
        return functools.partial(tailored_relu, slope=tailored_slope(num_layers, eta))
    return {"relu": nn.relu, "tanh": jnp.tanh}[name]
