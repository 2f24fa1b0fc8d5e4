"""Shortcuts of residual blocks, and how they meet the block's output.

Options A, B and C are those of He15 (arXiv 1512.03385), section 4.1:

A: identity; where the size changes, stride and zero channels, so no parameters at all.
B: identity; where the size changes, a 1x1 projection with norm.
C: a projection in every block.
'none' is the plain net: the block has no shortcut.

The rest are those that He16 (arXiv 1603.05027), section 3, compares with A in ResNet-110; x is the
output of option A, F that of the block's layers, and g a gate: sigmoid of a 1x1 convolution.

scale: scale * x + F.
exclusive-gate: (1 - g) * x + g * F.
shortcut-gate: (1 - g) * x + F.
dropout: dropout(x) + F.

The paper's "1x1 conv shortcut" is C.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxres.errors import ConfigError
from flaxres.models.layers import Layers
from flaxres.models.norms import norm_relu

GATES = ("exclusive-gate", "shortcut-gate")
SHORTCUTS = ("A", "B", "C", "none", "scale", *GATES, "dropout")


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """Which one, and its numbers.

    Attributes:
      option: one of `SHORTCUTS`.
      scale: of 'scale'.
      gate_bias: of the gates' convolutions at the start, so that they begin nearly shut.
      dropout_rate: of 'dropout'.
      dropout: whether to drop anything, as in training; it takes the random numbers 'dropout'.
    """

    option: str
    scale: float = 0.5
    gate_bias: float = -6.0
    dropout_rate: float = 0.5
    dropout: bool = False


def pad_shortcut(x: jax.Array, filters: int, stride: int) -> jax.Array:
    """Option A: every `stride`-th pixel from the first, and zero channels after the old ones.

    Args:
      x: (batch, height, width, channels).
      filters: channels of the result, at least those of `x`.
      stride: 1 keeps every pixel.

    Returns:
      (batch, ceil(height / stride), ceil(width / stride), filters), the dtype of `x`.

    Raises:
      ConfigError: fewer filters than channels.
    """
    if filters < x.shape[-1]:
        raise ConfigError(
            f"shortcut option A can only add channels, not take {x.shape[-1]} to {filters}; "
            "use option B or C"
        )
    x = x[:, ::stride, ::stride, :]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, filters - x.shape[-1])))


class Projection(nn.Module):
    """1x1 convolution with stride, then norm (He15, equation 2), if there is one."""

    filters: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels) -> (batch, ceil(h/stride), ceil(w/stride), filters)."""
        x = self.conv(self.filters, 1, self.stride, name="conv")(x)
        return x if self.norm is None else self.norm(name="norm")(x)


def apply_shortcut(
    shortcut: Shortcut, x: jax.Array, *, filters: int, stride: int, layers: Layers
) -> jax.Array | None:
    """The shortcut's output for block input `x`; to be called inside the block's compact method.

    Args:
      shortcut: which one.
      x: (batch, height, width, channels).
      filters: channels of the block's output.
      stride: of the block.
      layers: constructors; `norm` may be None, for projections without one.

    Returns:
      What is added to the block's last layer; None for 'none'.

    Raises:
      ValueError: an option that is not one of `SHORTCUTS`.
      ConfigError: A where it cannot be.
    """
    option = shortcut.option
    if option not in SHORTCUTS:
        raise ValueError(f"model.shortcut must be one of {', '.join(SHORTCUTS)}, got {option!r}")
    if option == "none":
        return None
    same_size = stride == 1 and x.shape[-1] == filters
    if option == "C" or (option == "B" and not same_size):
        return Projection(filters, stride, *layers, name="shortcut")(x)
    y = x if same_size else pad_shortcut(x, filters, stride)
    if option == "scale":
        return shortcut.scale * y
    if option == "dropout":
        return nn.Dropout(shortcut.dropout_rate, deterministic=not shortcut.dropout)(y)
    return y


def apply_gate(
    shortcut: Shortcut, x: jax.Array, *, filters: int, stride: int, layers: Layers
) -> jax.Array | None:
    """The gate of a block with input `x`, in 0..1, of the shape of its output; None without one."""
    if shortcut.option not in GATES:
        return None
    bias = nn.initializers.constant(shortcut.gate_bias)
    gate = layers.conv(filters, 1, stride, use_bias=True, bias_init=bias, name="gate")(x)
    return nn.sigmoid(gate)


def add_and_relu(
    shortcut: Shortcut,
    x: jax.Array,
    norm: nn.Module,
    y: jax.Array,
    *,
    stride: int,
    layers: Layers,
) -> jax.Array:
    """ReLU of the sum of norm(y) and the shortcut: the end of a block of He15.

    Args:
      shortcut: which one.
      x: the block's input.
      norm: its last norm.
      y: what that takes, the output of the last convolution.
      stride: of the block.
      layers: constructors.
    """
    options = {"filters": y.shape[-1], "stride": stride, "layers": layers}
    gate = apply_gate(shortcut, x, **options)
    around = apply_shortcut(shortcut, x, **options)
    if gate is None:
        return norm_relu(norm, y, add=around)
    y = norm(y)
    y = gate * y if shortcut.option == "exclusive-gate" else y
    return nn.relu((1 - gate) * around + y)
