"""The residual units of StarGAN, Choi et al. 2018 (arXiv 1711.09020), table 4, as a classifier.

Two layers that halve the size, six residual units with instance norm and without ReLU after the
addition; here mean over space and a dense layer follow in the place of the decoder.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxres.models.layers import BaseModel, Layers, check_size, classify
from flaxres.models.norms import norm_relu, norm_relu_conv


class ResidualUnit(nn.Module):
    """x + norm(conv(ReLU(norm(conv(x))))), with 3x3 convolutions and nothing after the addition."""

    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels), the same out as in."""
        conv, norm = self.layers
        filters = x.shape[-1]
        y = conv(filters, 3, name="conv1")(x)
        conv2 = functools.partial(conv, filters, 3, name="conv2")
        y = norm_relu_conv(norm(name="norm1"), conv2, y)
        return x + norm(name="norm2")(y)


class StarGan(BaseModel, kw_only=True):
    """7x7 convolution, two of 4x4 with stride 2, each with norm and ReLU; units; mean; dense.

    Attributes:
      depth: residual units.
      widths: filters of the three convolutions.

    Raises (when called):
      ValueError: an unknown norm.
      ConfigError: images smaller than both strides together.
    """

    depth: int
    widths: tuple[int, ...] = (64, 128, 256)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Logits; arguments as those of `flaxres.models.resnet.ResNet`."""
        check_size(x, 2 ** (len(self.widths) - 1))
        layers = self.layers(train)
        x = jnp.asarray(x, self.dtype)
        for number, filters in enumerate(self.widths, start=1):
            size, stride, pad = (7, 1, 3) if number == 1 else (4, 2, 1)
            conv = layers.conv(
                filters, size, stride, padding=((pad, pad),) * 2, name=f"conv{number}"
            )
            norm = f"norm{number}"
            x = norm_relu(self.layers(train, norm).norm(name=norm), conv(x))
        for number in range(1, self.depth + 1):
            unit = f"unit{number}"
            x = ResidualUnit(self.layers(train, unit), name=unit)(x)
        return classify(x, self.num_classes)
