"""Merging of RepVGG's branches: each layer becomes one 3x3 convolution with a bias.

Ding et al. 2021 (arXiv 2101.03697), section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from flaxres.models.initializers import dirac_kernel


def merge_branches(variables: Mapping[str, Any], epsilon: float = 1e-5) -> dict[str, Any]:
    """Merges the three branches of every layer into one convolution.

    Args:
      variables: 'params' and 'batch_stats' of a `RepVgg` with branches.
      epsilon: constant that the norms add to the variance.

    Returns:
      Variables of the `RepVgg` with `merged=True` and, with the CIFAR stem, of the plain network
      with norm 'none'. In evaluation the logits are equal, except for rounding.
    """

    def merge(params: Mapping[str, Any], stats: Mapping[str, Any]) -> dict[str, Any]:
        if "conv3x3" in params:
            return _merge_layer(params, stats, epsilon)
        return {
            name: merge(value, stats.get(name, {})) if isinstance(value, Mapping) else value
            for name, value in params.items()
        }

    return {"params": merge(variables["params"], variables["batch_stats"]), "batch_stats": {}}


def _merge_layer(
    params: Mapping[str, Any], stats: Mapping[str, Any], epsilon: float
) -> dict[str, Array]:
    """Returns the kernel and the bias of a merged layer."""
    kernels = {
        "norm3x3": params["conv3x3"]["kernel"],
        "norm1x1": jnp.pad(params["conv1x1"]["kernel"], ((1, 1), (1, 1), (0, 0), (0, 0))),
    }
    if "norm_identity" in params:
        kernels["norm_identity"] = dirac_kernel(params["conv3x3"]["kernel"].shape)
    kernel, bias = jnp.zeros(()), jnp.zeros(())
    for name, branch in kernels.items():
        scale = params[name]["scale"] / jnp.sqrt(stats[name]["var"] + epsilon)
        kernel = kernel + branch * scale
        bias = bias + params[name]["bias"] - stats[name]["mean"] * scale
    return {"kernel": kernel, "bias": bias}
