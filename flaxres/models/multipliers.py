"""Learnable factors and summands that do not depend on feature maps.

With a small factor at the end of each residual branch, a deep model starts near the identity:

- SkipInit (De and Smith 2020, arXiv 2002.10444, section 4): one factor for each branch, at first 0.
- ReZero (Bachlechner et al. 2021, arXiv 2003.04887, equation 1): the same factor.
- LayerScale (Touvron et al. 2021, arXiv 2103.17239, section 2): one factor for each channel, at
  first 0.1 to 1e-6; the deeper the model, the smaller.

Fixup (`flaxres.models.fixup`) has scalar factors and biases.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

BRANCH_SCALES = ("none", "scalar", "channel")


class Multiplier(nn.Module):
    """A learnable factor of all channels, or one for each channel.

    Attributes:
      initial: initial value.
      by_channel: if True, every channel has a factor of its own.
    """

    initial: float = 1.0
    by_channel: bool = False

    @nn.compact
    def __call__(self, channels: int) -> Float32[Array, "*channels"]:
        """Returns the factor, () or (channels,).

        Args:
          channels: number of channels of the feature maps.
        """
        shape = (channels,) if self.by_channel else (1,)
        scale = self.param("scale", nn.initializers.constant(self.initial), shape)
        return scale if self.by_channel else scale[0]


class ScalarBias(nn.Module):
    """A learnable summand of all values, initially 0."""

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch *size channels"]
    ) -> Float[Array, "batch *size channels"]:
        """Returns `x` plus the summand, in the dtype of `x`."""
        bias = self.param("bias", nn.initializers.zeros, (1,))
        return jnp.add(x, bias.astype(x.dtype))
