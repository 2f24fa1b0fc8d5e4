"""Shortcuts of residual blocks, and their addition to the residual branch.

Options A, B and C are those of He15 (arXiv 1512.03385), section 4.1:

A: identity; where the size changes, subsampling and zero padding of channels, without parameters.
B: identity; where the size changes, a 1x1 projection with norm.
C: a 1x1 projection with norm in every block.
none: no shortcut, as in the plain network.

The other options are those that He16 (arXiv 1603.05027), section 3, compares with A in ResNet-110.
Here x is the output of option A, F the residual branch, and g a gate: the sigmoid of a 1x1
convolution of the block's input.

scale: scale * x + F.
exclusive-gate: (1 - g) * x + g * F.
shortcut-gate: (1 - g) * x + F.
dropout: dropout(x) + F.

The paper's "1x1 conv shortcut" is C.

Two options learn how shortcut and branch are combined. They are in none of the papers in this form.

weighted: s * x + f * F, with learnable numbers s and f of each block, at first 1. Weights of the
    branch only are those of Shen and Zeng 2016 (arXiv 1605.08831).
concat: norm(W [x, F]), where W is a 1x1 convolution of the concatenated channels, which gives the
    block its number of output channels. Here x is only subsampled. The addition is W = [I, I]; W
    has He's initialization, so there is no identity path at first. DenseNets (Huang17, arXiv
    1608.06993) concatenate too, but keep all channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flaxres.errors import ConfigError
from flaxres.models.layers import Layers
from flaxres.models.multipliers import Multiplier
from flaxres.models.norms import norm_relu
from flaxres.models.pooling import average_pool
from flaxres.models.residual_branch import (
    ADDITION_ONLY,
    BranchOptions,
    DropFactor,
    branch_factor,
    is_foldable,
    scale_branch,
)
from flaxres.suggestions import did_you_mean

GATES = ("exclusive-gate", "shortcut-gate")
LEARNED_SHORTCUTS = ("weighted", "concat")
SHORTCUTS = ("A", "B", "C", "none", "scale", *GATES, "dropout", *LEARNED_SHORTCUTS)
PADDED_SHORTCUTS = (
    "A",
    "scale",
    *GATES,
    "dropout",
    "weighted",
)  # A and those that are built on it


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """A shortcut option and its settings.

    Attributes:
      option: one of `SHORTCUTS`.
      scale: factor of the shortcut with 'scale'.
      gate_bias: initial bias of the gate's convolution; a negative value starts with the gate
        nearly closed.
      dropout_rate: fraction of the values that 'dropout' sets to zero.
      pool_projections: if True, a projection that changes the size reads the means of 2x2 pixels
        and has stride 1: ResNet-D of He et al. 2019 (arXiv 1812.01187), section 4.1.
      apply_dropout: if True, 'dropout' drops values, as in training; it then reads random numbers
        from the stream 'dropout'.
    """

    option: str
    scale: float = 0.5
    gate_bias: float = -6.0
    dropout_rate: float = 0.5
    apply_dropout: bool = False
    pool_projections: bool = False


def pad_shortcut(
    x: Float[Array | np.ndarray, "batch height width channels"], filters: int, stride: int
) -> Float[Array, "batch out_height out_width filters"]:
    """Applies option A: keeps every `stride`-th pixel and appends channels of zeros.

    Args:
      x: the block's input.
      filters: number of channels of the result, at least as many as `x` has.
      stride: distance between the pixels that are kept, starting with the first.

    Returns:
      (batch, ceil(height / stride), ceil(width / stride), filters), of the dtype of `x`.

    Raises:
      ConfigError: `filters` is smaller than the number of channels of `x`.
    """
    if filters < x.shape[-1]:
        raise ConfigError(
            f"shortcut option A can only add channels, not reduce {x.shape[-1]} to {filters}; "
            "use option B or C"
        )
    subsampled = x[:, ::stride, ::stride, :]
    return jnp.pad(subsampled, ((0, 0), (0, 0), (0, 0), (0, filters - x.shape[-1])))


class Projection(nn.Module):
    """1x1 convolution with stride, followed by a norm unless it is None (He15, equation 2).

    Attributes:
      filters: number of output channels.
      stride: stride of the convolution.
      conv: constructor of convolutions.
      norm: constructor of norms, or None.
    """

    filters: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Returns (batch, ceil(height / stride), ceil(width / stride), filters)."""
        y = self.conv(self.filters, 1, self.stride, name="conv")(x)
        return y if self.norm is None else self.norm(name="norm")(y)


