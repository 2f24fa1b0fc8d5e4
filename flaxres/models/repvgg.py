"""RepVGG: plain networks whose layers have three branches in training and are merged afterwards.

Ding et al. 2021 (arXiv 2101.03697). In training, a layer is the ReLU of the sum of a 3x3
convolution with norm, a 1x1 convolution with norm and, where size and channels stay the same, a
norm of the input. `flaxres.models.repvgg_merging` turns each layer into one 3x3 convolution with a
bias.

With the CIFAR stem, a network has the layers, strides and widths of the plain network of the same
depth, and its merged variables are those of that plain network with `model.norm='none'`. With the
ImageNet stem, stages and widths are those of the paper, table 2.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from ml_collections import ConfigDict

from flaxres.models.family import (
    Family,
    NameForm,
    conv3x3_params,
    first_activations,
    require,
    require_widths,
)
from flaxres.models.layers import (
    BaseModel,
    Layers,
    check_size,
    classify,
    conv_and_pass,
    three_equal_stages,
)
from flaxres.models.norms import norm_relu

# Number of layers in each stage, by depth: Ding21, table 2. A stem layer comes before the stages.
IMAGENET_STAGES = {22: (2, 4, 14, 1), 28: (4, 6, 16, 1)}
# Depth and number of filters in each stage, by name: Ding21, table 2, without groups.
VARIANTS = {
    "a0": (22, (48, 96, 192, 1280)),
    "a1": (22, (64, 128, 256, 1280)),
    "a2": (22, (96, 192, 384, 1408)),
    "b0": (28, (64, 128, 256, 1280)),
    "b1": (28, (128, 256, 512, 2048)),
    "b2": (28, (160, 320, 640, 2560)),
    "b3": (28, (192, 384, 768, 2560)),
}
MAX_STEM_FILTERS = 64  # Ding21, section 3.4: min(64, 64a) filters in the first layer
CIFAR_LAYERS = 2  # layers of a block with the CIFAR stem, as in the plain network


def stages_of_depth(depth: int, stem: str) -> tuple[int, ...]:
    """Returns the number of blocks in each stage.

    With the CIFAR stem, each of three stages has n blocks of two layers, and the depth is 6n+2.
    With the ImageNet stem, a block has one layer.

    Args:
      depth: number of layers on the longest path. The paper's 22 and 28 layers do not include the
        classification head.
      stem: 'cifar' or 'imagenet'.

    Raises:
      ValueError: there is no model of this depth.
    """
    if stem == "imagenet":
        if depth not in IMAGENET_STAGES:
            depths = " or ".join(map(str, IMAGENET_STAGES))
            raise ValueError(f"depth must be {depths} with the ImageNet stem, got {depth}")
        return IMAGENET_STAGES[depth]
    return three_equal_stages(depth, 3 * CIFAR_LAYERS, 2)


def stem_filters(widths: Sequence[int], stem: str) -> int:
    """Returns the number of filters in the first layer, given those of each stage."""
    return min(MAX_STEM_FILTERS, widths[0]) if stem == "imagenet" else widths[0]


class RepVggLayer(nn.Module, kw_only=True):
    """ReLU of the sum of three branches: Ding21, figure 2b.

    Attributes:
      filters: number of filters.
      stride: stride of the convolutions.
      layers: constructors of convolutions and norms.
    """

    filters: int
    stride: int = 1
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Returns (batch, ceil(height / stride), ceil(width / stride), filters)."""
        conv, norm = self.layers
        conv3x3, conv1x1 = (
            functools.partial(conv, self.filters, size, self.stride, name=f"conv{size}x{size}")
            for size in (3, 1)
        )
        if self.stride == 1 and x.shape[-1] == self.filters:
            # On a CPU the gradients of the three branches are added by the convolutions' kernels.
            y, x = conv_and_pass(conv3x3, x)
            pixelwise, x = conv_and_pass(conv1x1, x)
            others = norm(name="norm1x1")(pixelwise) + norm(name="norm_identity")(x)
        else:
            y = conv3x3()(x)
            others = norm(name="norm1x1")(conv1x1()(x))
        return norm_relu(norm(name="norm3x3"), y, add=others)


def apply_layer(
    x: Float[Array | np.ndarray, "batch height width channels"],
    *,
    filters: int,
    stride: int,
    layers: Layers,
    merged: bool,
    name: str,
) -> Float[Array, "batch out_height out_width filters"]:
    """Applies a layer with branches, or a merged layer. Call it in a compact method.

    Args:
      x: feature maps.
      filters: number of filters.
      stride: stride of the layer.
      layers: constructors of convolutions and norms.
      merged: if True, the layer is one convolution with a bias and ReLU.
      name: name of the layer's module.
    """
    if merged:
        return nn.relu(layers.conv(filters, 3, stride, use_bias=True, name=name)(x))
    return RepVggLayer(filters=filters, stride=stride, layers=layers, name=name)(x)


