"""Pre-activation blocks of He16 (arXiv 1603.05027): norm and ReLU precede each convolution."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flaxres.models.blocks import Block, Bottleneck
from flaxres.models.norms import norm_relu, norm_relu_conv
from flaxres.models.residual_branch import DropFactor, branch_factor, scale_branch
from flaxres.models.shortcuts import apply_shortcut


class PreActBlock(Block, kw_only=True):
    """Base class of the blocks of He16 (arXiv 1603.05027), figure 4e: norm and ReLU come first.

    Attributes:
      activate_both: if True, the first norm and ReLU also apply to the shortcut, as in the first
        block of a model and where the size changes.
    """

    activate_both: bool = False

    def begin(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        conv1: Callable[..., nn.Module],
    ) -> tuple[
        Float[Array | np.ndarray, "batch height width channels"],
        Float[Array, "batch inner_height inner_width inner_filters"],
    ]:
        """Applies the first norm, ReLU and convolution.

        Args:
          x: the block's input.
          conv1: constructor of the first convolution, called without positional arguments.

        Returns:
          The input of the shortcut, and the output of the first convolution.
        """
        norm = self.layers.norm(name="norm1")
        if self.activate_both:
            y, x = self.fork(conv1, norm_relu(norm, x))
            return x, y
        return x, norm_relu_conv(norm, conv1, x)

    def add(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        y: Float[Array, "batch out_height out_width filters"],
        drop_factor: DropFactor,
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Ends the residual branch `y` and adds the shortcut of `x`. A projection has no norm."""
        factor = branch_factor(self.branch, drop_factor, self.filters)
        branch = jnp.asarray(scale_branch(self.branch, y, factor))
        shortcut_output = apply_shortcut(
            self.shortcut,
            x,
            filters=self.filters,
            stride=self.stride,
            layers=self.layers,
            norm_projections=False,
        )
        return branch if shortcut_output is None else jnp.add(shortcut_output, branch)


class PreActBasicBlock(PreActBlock):
    """Two 3x3 convolutions, each after a norm and ReLU."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        drop_factor: DropFactor = None,
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Applies the block."""
        conv, norm = self.layers
        conv1 = functools.partial(conv, self.filters, 3, self.conv_stride, name="conv1")
        x, y = self.begin(x, conv1)
        last: dict[str, Any] = {"kernel_init": self.last_kernel_init(before_norm=False)}
        conv2 = functools.partial(conv, self.filters, 3, name="conv2", **last)
        return self.add(x, self.last_conv(norm(name="norm2"), conv2, y), drop_factor)


class PreActBottleneckBlock(PreActBlock, Bottleneck, kw_only=True):
    """1x1, 3x3 and 1x1 convolutions, each after a norm and ReLU."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        drop_factor: DropFactor = None,
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Applies the block."""
        conv, norm = self.layers
        conv1, conv2 = self.inner_convs()
        x, y = self.begin(x, conv1)
        y = norm_relu_conv(norm(name="norm2"), conv2, y)
        last: dict[str, Any] = {"kernel_init": self.last_kernel_init(before_norm=False)}
        conv3 = functools.partial(conv, self.filters, 1, name="conv3", **last)
        return self.add(x, self.last_conv(norm(name="norm3"), conv3, y), drop_factor)
