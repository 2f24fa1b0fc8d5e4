"""Learnable factors and summands: scales of residual branches, and Fixup's scalar biases.

With a small factor at the end of each residual branch, a deep model starts near the identity:

- SkipInit (De and Smith 2020, arXiv 2002.10444, section 4): one factor for each branch, at first 0.
- ReZero (Bachlechner et al. 2021, arXiv 2003.04887, equation 1): the same factor.
- LayerScale (Touvron et al. 2021, arXiv 2103.17239, section 2): one factor for each channel, at
  first 0.1 to 1e-6; the deeper the model, the smaller.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BRANCH_SCALES = ("none", "scalar", "channel")


class Multiplier(nn.Module):
    """A learnable factor, of all values or of each channel.

    Attributes:
      init: initial value.
      by_channel: if True, every channel has a factor of its own.
    """

    init: float = 1.0
    by_channel: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch *size channels"]
    ) -> Float[Array, "batch *size channels"]:
        """Returns `x` times the factor, in the dtype of `x`."""
        shape = x.shape[-1:] if self.by_channel else (1,)
        scale = self.param("scale", nn.initializers.constant(self.init), shape)
        return jnp.multiply(x, scale.astype(x.dtype))


class ScalarBias(nn.Module):
    """A learnable summand of all values, initially 0."""

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch *size channels"]
    ) -> Float[Array, "batch *size channels"]:
        """Returns `x` plus the summand, in the dtype of `x`."""
        bias = self.param("bias", nn.initializers.zeros, (1,))
        return jnp.add(x, bias.astype(x.dtype))


@dataclasses.dataclass(frozen=True)
class BranchScale:
    """Factor at the end of a residual branch, before the addition.

    Attributes:
      option: 'none', 'scalar' (one factor for each branch) or 'channel' (one for each channel).
      init: initial value of the factors.
    """

    option: str = "none"
    init: float = 0.0

    def __call__(
        self, y: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Scales the output of a residual branch. Call it in the block's compact method."""
        if self.option == "none":
            return y
        return Multiplier(self.init, self.option == "channel", name="branch_scale")(y)