class RepVggBlock(nn.Module, kw_only=True):
    """Layers with the same number of filters, one after the other.

    Attributes:
      filters: number of filters.
      stride: stride of the first layer.
      count: number of layers.
      layers: constructors of convolutions and norms.
      merged: argument of `apply_layer`.
    """

    filters: int
    stride: int
    count: int
    layers: Layers
    merged: bool

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width filters"]:
        """Returns (batch, ceil(height / stride), ceil(width / stride), filters)."""
        for number in range(1, self.count + 1):
            x = apply_layer(
                x,
                filters=self.filters,
                stride=self.stride if number == 1 else 1,
                layers=self.layers,
                merged=self.merged,
                name=f"conv{number}",
            )
        return jnp.asarray(x)


class RepVgg(BaseModel, kw_only=True):
    """A stem layer, stages of layers with branches, pooling and classification head.

    Attributes:
      stages: number of blocks in each stage.
      widths: number of filters in each stage.
      stem: 'cifar' (stages of two-layer blocks; all except the first halve the size) or 'imagenet'
        (blocks have one layer; the stem and all stages halve the size).
      merged: if True, each layer is one convolution with a bias.

    Raises (when called):
      ConfigError: the images are smaller than the product of all strides.
    """

    stages: tuple[int, ...]
    widths: tuple[int, ...] = (16, 32, 64)
    stem: str = "cifar"
    merged: bool = False

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
        is_imagenet = self.stem == "imagenet"
        check_size(images, 2 ** (len(self.stages) + 1 if is_imagenet else len(self.stages) - 1))
        x = apply_layer(
            jnp.asarray(images, self.dtype),
            filters=stem_filters(self.widths, self.stem),
            stride=2 if is_imagenet else 1,
            layers=self.layers(train, "conv"),
            merged=self.merged,
            name="conv",
        )
        for stage, (count, width) in enumerate(zip(self.stages, self.widths, strict=True), start=1):
            for number in range(1, count + 1):
                name = f"stage{stage}_block{number}"
                block = RepVggBlock(
                    filters=width,
                    stride=2 if number == 1 and (is_imagenet or stage > 1) else 1,
                    count=1 if is_imagenet else CIFAR_LAYERS,
                    layers=self.layers(train, name),
                    merged=self.merged,
                    name=name,
                )
                x = block(x)
        return classify(x, self.num_classes)


def _check(model: ConfigDict) -> None:
    require_widths(model, "widths", len(stages_of_depth(model.depth, model.stem)))
    require(type(model.merged) is bool, model, "merged", "true or false")
    rule = "none with model.merged" if model.merged else "batch, whose branches can be merged"
    require(model.norm == ("none" if model.merged else "batch"), model, "norm", rule)


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    fields: dict[str, Any] = {
        "stages": stages_of_depth(model.depth, model.stem),
        "widths": tuple(model.widths),
        "stem": model.stem,
        "merged": model.merged,
    }
    return lambda **common: RepVgg(**fields, **common)


def _min_params(model: ConfigDict, image_size: int) -> int:
    """Counts the weights of the 3x3 convolutions in the blocks."""
    layers_per_block = 1 if model.stem == "imagenet" else CIFAR_LAYERS
    counts = (layers_per_block * count for count in stages_of_depth(model.depth, model.stem))
    return conv3x3_params(counts, model.widths, stem_filters(model.widths, model.stem))


def _first_activations(model: ConfigDict, image_size: int) -> int:
    return first_activations(model, image_size, stem_filters(model.widths, model.stem))


def _read(groups: Mapping[str, str | Any], stem: str) -> dict[str, Any]:
    if groups["variant"]:
        depth, widths = VARIANTS[groups["variant"]]
        return {"name": "repvgg", "depth": depth, "widths": widths}
    if stem == "imagenet":
        names = ", ".join(f"repvgg-{variant}" for variant in VARIANTS)
        raise ValueError(f"RepVGG models for ImageNet are {names}, got repvgg-{groups['depth']}")
    return {"name": "repvgg", "depth": int(groups["depth"])}


def _suggest(rest: str, stem: str) -> Iterator[str]:
    yield from (f"repvgg-{variant}" for variant in VARIANTS if stem == "imagenet")
    yield "repvgg-{depth}"


def _model_name(model: ConfigDict) -> str:
    for variant, fields in VARIANTS.items():
        if fields == (model.depth, tuple(model.widths)):
            return f"repvgg-{variant}"
    return f"repvgg-{model.depth}"


FAMILY = Family(
    ("depth", "widths", "stem", "merged"),
    _check,
    _build,
    (
        NameForm(
            "repvgg",
            rf"repvgg-(?:(?P<depth>\d+)|(?P<variant>{'|'.join(VARIANTS)}))",
            _read,
            ("repvgg-56", "repvgg-a0"),
            _suggest,
        ),
    ),
    _model_name,
    _min_params,
    _first_activations,
)
