"""Nets without some of their blocks, or with two of them exchanged.

Veit, Wilber and Belongie 2016 (arXiv 1605.06431), section 4. All in one compiled program: blocks
are dropped by a mask, which is an argument, and exchanged by their variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from flaxres.errors import ConfigError
from flaxres.models.resnet import stages_of_depth

FAMILIES = ("plain", "resnet", "preact", "resnext")  # nets of `flaxres.models.resnet`


def blocks(model: ConfigDict) -> list[list[str]]:
    """Names of all blocks, by stage.

    Args:
      model: the fields of a net, `config.model`.

    Raises:
      ConfigError: a net that is not one of stages of blocks.
    """
    if model.name not in FAMILIES:
        raise ConfigError(
            f"blocks can be dropped from {', '.join(FAMILIES)} nets, got model.name={model.name!r}"
        )
    counts = stages_of_depth(model.depth, model.block, model.stem)
    return [
        [f"stage{stage}_block{block}" for block in range(1, count + 1)]
        for stage, count in enumerate(counts, start=1)
    ]


def droppable(model: ConfigDict) -> list[list[str]]:
    """Names of the blocks that keep size and channels, by stage; those of a stage are of one shape.

    All but the first of each stage. The first of stage 1 keeps them too where blocks are basic; not
    a bottleneck, which has `EXPANSION` times the stem's channels. In a pre-activation net it stays:
    its shortcut leaves after its norm and ReLU, which are what the stem of other nets ends in.

    Args:
      model: the fields of a net, `config.model`.

    Raises:
      ConfigError: a net that is not one of stages of blocks, or has none that can be dropped.
    """
    first_too = model.block == "basic" and model.name != "preact"
    stages = [
        names if number == 0 and first_too else names[1:]
        for number, names in enumerate(blocks(model))
    ]
    if not any(stages):
        raise ConfigError(
            f"a {model.name} net of depth {model.depth} has no block that keeps size and channels, "
            "so none can be dropped; choose a deeper one"
        )
    return stages


def apply_kept(model: nn.Module, names: Sequence[str]) -> Callable[..., jax.Array]:
    """Returns `apply(variables, images, keep) -> logits` by running statistics.

    `keep`, bool (len(names),), says which of the blocks `names` stay. In the place of one that is
    dropped comes its input. For a residual block that is its identity shortcut alone, as the input
    of a post-activation block is not negative, so that the ReLU after the addition leaves it as it
    is; shortcuts with weights, gates or a scale are dropped with their block.

    Args:
      model: a net of `flaxres.models.resnet` that calls its blocks one by one.
      names: of blocks that keep size and channels.
    """
    numbers = {name: number for number, name in enumerate(names)}

    def apply(variables: Mapping, images: jax.Array, keep: jax.Array) -> jax.Array:
        def choose(call, arguments, options, context):
            y = call(*arguments, **options)
            number = numbers.get("/".join(context.module.path))
            if number is None or context.method_name != "__call__":
                return y
            # Not a product with the mask: a block that is not finite is dropped all the same.
            return jnp.where(keep[number], y, arguments[0])

        with nn.intercept_methods(choose):
            return model.apply(variables, images, train=False)

    return apply


def exchange(variables: Mapping, one: str, other: str) -> dict:
    """The variables with those of two blocks of one shape exchanged, in every collection."""
    exchanged = {}
    for collection, own in variables.items():
        exchanged[collection] = dict(own)
        if one in own:
            exchanged[collection] |= {one: own[other], other: own[one]}
    return exchanged
