"""Plain, residual, pre-activation and ResNeXt nets: a stem, stages of blocks, mean, dense layer.

He15 (arXiv 1512.03385), sections 3.3 and 4.2; He16 (arXiv 1603.05027); Xie17 (arXiv 1611.05431).
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxres.models.blocks import (
    BasicBlock,
    Block,
    BottleneckBlock,
    PreActBasicBlock,
    PreActBottleneckBlock,
)
from flaxres.models.layers import (
    STEM_STRIDES,
    BaseModel,
    apply_stem,
    check_size,
    classify,
    is_frozen,
)
from flaxres.models.norms import norm_relu
from flaxres.models.remat import remat
from flaxres.models.scan import scan_blocks
from flaxres.models.shortcuts import Shortcut

EXPANSION = 4  # output channels of a bottleneck for each filter of its stage (He15, table 1)
# Blocks in each stage of the ImageNet nets, by depth: He15, table 1.
IMAGENET_STAGES = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}
LAYERS = {"basic": 2, "bottleneck": 3}  # of a block


def stages_of_depth(depth: int, block: str, stem: str) -> tuple[int, ...]:
    """Blocks in each stage.

    With the CIFAR stem n in each of three stages: 6n+2 layers of basic blocks (He15, section 4.2),
    9n+2 of bottlenecks (He16). With the ImageNet stem as in He15, table 1.

    Raises:
      ValueError: there is no such net.
    """
    if stem == "imagenet":
        depths = IMAGENET_STAGES[block]
        if depth not in depths:
            known = ", ".join(map(str, depths))
            raise ValueError(
                f"depth must be {known} with {block} blocks and ImageNet's stem, got {depth}"
            )
        return depths[depth]
    period = 3 * LAYERS[block]
    n, rest = divmod(depth - 2, period)
    if n < 1 or rest:
        first = ", ".join(str(period * n + 2) for n in (3, 5, 7))
        raise ValueError(f"depth must be {period}n+2 ({first}, ...), got {depth}")
    return (n,) * 3


class ResNet(BaseModel, kw_only=True):
    """All residual nets and, with shortcut 'none', the plain ones.

    Attributes:
      stages: blocks in each; all but the first halve the size.
      widths: filters of the stages; bottlenecks put out `EXPANSION` times as many.
      shortcut: see `flaxres.models.shortcuts`.
      stem: see `flaxres.models.layers.apply_stem`.
      block: basic or bottleneck.
      pre_activation: norm and ReLU before each convolution, with a last pair after the last block.
      groups: of the 3x3 convolutions in bottlenecks.
      group_width: channels of each group in the first stage, doubled in each that follows; 0 for a
        bottleneck that is as wide inside as `widths` says.
      stride_on: see `flaxres.models.blocks.BottleneckBlock`.
      zero_init: see `flaxres.models.blocks.Block`.
      remat: keep only the input of each block for the gradient; see `flaxres.models.remat`.
      scan: all but the first block of a stage are one loop; see `flaxres.models.scan`.

    Raises (when called):
      ValueError: an unknown shortcut or norm.
      ConfigError: option A with falling widths, or images smaller than all strides together.
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

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Logits of a batch of normalised images.

        Args:
          x: float (batch, height, width, channels), any size and channel count.
          train: use the batch's statistics and update the running ones (`batch_stats` must be
            mutable), instead of normalising by the running ones.

        Returns:
          float32 (batch, num_classes).
        """
        check_size(x, STEM_STRIDES[self.stem] * 2 ** (len(self.stages) - 1))
        layers = self.layers(train, "norm")
        x = jnp.asarray(x, self.dtype)
        if self.pre_activation and self.stem == "cifar":
            x = layers.conv(self.widths[0], 3, name="conv")(x)  # the first block begins with a norm
        else:
            x = apply_stem(self.stem, x, self.widths[0], layers)
        for stage, count in enumerate(self.stages, start=1):
            blocks = [self._block(stage, i, train) for i in range(1, count + 1)]
            # The first one changes the size, and may have another shortcut.
            in_loop = self.scan and count > 2 and not self.is_initializing()
            if len({is_frozen(block.name, self.frozen) for block in blocks[1:]}) > 1:
                in_loop = False  # they differ in more than their names
            for block in blocks[:1] if in_loop else blocks:
                x = remat(block, x) if self.remat and train else block(x)
            if in_loop:
                x = scan_blocks(self, blocks[1:], x, remat=self.remat and train)
        if self.pre_activation:
            x = norm_relu(self.layers(train, "last_norm").norm(name="last_norm"), x)
        return classify(x, self.num_classes)

    def _block(self, stage: int, block: int, train: bool) -> Block:
        """Block number `block` of stage number `stage`, both from 1."""
        name = f"stage{stage}_block{block}"
        width = self.widths[stage - 1]
        options = {
            "stride": 2 if stage > 1 and block == 1 else 1,
            "shortcut": dataclasses.replace(self.shortcut, dropout=train),
            "layers": self.layers(train, name),
            "zero_init": self.zero_init,
            "name": name,
        }
        if self.pre_activation:
            options["activate_both"] = block == 1
        if self.block == "basic":
            return (PreActBasicBlock if self.pre_activation else BasicBlock)(
                filters=width, **options
            )
        grouped = self.groups * self.group_width * 2 ** (stage - 1)
        return (PreActBottleneckBlock if self.pre_activation else BottleneckBlock)(
            filters=EXPANSION * width,
            inner=grouped or width,
            groups=self.groups,
            stride_on=self.stride_on,
            **options,
        )
