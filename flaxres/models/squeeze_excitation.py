"""Squeeze-and-excitation: channels of a feature map weighted by a function of their means.

Hu et al. 2018 (arXiv 1709.01507).
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from flaxres.models.layers import he_normal


class SqueezeExcitation(nn.Module):
    """Weights of channels: global average pooling, a dense layer, ReLU, a dense layer, sigmoid.

    Hu18, equations 2 and 3. Both dense layers have biases, as in timm.

    Attributes:
      reduction: quotient of the channels and the outputs of the first dense layer, which has one
        output at least; 16 in the paper.
    """

    reduction: int

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"]
    ) -> Float32[Array, "batch 1 1 channels"]:
        """Returns factors between 0 and 1 of the channels of `x`."""
        channels = x.shape[-1]
        means = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        inner = max(1, channels // self.reduction)
        hidden = nn.relu(nn.Dense(inner, kernel_init=he_normal, name="fc1")(means))
        weights = nn.sigmoid(nn.Dense(channels, kernel_init=he_normal, name="fc2")(hidden))
        return weights[:, None, None, :]
