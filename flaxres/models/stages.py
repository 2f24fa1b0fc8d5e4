"""Stages of residual blocks, with stochastic depth, rematerialization and loops."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import flax.linen as nn
from jaxtyping import Array, Float

from flaxres.models.layers import is_frozen
from flaxres.models.remat import remat
from flaxres.models.scan import scan_blocks
from flaxres.models.stochastic_depth import StochasticDepth


@runtime_checkable
class StagedModel(Protocol):
    """Attributes of a model that `apply_stages` reads; `flaxres.models.resnet` describes them."""

    stages: tuple[int, ...]
    remat: bool
    scan: bool
    stochastic_depth: StochasticDepth
    frozen: tuple[str, ...]


def apply_stages(
    model: StagedModel,
    make_block: Callable[[str, int, bool], nn.Module],
    x: Float[Array, "batch height width channels"],
    train: bool,
) -> Float[Array, "batch out_height out_width filters"]:
    """Applies all blocks of a model. Call it in the model's compact method.

    Args:
      model: a Flax module.
      make_block: function of a block's name ('stage1_block1'), the number of its stage, counted
        from 1, and whether it is the first of its stage. It returns the block, which is called with
        the feature maps and the factor of stochastic depth.
      x: output of the stem.
      train: if True, residual branches are dropped, and `remat` is used.
    """
    assert isinstance(model, nn.Module)
    is_remat = model.remat and train
    drop_factors = model.stochastic_depth.factors(model, sum(model.stages), x.shape[0], train)
    first = 0  # index of the stage's first block
    for stage, count in enumerate(model.stages, start=1):
        names = [f"stage{stage}_block{i}" for i in range(1, count + 1)]
        blocks = {name: make_block(name, stage, name == names[0]) for name in names}
        # A loop needs equal blocks. The first one changes the size and may have a projection.
        is_loop = model.scan and count > 2 and not model.is_initializing()
        if len({is_frozen(name, model.frozen) for name in names[1:]}) > 1:
            is_loop = False
        for i, name in enumerate(names[:1] if is_loop else names, start=first):
            drop_factor = None if drop_factors is None else drop_factors[i]
            call = functools.partial(remat, blocks[name]) if is_remat else blocks[name]
            x = call(x, drop_factor)
        if is_loop:
            loop_blocks = {name: blocks[name] for name in names[1:]}
            factors = None if drop_factors is None else drop_factors[first + 1 : first + count]
            x = scan_blocks(model, loop_blocks, x, is_remat, factors)
        first += count
    return x
