"""Gradient clipping by the norm of the gradient of all parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32

PyTree = Any


class ClipState(NamedTuple):
    """State of `clip_by_global_norm`, from which the norm is logged.

    Attributes:
      gradient_norm: float32, norm of the last gradient before it was clipped; 0 before the first
        step.
    """

    gradient_norm: Float32[Array, ""]


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Returns the transformation that scales gradients of a larger norm to `max_norm`.

    Pascanu et al. 2013 (arXiv 1211.5063), algorithm 1. The norm is the Euclidean norm of the
    gradients of all parameters together; gradients of at most `max_norm` do not change.

    Args:
      max_norm: largest norm, above 0.
    """
    clip = optax.clip_by_global_norm(max_norm)

    def init(params: PyTree) -> ClipState:
        del params
        return ClipState(jnp.float32(0))

    def update(
        gradients: PyTree, state: ClipState, params: PyTree = None
    ) -> tuple[PyTree, ClipState]:
        del state, params
        clipped, _ = clip.update(gradients, optax.EmptyState())
        return clipped, ClipState(optax.tree.norm(gradients))

    return optax.GradientTransformation(init, update)


def logged_gradient_norm(opt_state: optax.OptState) -> Float32[Array, "*replicas"] | None:
    """Returns the norm of the last gradient before it was clipped; None without clipping.

    Args:
      opt_state: state of `flaxres.training.optimizer.make_optimizer`.
    """
    first = opt_state[0] if isinstance(opt_state, tuple) and opt_state else None
    return first.gradient_norm if isinstance(first, ClipState) else None
