"""Models with some of their blocks dropped or swapped, after training.

Veit, Wilber and Belongie 2016 (arXiv 1605.06431), section 4. One compiled program evaluates all
these models: blocks are dropped with a mask, which is an argument, and swapped by swapping their
variables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from flaxres.errors import ConfigError
from flaxres.experiments.analyses.base import Variables, predict_logits
from flaxres.models.resnet import stages_of_depth

FAMILIES = ("plain", "resnet", "preact", "resnext")  # model families of `flaxres.models.resnet`


def block_names(model: ConfigDict) -> list[list[str]]:
    """Returns the names of all blocks, by stage.

    Args:
      model: fields of the model, `config.model`.

    Raises:
      ConfigError: the model does not consist of stages of blocks.
    """
    if model.name not in FAMILIES:
        raise ConfigError(
            f"blocks can be dropped from models of the families {', '.join(FAMILIES)}, got "
            f"model.name={model.name!r}"
        )
    counts = stages_of_depth(model.depth, model.block, model.stem)
    return [
        [f"stage{stage}_block{block}" for block in range(1, count + 1)]
        for stage, count in enumerate(counts, start=1)
    ]


def droppable_blocks(model: ConfigDict) -> list[list[str]]:
    """Returns the names of the blocks whose input and output have the same shape, by stage.

    These are all blocks except the first of each stage. The first block of stage 1 also keeps the
    shape if it is a basic block; a bottleneck block has `EXPANSION` times the channels of the stem.
    It is not dropped from a pre-activation model: its shortcut starts after its first norm and
    ReLU, which are part of the stem in other models.

    Args:
      model: fields of the model, `config.model`.

    Raises:
      ConfigError: the model does not consist of stages of blocks, or no block can be dropped.
    """
    includes_first = model.block == "basic" and model.name != "preact"
    stages = [
        names if number == 0 and includes_first else names[1:]
        for number, names in enumerate(block_names(model))
    ]
    if not any(stages):
        raise ConfigError(
            f"a {model.name} model of depth {model.depth} has no block whose input and output have "
            "the same shape, so no block can be dropped; choose a deeper model"
        )
    return stages


def make_masked_apply(
    model: nn.Module, names: Sequence[str]
) -> Callable[..., Float[Array, "batch classes"]]:
    """Returns `apply(variables, images, keep) -> logits`, with running statistics.

    `keep`, bool (len(names),), is False for the blocks to drop. A dropped block returns its input.
    For a residual block that equals its identity shortcut: the input of a post-activation block is
    not negative, so the ReLU after the addition does not change it. A shortcut with weights, gates
    or a scale is dropped with its block.

    Args:
      model: a model of `flaxres.models.resnet` with separate blocks (no scan).
      names: names of blocks whose input and output have the same shape.
    """
    indices = {name: index for index, name in enumerate(names)}

    def apply(
        variables: Variables,
        images: Float[Array, "batch height width channels"],
        keep: Bool[Array, " blocks"],
    ) -> Float[Array, "batch classes"]:
        def select_output(
            call: Callable[..., Any],
            arguments: tuple[Any, ...],
            options: dict[str, Any],
            context: nn.module.InterceptorContext,
        ) -> Any:
            y = call(*arguments, **options)
            index = indices.get("/".join(context.module.path))
            if index is None or context.method_name != "__call__":
                return y
            # A product with the mask would not drop a block whose output is not finite.
            return jnp.where(keep[index], y, arguments[0])

        with nn.intercept_methods(select_output):
            return predict_logits(model, variables, images)

    return apply


def swap_blocks(variables: Variables, first: str, second: str) -> Variables:
    """Returns the variables with two blocks of the same shape swapped, in every collection."""
    swapped = {}
    for collection, values in variables.items():
        swapped[collection] = dict(values)
        if first in values:
            swapped[collection] |= {first: values[second], second: values[first]}
    return swapped
