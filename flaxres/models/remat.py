"""Rematerialisation of blocks: inner results are computed again for the gradient, not kept.

Chen et al. 2016 (arXiv 1604.06174). `nn.remat` is not enough on a CPU: it keeps the second
computation apart from the first by optimization barriers, which XLA's CPU backend takes away before
it merges equal computations, and then everything is kept after all.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

PyTree = Any


def remat(block: nn.Module, x: jax.Array) -> jax.Array:
    """`block(x)`, of which only `x` is kept for the gradient; to be called in a compact method.

    Values, gradients, variables and their names are those of `block(x)`.

    Args:
      block: a module that is bound to its parent, without random numbers.
      x: its only argument.
    """
    alone = block.clone(parent=None)

    def forward(block: nn.Module, x: jax.Array):
        variables = block.variables  # those before the call, which updates the running statistics
        return block(x), (variables, x)

    def backward(saved: tuple[PyTree, jax.Array], dy: jax.Array):
        variables, x = saved
        params = after(dy, variables["params"])

        def again(params: PyTree, x: jax.Array) -> jax.Array:
            return alone.apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

        dparams, dx = jax.vjp(again, params, x)[1](dy)
        return {"params": dparams}, dx

    if block.is_initializing():
        return block(x)
    return nn.custom_vjp(lambda block, x: block(x), forward, backward)(block, x)


def after(dy: jax.Array, params: PyTree) -> PyTree:
    """`params`, but nothing that uses them can be computed before `dy` is, or merged with others.

    XLA's CPU backend takes optimization barriers away early. There the parameters are chosen if a
    number of `dy` is finite, which it cannot know beforehand; else the step has diverged anyway.
    """
    if jax.default_backend() != "cpu":
        return lax.optimization_barrier((params, dy))[0]
    holds = jnp.isfinite(dy[(0,) * dy.ndim])
    return jax.tree.map(lambda leaf: jnp.where(holds, leaf, jnp.nan), params)
