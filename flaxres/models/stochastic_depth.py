"""Stochastic depth: residual branches that are dropped at random in training.

Huang et al. 2016 (arXiv 1603.09382). The probability of a drop grows linearly with the number of
the block, up to that of the last block.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Key
from ml_collections import ConfigDict

from flaxres.models.family import require, require_one_of
from flaxres.models.layers import BaseModel

DROP_PATH_SCOPES = ("batch", "image")


@dataclasses.dataclass(frozen=True)
class StochasticDepth:
    """Drop rates of residual blocks, and the factors of their branches.

    With scope 'batch', as in the paper, a block is dropped for a whole batch, also on all devices.
    The branch is multiplied by 0 or 1 in training and by its survival rate in evaluation
    (equations 2 and 5). Block l of L is dropped with probability rate * l / L (equation 4). Unlike
    in the paper, a dropped block is computed, so its norms update their running statistics.

    With scope 'image', as in timm 1.0 (`timm.layers.DropPath`, `timm.models.resnet.make_blocks`), a
    block is dropped for each image by itself. The branch is multiplied by 0 or by the inverse of
    its survival rate in training, and is unchanged in evaluation. Block l of L is dropped with
    probability rate * (l - 1) / (L - 1), so the first block is never dropped.

    Attributes:
      rate: probability of dropping the branch of the last block; 0 for no stochastic depth.
      scope: one of `DROP_PATH_SCOPES`.
    """

    rate: float = 0.0
    scope: str = "batch"

    def survival_rates(self, num_blocks: int) -> Float32[np.ndarray, " blocks"]:
        """Returns the probability that each block keeps its residual branch."""
        if self.scope == "batch":
            drop_rates = self.rate * np.arange(1, num_blocks + 1) / num_blocks
        else:
            drop_rates = np.linspace(0, self.rate, num_blocks)
        return (1 - drop_rates).astype(np.float32)

    def evaluation_factors(self, num_blocks: int) -> Float32[Array, " blocks"] | None:
        """Returns the factor of each branch in evaluation; None if all are 1."""
        if not self.rate or self.scope == "image":
            return None
        return jnp.asarray(self.survival_rates(num_blocks))

    def factors(
        self, model: BaseModel, num_blocks: int, batch_size: Any, train: bool
    ) -> Float32[Array, "blocks ..."] | None:
        """Returns the factors of all residual branches; None if all are 1.

        Args:
          model: the model, whose compact method makes this call.
          num_blocks: number of its residual blocks.
          batch_size: number of images of this call; in an export, a symbolic dimension of JAX.
          train: if True, the factors are drawn; if False, they are those of the evaluation.

        Returns:
          (blocks,) or, for factors of each image, (blocks, batch).
        """
        if not train or not self.rate or model.is_initializing():
            return self.evaluation_factors(num_blocks)
        is_shared = self.scope == "batch"
        key = model.shared_key() if is_shared else model.image_keys(batch_size)
        return self.draw_factors(key, num_blocks).T

    def draw_factors(
        self, key: Key[Array, "*images"], num_blocks: int
    ) -> Float32[Array, "*images blocks"]:
        """Draws the factor of each branch in training.

        Args:
          key: random key of the batch (scope 'batch') or of each image (scope 'image').
          num_blocks: number of residual blocks of the model.
        """
        rates = self.survival_rates(num_blocks)
        if key.ndim:
            return jax.vmap(lambda image_key: self.draw_factors(image_key, num_blocks))(key)
        is_kept = jax.random.uniform(key, (num_blocks,)) < rates
        return jnp.where(is_kept, np.float32(1) if self.scope == "batch" else 1 / rates, 0)


def check_drop_path(model: ConfigDict) -> None:
    """Checks the fields of stochastic depth in an experiment's `config.model`.

    Raises:
      ConfigError: a field has a value that is not allowed.
    """
    require_one_of(model, "drop_path_scope", DROP_PATH_SCOPES)
    require(0 <= model.drop_path < 1, model, "drop_path", "at least 0 and below 1")
    if model.name == "plain":
        require(model.drop_path == 0, model, "drop_path", "0 for a model without shortcuts")
