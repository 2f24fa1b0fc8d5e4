"""Fixup: residual networks without normalization (Zhang et al. 2019, arXiv 1901.09321).

The rules are those of section 3 of the paper:

1. The classification head and the last convolution of each residual branch are initialized to zero.
2. The other convolutions have He's initialization, and within residual branches their standard
   deviation is multiplied by L^(-1 / (2m - 2)): L residual branches with m convolutions each.
3. A scalar bias precedes each convolution, activation and the head, and each branch has a scalar
   multiplier, initially 1.

The places of the biases and multipliers are those of the paper's figure 1 (right). As in the
authors' models, a shortcut that changes the size reads the biased input of the first convolution.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from ml_collections import ConfigDict

from flaxres.models import resnet_families
from flaxres.models.blocks import BLOCKS, STRIDES_ON
from flaxres.models.family import (
    Family,
    NameForm,
    first_activations,
    require,
    require_one_of,
    require_widths,
)
from flaxres.models.layers import HEAD, STEM_STRIDES, BaseModel, Layers, check_size, make_conv
from flaxres.models.multipliers import Multiplier, ScalarBias
from flaxres.models.norms import NoNorm
from flaxres.models.residual_branch import (
    ADDITION_ONLY,
    DropFactor,
    branch_factor,
    scale_branch,
)
from flaxres.models.resnet import EXPANSION, default_widths, stages_of_depth
from flaxres.models.resnet_families import default_block
from flaxres.models.shortcuts import Shortcut, apply_shortcut
from flaxres.models.stages import apply_stages
from flaxres.models.stochastic_depth import StochasticDepth, check_drop_path


class FixupBlock(nn.Module, kw_only=True):
    """A basic block or a bottleneck without norms, with scalar biases and a scalar multiplier.

    The second argument of a call is the factor of stochastic depth, as in `flaxres.models.blocks`.

    Attributes:
      filters: number of output channels.
      inner_filters: number of filters of the first two convolutions of a bottleneck; 0 for a basic
        block.
      stride: stride of the block.
      stride_on: convolution of a bottleneck that has the stride, '1x1' (the first) or '3x3'.
      shortcut: the shortcut option: A, B or C.
      layers: constructors of convolutions without bias, and of no norm.
      num_branches: number of residual branches of the model.
    """

    filters: int
    inner_filters: int = 0
    stride: int = 1
    stride_on: str = "1x1"
    shortcut: Shortcut
    layers: Layers
    num_branches: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array | np.ndarray, "batch height width channels"],
        drop_factor: DropFactor = None,
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Applies the block."""
        convolutions = self._convolutions()
        last = len(convolutions)
        # He's variance is 2 / fan-in, and the rule is about the standard deviation.
        variance = 2.0 * self.num_branches ** (-2 / (2 * last - 2))
        scaled_he_normal = nn.initializers.variance_scaling(variance, "fan_in", "normal")
        y = biased = ScalarBias(name="bias1a")(x)
        for number, (filters, size, stride) in enumerate(convolutions, start=1):
            init = nn.initializers.zeros if number == last else scaled_he_normal
            conv = self.layers.conv(filters, size, stride, name=f"conv{number}", kernel_init=init)
            y = conv(y)
            if number < last:
                y = nn.relu(ScalarBias(name=f"bias{number}b")(y))
                y = ScalarBias(name=f"bias{number + 1}a")(y)
        y = jnp.asarray(y * Multiplier(name="scale")(self.filters), y.dtype)
        y = ScalarBias(name=f"bias{last}b")(y)
        factor = branch_factor(ADDITION_ONLY, drop_factor, self.filters)
        y = jnp.asarray(scale_branch(ADDITION_ONLY, y, factor))
        is_identity = self.stride == 1 and x.shape[-1] == self.filters
        shortcut_output = apply_shortcut(
            self.shortcut,
            x if is_identity else biased,
            filters=self.filters,
            stride=self.stride,
            layers=self.layers,
            norm_projections=False,
        )
        return nn.relu(y if shortcut_output is None else y + shortcut_output)

    def _convolutions(self) -> list[tuple[int, int, int]]:
        """Returns number of filters, kernel size and stride of each convolution."""
        if not self.inner_filters:
            return [(self.filters, 3, self.stride), (self.filters, 3, 1)]
        strides = (self.stride, 1) if self.stride_on == "1x1" else (1, self.stride)
        inner = [
            (self.inner_filters, size, stride) for size, stride in zip((1, 3), strides, strict=True)
        ]
        return [*inner, (self.filters, 1, 1)]


