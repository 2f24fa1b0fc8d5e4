"""Equal blocks as one loop, so that a net of a thousand layers compiles like one of ten."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


def scan_blocks(
    net: nn.Module, blocks: Sequence[nn.Module], x: jax.Array, remat: bool
) -> jax.Array:
    """`x` through the blocks, one after the other; to be called in the compact method of `net`.

    Values, gradients, variables and their names are those of calling the blocks: the loop takes
    their variables in a stack and puts the updated running statistics back.

    Args:
      net: the module whose method this is called in.
      blocks: modules that are bound to it and differ in their names alone, without random numbers.
      x: what the first takes; all put out its shape.
      remat: keep only the input of each for the gradient.
    """
    alone = blocks[0].clone(parent=None, name=None)

    def step(x: jax.Array, variables: dict) -> tuple[jax.Array, dict]:
        y, updated = alone.apply(variables, x, mutable=["batch_stats"])
        return y, updated.get("batch_stats", {})

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(b.variables for b in blocks))
    # In a loop nothing can merge the second computation with the first.
    step = jax.checkpoint(step, prevent_cse=False) if remat else step
    x, batch_stats = jax.lax.scan(step, x, stacked)
    if net.is_mutable_collection("batch_stats") and batch_stats:
        for i, block in enumerate(blocks):
            own = jax.tree.map(lambda leaf, i=i: leaf[i], batch_stats)
            net.put_variable("batch_stats", block.name, own)
    return x
