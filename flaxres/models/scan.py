"""Blocks of equal structure as one loop, so that compilation time does not grow with depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from flaxres.models.residual_branch import DropFactor


def scan_blocks(
    model: nn.Module,
    blocks: Mapping[str, nn.Module],
    x: Float[Array, "batch height width channels"],
    remat: bool,
    drop_factors: Float32[Array, "blocks ..."] | None = None,
) -> Float[Array, "batch height width channels"]:
    """Applies blocks one after the other. Call it in the compact method of `model`.

    Values, gradients, variables and their names are those of calling the blocks directly. The loop
    reads the stacked variables of the blocks and writes back the updated running statistics.

    Args:
      model: the module whose compact method makes this call.
      blocks: submodules of `model` by name. They may differ only in their names, keep the shape of
        `x`, and use no random numbers.
      x: input of the first block.
      remat: if True, only the input of each block is kept for the gradient.
      drop_factors: second argument of each block; None for None.
    """
    # Unbound, so that it can be applied to the variables of every block.
    template = next(iter(blocks.values())).clone(parent=None, name=None)

    def step(
        x: Float[Array, "batch height width channels"], inputs: tuple[dict[str, Any], DropFactor]
    ) -> tuple[Float[Array, "batch height width channels"], Any]:
        variables, drop_factor = inputs
        y, updated = template.apply(variables, x, drop_factor, mutable=["batch_stats"])
        return y, updated.get("batch_stats", {})

    block_variables = [block.variables for block in blocks.values()]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *block_variables)
    # In a loop nothing can merge the recomputation with the first computation.
    step = jax.checkpoint(step, prevent_cse=False) if remat else step
    x, batch_stats = jax.lax.scan(step, x, (stacked, drop_factors))
    if model.is_mutable_collection("batch_stats") and batch_stats:
        for i, name in enumerate(blocks):
            block_stats = jax.tree.map(lambda leaf, i=i: leaf[i], batch_stats)
            model.put_variable("batch_stats", name, block_stats)
    return x
