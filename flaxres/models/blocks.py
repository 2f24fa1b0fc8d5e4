"""Building blocks: the weighted layers between two additions.

With shortcut 'none' they are layers of the plain net, so a plain and a residual net differ in the
addition and in nothing else.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax

from flaxres.models.layers import Layers, he_normal
from flaxres.models.norms import NoNorm, norm_relu, norm_relu_conv
from flaxres.models.shortcuts import Shortcut, add_and_relu, apply_shortcut

BLOCKS = ("basic", "bottleneck")
STRIDES_ON = ("1x1", "3x3")


class Block(nn.Module, kw_only=True):
    """What all blocks have.

    (batch, height, width, channels) -> (batch, ceil(height/stride), ceil(width/stride), filters).

    Attributes:
      filters: output channels.
      stride: of the first convolution, unless the block says otherwise.
      shortcut: see `flaxres.models.shortcuts`.
      layers: constructors of convolutions and norms.
      zero_init: the last scale, or without one the last kernel, is zero at the start, so that the
        block begins as its shortcut (Goyal 2017, arXiv 1706.02677, section 5.1).
    """

    filters: int
    stride: int = 1
    shortcut: Shortcut
    layers: Layers
    zero_init: bool = False

    def last_norm(self, name: str) -> nn.Module:
        """The norm before the addition."""
        has_scale = self.layers.norm is not NoNorm
        scale = {"scale_init": nn.initializers.zeros} if self.zero_init and has_scale else {}
        return self.layers.norm(name=name, **scale)

    def last_kernel_init(self, before_norm: bool) -> nn.initializers.Initializer:
        """That of the last convolution; `before_norm` if a norm may follow it."""
        followed = before_norm and self.layers.norm is not NoNorm
        return nn.initializers.zeros if self.zero_init and not followed else he_normal


class PostActBlock(Block):
    """What blocks of He15 have: norm after each convolution, ReLU after the addition."""

    def finish(self, x: jax.Array, y: jax.Array, number: int, size: int) -> jax.Array:
        """Norm and ReLU of `y`, the last convolution, its norm, the shortcut of `x`, and ReLU.

        Args:
          x: the block's input.
          y: the output of the convolution before the last.
          number: of the last convolution.
          size: of its kernel.
        """
        conv, norm = self.layers
        last = {"name": f"conv{number}", "kernel_init": self.last_kernel_init(before_norm=True)}
        last_conv = functools.partial(conv, self.filters, size, **last)
        y = norm_relu_conv(norm(name=f"norm{number - 1}"), last_conv, y)
        options = {"stride": self.stride, "layers": self.layers}
        return add_and_relu(self.shortcut, x, self.last_norm(f"norm{number}"), y, **options)


class BasicBlock(PostActBlock):
    """Two 3x3 convolutions, each with norm; the shortcut is added before the last ReLU.

    He15 (arXiv 1512.03385), figure 2 and section 3.3.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        y = self.layers.conv(self.filters, 3, self.stride, name="conv1")(x)
        return self.finish(x, y, number=2, size=3)


class BottleneckBlock(PostActBlock, kw_only=True):
    """1x1, 3x3 and 1x1 convolutions, each with norm, narrow on the inside; ReLU after the addition.

    He15, figure 5 right. With several groups the block of ResNeXt: Xie17 (arXiv 1611.05431),
    figure 3c.

    Attributes:
      inner: channels of the first two convolutions.
      groups: of the 3x3 convolution.
      stride_on: the convolution that has the stride: '1x1' as in the papers of He, '3x3' as in
        Xie17 and what is known as v1.5.
    """

    inner: int
    groups: int = 1
    stride_on: str = "1x1"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        conv, norm = self.layers
        y = conv(self.inner, 1, self.stride if self.stride_on == "1x1" else 1, name="conv1")(x)
        stride = self.stride if self.stride_on == "3x3" else 1
        conv2 = functools.partial(conv, self.inner, 3, stride, self.groups, name="conv2")
        y = norm_relu_conv(norm(name="norm1"), conv2, y)
        return self.finish(x, y, number=3, size=1)


class PreActBlock(Block, kw_only=True):
    """What blocks of He16 (arXiv 1603.05027), figure 4e, have: norm and ReLU before convolutions.

    Attributes:
      activate_both: the first norm and ReLU are taken before the shortcut leaves, as in the first
        block of a net and where the size changes.
    """

    activate_both: bool = False

    def begin(self, x: jax.Array, conv1) -> tuple[jax.Array, jax.Array]:
        """What the shortcut takes, and the first convolution's output."""
        norm = self.layers.norm(name="norm1")
        if self.activate_both:
            x = norm_relu(norm, x)
            return x, conv1()(x)
        return x, norm_relu_conv(norm, conv1, x)

    def add(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The sum, with a projection that has no norm."""
        layers = Layers(self.layers.conv, None)
        options = {"filters": self.filters, "stride": self.stride, "layers": layers}
        around = apply_shortcut(self.shortcut, x, **options)
        return y if around is None else around + y


class PreActBasicBlock(PreActBlock):
    """Two 3x3 convolutions."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        conv, norm = self.layers
        conv1 = functools.partial(conv, self.filters, 3, self.stride, name="conv1")
        x, y = self.begin(x, conv1)
        last = {"kernel_init": self.last_kernel_init(before_norm=False)}
        conv2 = functools.partial(conv, self.filters, 3, name="conv2", **last)
        return self.add(x, norm_relu_conv(norm(name="norm2"), conv2, y))


class PreActBottleneckBlock(PreActBlock, kw_only=True):
    """1x1, 3x3 and 1x1 convolutions, narrow on the inside.

    Attributes:
      inner, groups, stride_on: see `BottleneckBlock`.
    """

    inner: int
    groups: int = 1
    stride_on: str = "1x1"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        conv, norm = self.layers
        stride = self.stride if self.stride_on == "1x1" else 1
        x, y = self.begin(x, functools.partial(conv, self.inner, 1, stride, name="conv1"))
        stride = self.stride if self.stride_on == "3x3" else 1
        conv2 = functools.partial(conv, self.inner, 3, stride, self.groups, name="conv2")
        y = norm_relu_conv(norm(name="norm2"), conv2, y)
        last = {"kernel_init": self.last_kernel_init(before_norm=False)}
        conv3 = functools.partial(conv, self.filters, 1, name="conv3", **last)
        return self.add(x, norm_relu_conv(norm(name="norm3"), conv3, y))
