"""Shortcuts of residual blocks: options A, B and C of He15 (arXiv 1512.03385), section 4.1.

A: identity; where the size changes, stride and zero channels, so no parameters at all.
B: identity; where the size changes, a 1x1 projection with norm.
C: a projection in every block.
'none' is the plain net: the block has no shortcut.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

SHORTCUTS = ("A", "B", "C", "none")


def pad_shortcut(x: jax.Array, filters: int, stride: int) -> jax.Array:
    """Option A: every `stride`-th pixel from the first, and zero channels after the old ones.

    Args:
      x: (batch, height, width, channels).
      filters: channels of the result, at least those of `x`.
      stride: 1 keeps every pixel.

    Returns:
      (batch, ceil(height / stride), ceil(width / stride), filters), the dtype of `x`.
    """
    x = x[:, ::stride, ::stride, :]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, filters - x.shape[-1])))


class Projection(nn.Module):
    """1x1 convolution with stride, then norm (He15, equation 2)."""

    filters: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels) -> (batch, ceil(h/stride), ceil(w/stride), filters)."""
        x = self.conv(self.filters, (1, 1), self.stride, padding="VALID", name="conv")(x)
        return self.norm(name="norm")(x)


def apply_shortcut(
    option: str,
    x: jax.Array,
    *,
    filters: int,
    stride: int,
    conv: Callable[..., nn.Module],
    norm: Callable[..., nn.Module],
) -> jax.Array | None:
    """The shortcut's output for block input `x`; to be called inside the block's compact method.

    Returns:
      What is added to the block's last norm; None for 'none'.

    Raises:
      ValueError: `option` is not one of `SHORTCUTS`.
    """
    if option == "none":
        return None
    same_size = stride == 1 and x.shape[-1] == filters
    if option in ("A", "B") and same_size:
        return x
    if option == "A":
        return pad_shortcut(x, filters, stride)
    if option in ("B", "C"):
        return Projection(filters, stride, conv, norm, name="shortcut")(x)
    raise ValueError(f"model.shortcut must be one of {', '.join(SHORTCUTS)}, got {option!r}")
