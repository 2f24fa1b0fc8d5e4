"""The CIFAR nets of He15 (arXiv 1512.03385), section 4.2: plain and residual, 6n+2 layers."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxres.cpu.kernels import conv_general_dilated
from flaxres.models.blocks import BasicBlock
from flaxres.models.norms import make_norm, norm_relu
from flaxres.models.remat import remat

# He-2015 (arXiv 1502.01852), equation 10: zero-mean Gaussian of std sqrt(2 / fan_in).
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def blocks_per_stage(depth: int) -> int:
    """N of depth = 6n+2: n blocks of two layers in each of three stages.

    Raises:
      ValueError: there is no such n, or it is 0.
    """
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        raise ValueError(f"depth must be 6n+2 (20, 32, 44, ...), got {depth}")
    return n


class CifarNet(nn.Module):
    """3x3 conv, three stages of n blocks at full, half and quarter size, mean over space, dense.

    Attributes:
      depth: weighted layers on the longest path, 6n+2.
      shortcut: A, B, C, or none for the plain net.
      num_classes: outputs.
      widths: filters of the three stages.
      norm: see `flaxres.models.norms`.
      norm_momentum: weight of the old running statistics.
      norm_epsilon: added to the variance.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis: see `flaxres.models.norms`.
      remat: keep only the input of each block for the gradient; see `flaxres.models.remat`.

    Raises (when called):
      ValueError: depth is not 6n+2, or an unknown shortcut or norm.
    """

    depth: int
    shortcut: str
    num_classes: int
    widths: tuple[int, int, int] = (16, 32, 64)
    norm: str = "batch"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    axis: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Logits of a batch of normalised images.

        Args:
          x: float (batch, height, width, channels), any size and channel count.
          train: use the batch's statistics and update the running ones (`batch_stats` must be
            mutable), instead of normalising by the running ones.

        Returns:
          float32 (batch, num_classes).
        """
        conv = functools.partial(
            nn.Conv,
            use_bias=self.norm == "none",  # a norm has its own bias
            kernel_init=he_normal,
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
        )
        norm = make_norm(
            self.norm,
            train=train,
            dtype=self.dtype,
            momentum=self.norm_momentum,
            epsilon=self.norm_epsilon,
            axis=self.axis,
        )
        x = jnp.asarray(x, self.dtype)
        x = conv(self.widths[0], (3, 3), 1, padding=((1, 1), (1, 1)), name="conv")(x)
        x = norm_relu(norm(name="norm"), x)
        for stage, filters in enumerate(self.widths, start=1):
            for block in range(1, blocks_per_stage(self.depth) + 1):
                module = BasicBlock(
                    filters,
                    stride=2 if stage > 1 and block == 1 else 1,
                    shortcut=self.shortcut,
                    conv=conv,
                    norm=norm,
                    name=f"stage{stage}_block{block}",
                )
                x = remat(module, x) if self.remat and train else module(x)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(self.num_classes, kernel_init=he_normal, name="dense")(x)
