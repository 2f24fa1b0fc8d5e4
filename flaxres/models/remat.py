"""Rematerialization of blocks: inner activations are recomputed for the gradient, not kept.

Chen et al. 2016 (arXiv 1604.06174). `nn.remat` does not save memory on a CPU. It separates the
recomputation from the first computation by optimization barriers, which XLA's CPU backend removes
before it merges equal computations, so that all activations are kept nevertheless.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from flaxres.models.residual_branch import DropFactor
from flaxres.platforms import traced_platform

PyTree = Any


def remat(
    block: nn.Module,
    x: Float[Array | np.ndarray, "batch height width channels"],
    drop_factor: DropFactor = None,
) -> Float[Array, "batch out_height out_width filters"]:
    """Returns `block(x, drop_factor)` and keeps only the arguments for the gradient.

    Values, gradients, variables and their names are those of the call itself. Call it in a compact
    method.

    Args:
      block: a bound module that uses no random numbers.
      x: its first argument.
      drop_factor: its second argument.
    """
    unbound = block.clone(parent=None)

    def forward(block: nn.Module, *args: Any) -> tuple[jax.Array, tuple[PyTree, Any]]:
        variables = block.variables  # read before the call updates the running statistics
        return block(*args), (variables, args)

    def backward(
        residuals: tuple[PyTree, Any], dy: jax.Array
    ) -> tuple[dict[str, PyTree] | jax.Array | None, ...]:
        variables, args = residuals
        params = add_dependency(variables["params"], dy)

        def recompute(params: PyTree, *args: Any) -> jax.Array:
            return unbound.apply({**variables, "params": params}, *args, mutable=["batch_stats"])[0]

        dparams, *dargs = jax.vjp(recompute, params, *args)[1](dy)
        return {"params": dparams}, *dargs

    if block.is_initializing():
        return block(x, drop_factor)
    call = nn.custom_vjp(lambda block, *args: block(*args), forward, backward)
    return call(block, x, drop_factor)


def add_dependency(params: PyTree, dy: Float[Array, ...]) -> PyTree:
    """Returns `params` in such a way that whatever uses them is computed after `dy`.

    XLA then cannot merge that computation with an equal one that does not depend on `dy`. As XLA's
    CPU backend removes optimization barriers early, a CPU selects the parameters if an element of
    `dy` is finite, which XLA cannot know at compile time. Otherwise they become NaN; the step has
    diverged in this case anyway.

    Args:
      params: arrays of floating-point dtype.
      dy: the array to wait for, with at least one element.
    """
    if traced_platform() != "cpu":
        return lax.optimization_barrier((params, dy))[0]
    is_finite = jnp.isfinite(dy[(0,) * dy.ndim])
    return jax.tree.map(lambda leaf: jnp.where(is_finite, leaf, jnp.nan), params)
