"""Nets by name: each family is a file here and has its lines in `MODELS`."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from flaxres.models.cifar import CifarNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "plain": CifarNet,
    "resnet": CifarNet,
}


def create_model(
    config: ConfigDict, num_classes: int, dtype: str = "float32", axis: str | None = None
) -> nn.Module:
    """Builds the net that `config` (an experiment's `config.model`) describes.

    Args:
      config: name, depth, shortcut, widths, norm, norm_momentum, norm_epsilon, remat.
      num_classes: outputs of the last layer.
      dtype: of the computation, float32 or bfloat16.
      axis: name of an axis of devices whose images batch norm takes together; None for each alone.

    Returns:
      A module with `__call__(images, train) -> float32 logits`.
    """
    return MODELS[config.name](
        depth=config.depth,
        shortcut=config.shortcut,
        num_classes=num_classes,
        widths=tuple(config.widths),
        norm=config.norm,
        norm_momentum=config.norm_momentum,
        norm_epsilon=config.norm_epsilon,
        dtype=jnp.dtype(dtype),
        axis=axis,
        remat=config.remat,
    )
