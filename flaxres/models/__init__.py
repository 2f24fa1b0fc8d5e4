"""Nets from their fields: `create_model(config.model, ...)`. Each family is a file here."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from ml_collections import ConfigDict

from flaxres.models.layers import BaseModel
from flaxres.models.registry import FAMILIES


def create_model(
    config: ConfigDict,
    num_classes: int,
    dtype: str = "float32",
    axis: str | None = None,
    frozen: Sequence[str] = (),
) -> BaseModel:
    """Builds the net that `config` (an experiment's `config.model`) describes.

    Args:
      config: see `flaxres.models.registry.FIELDS`; and name, norm, norm_momentum, norm_epsilon.
      num_classes: outputs of the last layer.
      dtype: of the computation, float32 or bfloat16.
      axis: name of an axis of devices whose images batch norm takes together; None for each alone.
      frozen: layers whose norms use running statistics in training too; see `layers.is_frozen`.

    Returns:
      A module with `__call__(images, train) -> float32 logits`.

    Raises:
      ValueError: a depth that the family does not have.
    """
    return FAMILIES[config.name].build(config)(
        num_classes=num_classes,
        norm=config.norm,
        norm_momentum=config.norm_momentum,
        norm_epsilon=config.norm_epsilon,
        dtype=jnp.dtype(dtype),
        axis=axis,
        frozen=tuple(frozen),
    )
