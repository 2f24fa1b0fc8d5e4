"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545): convolutional networks with Transformers' design.

A block is a residual branch of a depthwise 7x7 convolution, a norm, and two 1x1 convolutions with
GELU between them, of which the first has four times as many filters (section 2 and figure 4).
There is one norm and one activation in a block, and nothing after the addition. A norm and a 2x2
convolution with stride 2 precede each stage except the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from ml_collections import ConfigDict

from flaxres.models.family import Family, NameForm, require_one_of, require_widths
from flaxres.models.layers import HEAD, BaseModel, Layers, check_size, make_conv, three_equal_stages
from flaxres.models.residual_branch import (
    BranchOptions,
    DropFactor,
    branch_factor,
    check_branch_scale,
    scale_branch,
)
from flaxres.models.stochastic_depth import StochasticDepth, check_drop_path

EXPANSION = 4  # filters of a block's first 1x1 convolution for each of its channels (section 2.4)
KERNEL_SIZE = 7  # of the depthwise convolutions (section 2.5)
PATCH = {"cifar": 1, "imagenet": 4}  # stride of the stem, by the name of the stem
STAGE_STRIDE = 2
initializer = nn.initializers.normal(0.02)  # of all kernels (appendix A.1)
NORMS = ("layer-channels", "layer", "group", "batch", "none")  # defined for a single pixel too

# Number of blocks in each stage of the ImageNet models, by depth.
IMAGENET_STAGES = {41: (2, 2, 6, 2), 47: (2, 2, 8, 2), 59: (3, 3, 9, 3), 113: (3, 3, 27, 3)}
# Depth and channels of the first stage of the ImageNet models, doubled in each later stage:
# section 3; those below tiny are timm's.
SIZES = {
    **{"atto": (41, 40), "femto": (41, 48), "pico": (41, 64), "nano": (47, 80)},
    **{"tiny": (59, 96), "small": (113, 96), "base": (113, 128), "large": (113, 192)},
}


def stages_of_depth(depth: int, stem: str) -> tuple[int, ...]:
    """Returns the number of blocks in each stage.

    The depth counts three layers for each block, the stem, the convolutions between stages and the
    classification head. With the CIFAR stem, three stages have n blocks each, and it is 9n+4.

    Args:
      depth: number of weighted layers.
      stem: 'cifar' or 'imagenet'.

    Raises:
      ValueError: there is no model of this depth.
    """
    if stem == "imagenet":
        if depth not in IMAGENET_STAGES:
            depths = ", ".join(map(str, IMAGENET_STAGES))
            raise ValueError(f"depth must be {depths} with the ImageNet stem, got {depth}")
        return IMAGENET_STAGES[depth]
    return three_equal_stages(depth, 9, 4)


class ConvNextBlock(nn.Module):
    """x + factor * conv(GELU(conv(norm(depthwise conv(x))))).

    Attributes:
      layers: constructors of convolutions with bias and of norms.
      branch: operations at the end of the residual branch; in the paper a learnable factor of each
        channel.
    """

    layers: Layers
    branch: BranchOptions

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], drop_factor: DropFactor = None
    ) -> Float[Array, "batch height width channels"]:
        """Applies the block; `drop_factor` is the factor of stochastic depth, or None."""
        conv, norm = self.layers
        channels = x.shape[-1]
        y = conv(channels, KERNEL_SIZE, groups=channels, name="conv1", kernel_init=initializer)(x)
        y = norm(name="norm")(y)
        y = conv(EXPANSION * channels, 1, name="conv2", kernel_init=initializer)(y)
        y = nn.gelu(y, approximate=False)
        y = conv(channels, 1, name="conv3", kernel_init=initializer)(y)
        return x + scale_branch(self.branch, y, branch_factor(self.branch, drop_factor, channels))