class Fixup(BaseModel, kw_only=True):
    """A residual network with Fixup's initialization, biases and multipliers instead of norms.

    Attributes:
      stages: number of blocks in each stage; all stages except the first halve the size.
      widths: number of filters in each stage; bottlenecks have `EXPANSION` times as many outputs.
      shortcut: the shortcut option: A, B or C.
      stem: 'cifar' (3x3 convolution) or 'imagenet' (7x7 convolution and 3x3 max pooling, each with
        stride 2).
      block: 'basic' or 'bottleneck'.
      stride_on: convolution of a bottleneck that has the stride: '1x1' (the first) or '3x3'.
      remat: if True, only the input of each block is kept for the gradient and the rest is
        recomputed (`flaxres.models.remat`).
      scan: if True, all blocks of a stage except the first run as one loop (`flaxres.models.scan`).
      stochastic_depth: rates at which residual branches are dropped in training.

    Raises (when called):
      ConfigError: option A is used with falling widths, or the images are smaller than the product
        of all strides.
    """

    stages: tuple[int, ...]
    widths: tuple[int, ...] = (16, 32, 64)
    shortcut: Shortcut
    stem: str = "cifar"
    block: str = "basic"
    stride_on: str = "1x1"
    remat: bool = False
    scan: bool = False
    stochastic_depth: StochasticDepth = StochasticDepth()

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "batch height width channels"], train: bool
    ) -> Float32[Array, "batch classes"]:
        """Returns the logits of a batch of normalized images.

        Args:
          images: a batch of any size, number of channels and floating-point dtype.
          train: if True, residual branches are dropped, and `remat` is used.
        """
        check_size(images, STEM_STRIDES[self.stem] * 2 ** (len(self.stages) - 1))
        layers = Layers(make_conv(dtype=self.dtype), NoNorm)
        x = jnp.asarray(images, self.dtype)
        size, stride = (3, 1) if self.stem == "cifar" else (7, 2)
        x = layers.conv(self.widths[0], size, stride, name="conv")(x)
        x = nn.relu(ScalarBias(name="bias1")(x))
        if self.stem == "imagenet":
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        x = apply_stages(self, functools.partial(self._block, layers=layers), x, train)
        x = ScalarBias(name="bias2")(jnp.mean(x.astype(jnp.float32), axis=(1, 2)))
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name=HEAD)(x)

    def _block(self, name: str, stage: int, is_first: bool, layers: Layers) -> FixupBlock:
        """Creates a block.

        Args:
          name: name of the submodule.
          stage: number of its stage, counted from 1.
          is_first: True for the first block of the stage.
          layers: constructors of its layers.
        """
        width = self.widths[stage - 1]
        options: dict[str, Any] = {"filters": width}
        if self.block == "bottleneck":
            options = {"filters": EXPANSION * width, "inner_filters": width}
        return FixupBlock(
            stride=2 if stage > 1 and is_first else 1,
            stride_on=self.stride_on,
            shortcut=self.shortcut,
            layers=layers,
            num_branches=sum(self.stages),
            name=name,
            **options,
        )


SHORTCUTS = ("A", "B", "C")


def _check(model: ConfigDict) -> None:
    require_one_of(model, "block", BLOCKS)
    require_one_of(model, "shortcut", SHORTCUTS)
    require(model.norm == "none", model, "norm", "none for Fixup")
    require_widths(model, "widths", len(stages_of_depth(model.depth, model.block, model.stem)))
    if model.shortcut == "A":
        rule = "non-decreasing, as shortcut option A can only add channels"
        require(list(model.widths) == sorted(model.widths), model, "widths", rule)
    require_one_of(model, "stride_on", STRIDES_ON)
    for field in ("remat", "scan"):
        require(type(model[field]) is bool, model, field, "true or false")
    check_drop_path(model)


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    fields: dict[str, Any] = {
        "stages": stages_of_depth(model.depth, model.block, model.stem),
        "widths": tuple(model.widths),
        "shortcut": Shortcut(model.shortcut),
        "stochastic_depth": StochasticDepth(model.drop_path, model.drop_path_scope),
    }
    fields |= {field: model[field] for field in ("stem", "block", "stride_on", "remat", "scan")}
    return lambda **common: Fixup(**fields, **common)


def _default_shortcut(stem: str) -> str:
    """Returns the shortcut option of the authors' models."""
    return "A" if stem == "cifar" else "B"


def _model_name(model: ConfigDict) -> str:
    name = f"fixup-{model.depth}"
    if model.block != default_block("resnet", model.depth, model.stem):
        name += f"-{model.block}"
    return name if model.shortcut == _default_shortcut(model.stem) else f"{name}-{model.shortcut}"


def _read(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    depth = int(groups["depth"])
    block = groups["block"] or default_block("resnet", depth, stem)
    return {
        "name": "fixup",
        "depth": depth,
        "block": block,
        "shortcut": groups["shortcut"] or _default_shortcut(stem),
        "widths": default_widths(depth, block, stem),
        "stride_on": "3x3" if block == "bottleneck" else "1x1",  # as in the authors' models
        "norm": "none",
    }


def _suggest(rest: str, stem: str) -> Iterator[str]:
    yield from (f"fixup-{{depth}}-{option}" for option in SHORTCUTS if option == rest.upper())
    yield "fixup-{depth}"


FAMILY = Family(
    (
        *("depth", "widths", "stem", "block", "shortcut", "stride_on", "remat", "scan"),
        *("drop_path", "drop_path_scope"),
    ),
    _check,
    _build,
    (
        NameForm(
            "fixup",
            r"fixup-(?P<depth>\d+)(?:-(?P<block>basic|bottleneck))?(?:-(?P<shortcut>A|B|C))?",
            _read,
            ("fixup-110", "fixup-50"),
            _suggest,
            ("fixup-resnet", "fixupresnet"),
        ),
    ),
    _model_name,
    resnet_families.FAMILIES["resnet"].min_params,
    first_activations,
)
