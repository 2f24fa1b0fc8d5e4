"""Blocks: the weighted layers of a residual branch together with its shortcut.

With shortcut 'none' a block consists of layers of the plain network. A plain and a residual model
therefore differ only in the addition.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float

from flaxres.models.layers import Layers, conv_and_pass, he_normal
from flaxres.models.norms import NoNorm, norm_relu, norm_relu_conv
from flaxres.models.pooling import ANTI_ALIAS
from flaxres.models.residual_branch import ADDITION_ONLY, BranchOptions, DropFactor
from flaxres.models.shortcuts import Shortcut, add_and_relu

BLOCKS = ("basic", "bottleneck")
STRIDES_ON = ("1x1", "3x3")
AUTO_STRIDE = "auto"  # depends on pretrained weights; '1x1' without


class Block(nn.Module, kw_only=True):
    """Base class of all blocks.

    A block maps (batch, height, width, channels) to (batch, ceil(height / stride),
    ceil(width / stride), filters). Its second argument is the factor of stochastic depth that
    multiplies the residual branch: float32, () or (batch,), or None for none.

    Attributes:
      filters: number of output channels.
      stride: stride of the first convolution, unless the block's class says otherwise.
      shortcut: the shortcut option and its settings.
      layers: constructors of convolutions and norms.
      branch: operations at the end of the residual branch.
      anti_alias: subsampling where the stride is 2, one of `ANTI_ALIAS`. Unless it is 'none', the
        convolution has stride 1, and its norm and ReLU are followed by the subsampling: Zhang 2019
        (arXiv 1904.11486), section 3.2.
      zero_init: if True, the residual branch is initialized to zero: the scale of its last norm, or
        else its last kernel, is zero (Goyal 2017, arXiv 1706.02677, section 5.1).
    """

    filters: int
    stride: int = 1
    shortcut: Shortcut
    layers: Layers
    branch: BranchOptions = ADDITION_ONLY
    anti_alias: str = "none"
    zero_init: bool = False

    def fork(
        self,
        conv1: Callable[..., nn.Module],
        x: Float[Array | np.ndarray, "batch height width channels"],
    ) -> tuple[
        Float[Array, "batch inner_height inner_width inner_filters"],
        Float[Array | np.ndarray, "batch height width channels"],
    ]:
        """Applies the first convolution.

        Args:
          conv1: its constructor, called without positional arguments.
          x: its input and that of the shortcut.

        Returns:
          Its output, and the input of the shortcut, which is `x`.
        """
        # The gradient of subsampling is mostly zeros, which XLA adds without storing them.
        is_dense = self.stride == 1 or self.shortcut.option in ("B", "C")
        if self.shortcut.option == "none" or not is_dense:
            return conv1()(x), x
        return conv_and_pass(conv1, x)

    @property
    def conv_stride(self) -> int:
        """Stride of the convolution that subsamples, unless a pooling does."""
        return self.stride if ANTI_ALIAS[self.anti_alias] is None else 1

    def last_conv(
        self,
        norm: nn.Module,
        conv: Callable[..., nn.Module],
        y: Float[Array, "batch inner_height inner_width inner_filters"],
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Applies norm, ReLU, the pooling of `anti_alias`, and the last convolution.

        Args:
          norm: the norm.
          conv: constructor of the convolution, called without positional arguments.
          y: the output of the last convolution but one.
        """
        subsample = ANTI_ALIAS[self.anti_alias]
        if subsample is None or self.stride == 1:
            return norm_relu_conv(norm, conv, y)
        return conv()(subsample(norm_relu(norm, y), self.stride))

    def last_norm(self, name: str) -> nn.Module:
        """Returns the norm before the addition."""
        has_scale = self.layers.norm is not NoNorm
        scale = {"scale_init": nn.initializers.zeros} if self.zero_init and has_scale else {}
        return self.layers.norm(name=name, **scale)

    def last_kernel_init(self, before_norm: bool) -> nn.initializers.Initializer:
        """Returns the initializer of the last convolution's kernel.

        Args:
          before_norm: True if the block places a norm after this convolution.
        """
        has_norm_after = before_norm and self.layers.norm is not NoNorm
        return nn.initializers.zeros if self.zero_init and not has_norm_after else he_normal


class PostActBlock(Block):
    """Base class of the blocks of He15: a norm after each convolution, ReLU after the addition."""

    def finish(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        y: Float[Array, "batch inner_height inner_width inner_filters"],
        number: int,
        size: int,
        drop_factor: DropFactor,
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Applies norm and ReLU, the last convolution with its norm, the shortcut, and ReLU.

        Args:
          x: the block's input.
          y: the output of the last convolution but one.
          number: number of the last convolution, counted from 1.
          size: height and width of its kernel.
          drop_factor: factor of stochastic depth.
        """
        conv, norm = self.layers
        kernel_init = self.last_kernel_init(before_norm=True)
        last_conv = functools.partial(
            conv, self.filters, size, name=f"conv{number}", kernel_init=kernel_init
        )
        y = self.last_conv(norm(name=f"norm{number - 1}"), last_conv, y)
        last_norm = self.last_norm(f"norm{number}")
        return add_and_relu(
            self.shortcut,
            x,
            last_norm,
            y,
            stride=self.stride,
            layers=self.layers,
            branch=self.branch,
            drop_factor=drop_factor,
        )


class BasicBlock(PostActBlock):
    """Two 3x3 convolutions, each with a norm; the shortcut is added before the last ReLU.

    He15 (arXiv 1512.03385), figure 2 and section 3.3.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        drop_factor: DropFactor = None,
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Applies the block."""
        conv1 = functools.partial(self.layers.conv, self.filters, 3, self.conv_stride, name="conv1")
        y, x = self.fork(conv1, x)
        return self.finish(x, y, number=2, size=3, drop_factor=drop_factor)


class Bottleneck(Block, kw_only=True):
    """Base class of bottlenecks: the first two of 1x1, 3x3 and 1x1 convolutions.

    Attributes:
      inner_filters: number of filters of the first two convolutions.
      groups: number of groups of the 3x3 convolution.
      stride_on: convolution that has the stride: '1x1' (the first) as in the papers of He, or
        '3x3' as in Xie17 and in the variant known as v1.5.
    """

    inner_filters: int
    groups: int = 1
    stride_on: str = "1x1"

    def inner_convs(self) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
        """Returns constructors of both convolutions, called without positional arguments."""
        conv, filters = self.layers.conv, self.inner_filters
        strides = (self.stride, 1) if self.stride_on == "1x1" else (1, self.conv_stride)
        return (
            functools.partial(conv, filters, 1, strides[0], name="conv1"),
            functools.partial(conv, filters, 3, strides[1], self.groups, name="conv2"),
        )


class BottleneckBlock(PostActBlock, Bottleneck, kw_only=True):
    """1x1, 3x3 and 1x1 convolutions, each with a norm; ReLU after the addition.

    He15, figure 5 right. With several groups it is the block of ResNeXt: Xie17 (arXiv 1611.05431),
    figure 3c.
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        drop_factor: DropFactor = None,
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Applies the block."""
        conv1, conv2 = self.inner_convs()
        y, x = self.fork(conv1, x)
        y = norm_relu_conv(self.layers.norm(name="norm1"), conv2, y)
        return self.finish(x, y, number=3, size=1, drop_factor=drop_factor)
