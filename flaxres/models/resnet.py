"""Plain, residual, pre-activation and ResNeXt models: stem, stages of blocks, pooling, head.

He15 (arXiv 1512.03385), sections 3.3 and 4.2; He16 (arXiv 1603.05027); Xie17 (arXiv 1611.05431).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from flaxres.models.blocks import (
    BasicBlock,
    Block,
    BottleneckBlock,
)
from flaxres.models.imagenet_stem import ImageNetStem
from flaxres.models.layers import (
    STEM_STRIDES,
    BaseModel,
    apply_stem,
    check_size,
    classify,
    three_equal_stages,
)
from flaxres.models.norms import norm_relu
from flaxres.models.preact_blocks import PreActBasicBlock, PreActBottleneckBlock
from flaxres.models.residual_branch import ADDITION_ONLY, BranchOptions
from flaxres.models.shortcuts import Shortcut
from flaxres.models.stages import apply_stages
from flaxres.models.stochastic_depth import StochasticDepth

EXPANSION = 4  # output channels of a bottleneck for each filter of its stage (He15, table 1)
# Number of blocks in each stage of the ImageNet models, by depth: He15, table 1.
IMAGENET_STAGES = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}
LAYERS_PER_BLOCK = {"basic": 2, "bottleneck": 3}


def has_four_stages(depth: int, block: str, stem: str) -> bool:
    """Returns True if a model has the four stages of an ImageNet model.

    With the CIFAR stem, these are the models of 18 and 34 layers, which are no multiple of three
    stages. They are widely used on CIFAR, although no paper introduced them.

    Args:
      depth: number of weighted layers.
      block: 'basic' or 'bottleneck'.
      stem: 'cifar' or 'imagenet'.
    """
    return stem == "imagenet" or (block == "basic" and depth in IMAGENET_STAGES[block])


def default_widths(depth: int, block: str, stem: str) -> tuple[int, ...]:
    """Returns the number of filters in each stage: He15, section 4.2 and table 1."""
    return (64, 128, 256, 512) if has_four_stages(depth, block, stem) else (16, 32, 64)


def stages_of_depth(depth: int, block: str, stem: str) -> tuple[int, ...]:
    """Returns the number of blocks in each stage.

    With the CIFAR stem, each of three stages has n blocks. The depth is then 6n+2 with basic blocks
    (He15, section 4.2) and 9n+2 with bottlenecks (He16). With the ImageNet stem, and with basic
    blocks and 18 or 34 layers, stages are those of He15, table 1.

    Args:
      depth: number of weighted layers.
      block: 'basic' or 'bottleneck'.
      stem: 'cifar' or 'imagenet'.

    Raises:
      ValueError: there is no model of this depth.
    """
    if stem == "imagenet":
        stages = IMAGENET_STAGES[block]
        if depth not in stages:
            basic, bottleneck = (", ".join(map(str, depths)) for depths in IMAGENET_STAGES.values())
            raise ValueError(
                f"depth must be {basic} with basic blocks or {bottleneck} with bottleneck blocks "
                f"and the ImageNet stem, got {depth} with {block} blocks"
            )
        return stages[depth]
    if has_four_stages(depth, block, stem):
        return IMAGENET_STAGES[block][depth]
    period = 3 * LAYERS_PER_BLOCK[block]
    return three_equal_stages(depth, period, 2)


class ResNet(BaseModel, kw_only=True):
    """Residual models and, with shortcut 'none', plain models.

    Attributes:
      stages: number of blocks in each stage; all stages except the first halve the size.
      widths: number of filters in each stage; bottlenecks have `EXPANSION` times as many outputs.
      shortcut: the shortcut option and its settings.
      stem: 'cifar' or 'imagenet', as in `flaxres.models.layers.apply_stem`.
      block: 'basic' or 'bottleneck'.
      pre_activation: if True, norm and ReLU precede each convolution and follow the last block.
      groups: number of groups of the 3x3 convolutions in bottlenecks.
      group_width: channels of each group in the first stage, doubled in each later stage. With 0,
        the inner width of a bottleneck is that of its stage in `widths`.
      stride_on: convolution of a bottleneck that has the stride: '1x1' (the first) or '3x3'.
      zero_init: if True, each residual branch is initialized to zero.
      remat: if True, only the input of each block is kept for the gradient and the rest is
        recomputed (`flaxres.models.remat`).
      scan: if True, all blocks of a stage except the first run as one loop (`flaxres.models.scan`).
      imagenet_stem: options of the stem 'imagenet'.
      anti_alias: subsampling in the blocks, one of `flaxres.models.pooling.ANTI_ALIAS`.
      branch: operations at the end of each residual branch.
      stochastic_depth: rates at which residual branches are dropped in training.
      stem_width: number of filters before the first stage of a pre-activation model with the CIFAR
        stem; 0 for that of the first stage.

    Raises (when called):
      ValueError: the shortcut or the norm is unknown.
      ConfigError: option A is used with falling widths, or the images are smaller than the product
        of all strides.
    """

    stages: tuple[int, ...]
    widths: tuple[int, ...] = (16, 32, 64)
    shortcut: Shortcut
    stem: str = "cifar"
    block: str = "basic"
    pre_activation: bool = False
    groups: int = 1
    group_width: int = 0
    stride_on: str = "1x1"
    zero_init: bool = False
    remat: bool = False
    scan: bool = False
    imagenet_stem: ImageNetStem = ImageNetStem()
    anti_alias: str = "none"
    branch: BranchOptions = ADDITION_ONLY
    stochastic_depth: StochasticDepth = StochasticDepth()
    stem_width: int = 0

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "batch height width channels"], train: bool
    ) -> Float32[Array, "batch classes"]:
        """Returns the logits of a batch of normalized images.

        Args:
          images: a batch of any size, number of channels and floating-point dtype.
          train: if True, norms use statistics of the batch and update the running statistics
            (`batch_stats` must be mutable). If False, they use the running statistics.
        """
        check_size(images, STEM_STRIDES[self.stem] * 2 ** (len(self.stages) - 1))
        layers = self.layers(train, "norm")
        x = jnp.asarray(images, self.dtype)
        if self.pre_activation and self.stem == "cifar":  # the first block begins with a norm
            x = layers.conv(self.stem_width or self.widths[0], 3, name="conv")(x)
        elif self.stem == "imagenet":
            layers = self.layers(train, self.imagenet_stem.first_norm)
            x = self.imagenet_stem.apply(x, self.widths[0], layers)
        else:
            x = apply_stem(self.stem, x, self.widths[0], layers)
        x = apply_stages(self, functools.partial(self._block, train=train), x, train)
        if self.pre_activation:
            x = norm_relu(self.layers(train, "last_norm").norm(name="last_norm"), x)
        return classify(x, self.num_classes)

    def _block(self, name: str, stage: int, is_first: bool, train: bool) -> Block:
        """Creates a block.

        Args:
          name: name of the submodule.
          stage: number of its stage, counted from 1.
          is_first: True for the first block of the stage.
          train: the argument of the model's call.
        """
        width = self.widths[stage - 1]
        options: dict[str, Any] = {
            "stride": 2 if stage > 1 and is_first else 1,
            "shortcut": dataclasses.replace(self.shortcut, apply_dropout=train),
            "layers": self.layers(train, name),
            "branch": self.branch,
            "anti_alias": self.anti_alias,
            "zero_init": self.zero_init,
            "name": name,
        }
        if self.pre_activation:
            options["activate_both"] = is_first
        if self.block == "basic":
            return self._basic_block(filters=width, **options)
        grouped_filters = self.groups * self.group_width * 2 ** (stage - 1)
        return (PreActBottleneckBlock if self.pre_activation else BottleneckBlock)(
            filters=EXPANSION * width,
            inner_filters=grouped_filters or width,
            groups=self.groups,
            stride_on=self.stride_on,
            **options,
        )

    def _basic_block(self, **options: Any) -> Block:
        """Creates a block of two 3x3 convolutions."""
        return (PreActBasicBlock if self.pre_activation else BasicBlock)(**options)