class ConvNext(BaseModel, kw_only=True):
    """A strided convolution, stages of blocks, pooling, a norm and the classification head.

    Attributes:
      stages: number of blocks in each stage; all stages except the first halve the size.
      widths: number of channels in each stage.
      stem: 'imagenet' for a 4x4 convolution with stride 4 (section 2.3), or 'cifar' for a 3x3
        convolution with stride 1; a norm follows.
      branch: operations at the end of each residual branch.
      stochastic_depth: rates at which residual branches are dropped in training.

    Raises (when called):
      ConfigError: the images are smaller than the product of all strides.
    """

    stages: tuple[int, ...]
    widths: tuple[int, ...]
    stem: str = "imagenet"
    branch: BranchOptions = BranchOptions(scale="channel", scale_init=1e-6)
    stochastic_depth: StochasticDepth = StochasticDepth()

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "batch height width channels"], train: bool
    ) -> Float32[Array, "batch classes"]:
        """Returns the logits of a batch of normalized images.

        Args:
          images: a batch of any floating-point dtype.
          train: if True, norms use statistics of the batch and update the running statistics.
        """
        stem_stride = PATCH[self.stem]
        check_size(images, stem_stride * STAGE_STRIDE ** (len(self.stages) - 1))
        x = jnp.asarray(images, self.dtype)
        drop_factors = self.stochastic_depth.factors(self, sum(self.stages), x.shape[0], train)
        factors: Iterator[DropFactor]
        factors = itertools.repeat(None) if drop_factors is None else iter(drop_factors)
        for stage, (count, width) in enumerate(zip(self.stages, self.widths, strict=True), 1):
            if stage == 1:
                x = self._downsample(x, width, stem_stride, "conv", train)
                x = self._layers(train, "norm").norm(name="norm")(x)
            else:
                norm = f"stage{stage}_norm"
                x = self._layers(train, norm).norm(name=norm)(x)
                x = self._downsample(x, width, STAGE_STRIDE, f"stage{stage}_conv", train)
            for number in range(1, count + 1):
                name = f"stage{stage}_block{number}"
                block = ConvNextBlock(self._layers(train, name), self.branch, name=name)
                x = block(x, next(factors))
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2), keepdims=True)
        x = self._layers(train, "last_norm").norm(name="last_norm")(x).astype(jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=initializer, name=HEAD)(x[:, 0, 0])

    def _layers(self, train: bool, name: str) -> Layers:
        """Returns the constructors of `BaseModel.layers`, with a bias in every convolution."""
        return self.layers(train, name)._replace(conv=make_conv(use_bias=True, dtype=self.dtype))

    def _downsample(
        self,
        x: Float[Array, "batch height width channels"],
        filters: int,
        stride: int,
        name: str,
        train: bool,
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Applies a convolution of patches that do not overlap, or a 3x3 one with stride 1."""
        conv = self._layers(train, name).conv
        padding = {} if stride == 1 else {"padding": ((0, 0), (0, 0))}
        size = 3 if stride == 1 else stride
        return conv(filters, size, stride, name=name, kernel_init=initializer, **padding)(x)


def _check(model: ConfigDict) -> None:
    require_widths(model, "widths", len(stages_of_depth(model.depth, model.stem)))
    require_one_of(model, "norm", NORMS)
    check_branch_scale(model)
    check_drop_path(model)


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    fields = {
        "stages": stages_of_depth(model.depth, model.stem),
        "widths": tuple(model.widths),
        "stem": model.stem,
        "branch": BranchOptions(scale=model.branch_scale, scale_init=model.branch_scale_init),
        "stochastic_depth": StochasticDepth(model.drop_path, model.drop_path_scope),
    }
    return lambda **common: ConvNext(**fields, **common)


def _min_params(model: ConfigDict, image_size: int) -> int:
    """Counts the weights of the convolutions in the blocks."""
    blocks = zip(stages_of_depth(model.depth, model.stem), model.widths, strict=True)
    return sum(
        count * (KERNEL_SIZE**2 * width + 2 * EXPANSION * width**2) for count, width in blocks
    )


def _first_activations(model: ConfigDict, image_size: int) -> int:
    return model.widths[0] * (image_size // PATCH[model.stem]) ** 2


def _widths(first: int, stages: int) -> tuple[int, ...]:
    return tuple(first * 2**stage for stage in range(stages))


def _model_name(model: ConfigDict) -> str:
    if model.stem == "imagenet":
        for size, (depth, width) in SIZES.items():
            if (depth, _widths(width, 4)) == (model.depth, tuple(model.widths)):
                return f"convnext-{size}"
    return f"convnext-{model.depth}"


def _read(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    size = groups["size"]
    if size is None:
        depth = int(groups["depth"])
        width = next((width for other, width in SIZES.values() if other == depth), 96)
    else:
        depth, width = SIZES[size]
    return {
        "name": "convnext",
        "depth": depth,
        "widths": _widths(32, 3) if stem == "cifar" else _widths(width, 4),
        "norm": "layer-channels",
        "norm_epsilon": 1e-6,
        "branch_scale": "channel",
        "branch_scale_init": 1e-6,  # section 3.1 and table 5
    }


FAMILY = Family(
    fields=(
        *("depth", "widths", "stem", "branch_scale", "branch_scale_init"),
        *("drop_path", "drop_path_scope"),
    ),
    check=_check,
    build=_build,
    name_forms=(
        NameForm(
            start="convnext",
            pattern=rf"convnext-(?:(?P<depth>\d+)|(?P<size>{'|'.join(SIZES)}))",
            read=_read,
            examples=("convnext-31", "convnext-tiny"),
        ),
    ),
    model_name=_model_name,
    min_params=_min_params,
    first_activations=_first_activations,
)
