"""Creation of a model from its config: `create_model(config.model, num_classes=10)`."""

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
    """Builds the model that a config describes.

    Args:
      config: an experiment's `config.model`: the fields in `flaxres.models.fields.FIELDS`, and
        name, norm, norm_momentum and norm_epsilon.
      num_classes: number of outputs of the classification head.
      dtype: dtype of the computation, such as 'float32' or 'bfloat16'.
      axis: name of a device axis. Batch norm then uses statistics over all devices of this axis;
        with None, each device uses statistics of its own images.
      frozen: names of layers whose norms also use running statistics in training, as
        `flaxres.models.layers.is_frozen` reads them.

    Returns:
      A module with `__call__(images, train)` that returns float32 logits (batch, num_classes).

    Raises:
      ValueError: the family has no model of this depth.
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
