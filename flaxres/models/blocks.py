"""Building blocks: the weighted layers between two additions."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from flaxres.models.norms import norm_relu, norm_relu_conv
from flaxres.models.shortcuts import apply_shortcut


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with norm; the shortcut is added before the last ReLU.

    He15 (arXiv 1512.03385), figure 2 and section 3.3. With shortcut 'none' these are two layers of
    the plain net, so a plain and a residual net differ in the addition and in nothing else.

    Attributes:
      filters: output channels of both convolutions.
      stride: of the first convolution.
      shortcut: A, B, C or none.
      conv: constructor of convolutions (no padding chosen yet).
      norm: constructor of norms.
    """

    filters: int
    stride: int
    shortcut: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels) -> (batch, ceil(h/stride), ceil(w/stride), filters)."""
        # Explicit padding: 'SAME' would pad (0, 1) at stride 2 and shift the image by half a pixel.
        padding = ((1, 1), (1, 1))
        y = self.conv(self.filters, (3, 3), self.stride, padding=padding, name="conv1")(x)
        conv2 = functools.partial(self.conv, self.filters, (3, 3), 1, padding=padding, name="conv2")
        y = norm_relu_conv(self.norm(name="norm1"), conv2, y)
        shortcut = apply_shortcut(
            self.shortcut,
            x,
            filters=self.filters,
            stride=self.stride,
            conv=self.conv,
            norm=self.norm,
        )
        return norm_relu(self.norm(name="norm2"), y, add=shortcut)