def apply_shortcut(
    shortcut: Shortcut,
    x: Float[Array | np.ndarray, "batch height width channels"],
    *,
    filters: int,
    stride: int,
    layers: Layers,
    norm_projections: bool = True,
) -> Float[Array | np.ndarray, "batch out_height out_width filters"] | None:
    """Computes the output of a block's shortcut. Call it in the block's compact method.

    Args:
      shortcut: the shortcut option and its settings.
      x: the block's input.
      filters: number of channels of the block's output.
      stride: stride of the block.
      layers: constructors of the block's layers.
      norm_projections: if True, a projection is followed by a norm.

    Returns:
      The array to add to the residual branch, or to concatenate with it, or None with option
      'none'.

    Raises:
      ValueError: the option is not one of `SHORTCUTS`.
      ConfigError: option A would have to remove channels.
    """
    option = shortcut.option
    if option not in SHORTCUTS:
        raise ValueError(
            f"model.shortcut must be one of {', '.join(SHORTCUTS)}, got {option!r}"
            f"{did_you_mean(option, SHORTCUTS)}"
        )
    if option == "none":
        return None
    if option == "concat":
        return x[:, ::stride, ::stride]
    same_size = stride == 1 and x.shape[-1] == filters
    if option == "C" or (option == "B" and not same_size):
        norm = layers.norm if norm_projections else None
        if shortcut.pool_projections and stride > 1:
            x, stride = average_pool(x, stride), 1
        return Projection(filters, stride, layers.conv, norm, name="shortcut")(x)
    identity = x if same_size else pad_shortcut(x, filters, stride)
    if option == "scale":
        return shortcut.scale * identity
    if option == "weighted":
        return jnp.asarray(identity * Multiplier(name="shortcut_weight")(filters), x.dtype)
    if option == "dropout":
        dropout = nn.Dropout(shortcut.dropout_rate, deterministic=not shortcut.apply_dropout)
        return dropout(identity)
    return identity


def apply_gate(
    shortcut: Shortcut,
    x: Float[Array | np.ndarray, "batch height width channels"],
    *,
    filters: int,
    stride: int,
    layers: Layers,
) -> Float[Array, "batch out_height out_width filters"] | None:
    """Computes the gate of a gated shortcut. Call it in the block's compact method.

    Args:
      shortcut: the shortcut option and its settings.
      x: the block's input.
      filters: number of channels of the block's output.
      stride: stride of the block.
      layers: constructors of the block's layers.

    Returns:
      Values between 0 and 1 of the shape of the block's output, or None without a gate.
    """
    if shortcut.option not in GATES:
        return None
    bias = nn.initializers.constant(shortcut.gate_bias)
    gate = layers.conv(filters, 1, stride, use_bias=True, bias_init=bias, name="gate")(x)
    return nn.sigmoid(gate)


def add_and_relu(
    shortcut: Shortcut,
    x: Float[Array | np.ndarray, "batch height width channels"],
    norm: nn.Module,
    y: Float[Array | np.ndarray, "batch out_height out_width filters"],
    *,
    stride: int,
    layers: Layers,
    branch: BranchOptions = ADDITION_ONLY,
    drop_factor: DropFactor = None,
) -> Float[Array, "batch out_height out_width filters"]:
    """Ends a block of He15: the ReLU of the normalized residual branch plus the shortcut.

    Args:
      shortcut: the shortcut option and its settings.
      x: the block's input.
      norm: the last norm of the residual branch.
      y: the input of `norm`, which is the output of the last convolution.
      stride: stride of the block.
      layers: constructors of the block's layers.
      branch: operations between the norm and the addition.
      drop_factor: factor of stochastic depth.
    """
    options: dict[str, Any] = {"filters": y.shape[-1], "stride": stride, "layers": layers}
    gate = apply_gate(shortcut, x, **options)
    shortcut_output = apply_shortcut(shortcut, x, **options)
    factor = branch_factor(branch, drop_factor, y.shape[-1])
    if shortcut.option == "concat" and shortcut_output is not None:
        both = jnp.concatenate([shortcut_output, scale_branch(branch, norm(y), factor)], axis=-1)
        y = layers.conv(y.shape[-1], 1, name="merge")(both)
        return norm_relu(layers.norm(name="merge_norm"), y)
    if shortcut.option == "weighted":
        weight = Multiplier(name="branch_weight")(y.shape[-1])
        factor = weight if factor is None else weight * factor
    is_gated = gate is not None and shortcut_output is not None
    if not is_gated and is_foldable(branch, factor):
        return norm_relu(norm, y, add=shortcut_output, factor=factor)
    y = scale_branch(branch, norm(y), factor)
    if gate is None or shortcut_output is None:
        return nn.relu(y if shortcut_output is None else shortcut_output + y)
    y = gate * y if shortcut.option == "exclusive-gate" else y
    return nn.relu((1 - gate) * shortcut_output + y)
