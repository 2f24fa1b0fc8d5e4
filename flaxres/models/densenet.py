"""DenseNet and DenseNet-BC, in which each layer reads the concatenated outputs of all before it.

Huang17 (arXiv 1608.06993), sections 3 and 4.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32
from ml_collections import ConfigDict

from flaxres.models.blocks import BLOCKS
from flaxres.models.family import Family, NameForm, first_activations, require, require_one_of
from flaxres.models.fields import FIELDS
from flaxres.models.layers import (
    STEM_STRIDES,
    BaseModel,
    Layers,
    apply_stem,
    check_size,
    classify,
    three_equal_stages,
)
from flaxres.models.norms import norm_relu, norm_relu_conv

BOTTLENECK = 4  # bottleneck filters for each channel of the growth rate (Huang17, section 3)
# Number of layers in each dense block of the ImageNet models, by depth: Huang17, table 1.
IMAGENET_STAGES = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}


def stages_of_depth(depth: int, block: str, stem: str) -> tuple[int, ...]:
    """Returns the number of layers in each dense block.

    With the CIFAR stem, each of three dense blocks has n layers. The depth is then 3n+4 with basic
    layers and 6n+4 with bottleneck layers: two transitions, the first convolution and the
    classification head add four.

    Args:
      depth: number of weighted layers.
      block: 'basic' or 'bottleneck'.
      stem: 'cifar' or 'imagenet'.

    Raises:
      ValueError: there is no model of this depth.
    """
    if stem == "imagenet":
        if depth not in IMAGENET_STAGES or block != "bottleneck":
            depths = ", ".join(map(str, IMAGENET_STAGES))
            raise ValueError(
                f"depth must be {depths} with bottleneck layers and the ImageNet stem, got {depth} "
                f"with {block} layers"
            )
        return IMAGENET_STAGES[depth]
    period = 6 if block == "bottleneck" else 3
    return three_equal_stages(depth, period, 4)


class DenseLayer(nn.Module):
    """Norm, ReLU and a 3x3 convolution, whose output is appended to the input.

    Attributes:
      growth_rate: number of channels that the layer appends.
      bottleneck: if True, norm, ReLU and a 1x1 convolution with `BOTTLENECK` * growth_rate filters
        come first.
      layers: constructors of convolutions and norms.
    """

    growth_rate: int
    bottleneck: bool
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"]
    ) -> Float[Array, "batch height width channels+{self.growth_rate}"]:
        """Applies the layer."""
        conv, norm = self.layers
        if self.bottleneck:
            conv1 = functools.partial(conv, BOTTLENECK * self.growth_rate, 1, name="conv1")
            y = norm_relu_conv(norm(name="norm1"), conv1, x)
            conv2 = functools.partial(conv, self.growth_rate, 3, name="conv2")
            y = norm_relu_conv(norm(name="norm2"), conv2, y)
        else:
            conv1 = functools.partial(conv, self.growth_rate, 3, name="conv1")
            y = norm_relu_conv(norm(name="norm1"), conv1, x)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution and 2x2 average pooling between two dense blocks.

    Attributes:
      filters: number of output channels.
      layers: constructors of convolutions and norms.
    """

    filters: int
    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array | np.ndarray, "batch height width channels"]
    ) -> Float[Array, "batch height//2 width//2 filters"]:
        """Applies the transition."""
        conv = functools.partial(self.layers.conv, self.filters, 1, name="conv")
        x = norm_relu_conv(self.layers.norm(name="norm"), conv, x)
        return nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))


class DenseNet(BaseModel, kw_only=True):
    """A stem, dense blocks with transitions between them, norm and ReLU, average pooling, head.

    Attributes:
      stages: number of layers in each dense block.
      growth_rate: number of channels that each layer appends; k in the paper.
      compression: fraction of the channels that a transition keeps; theta in the paper.
      block: 'basic' or 'bottleneck', the kind of the layers.
      stem: 'cifar' or 'imagenet', as in `flaxres.models.layers.apply_stem`.

    Raises (when called):
      ValueError: the norm is unknown.
      ConfigError: the images are smaller than the product of all strides.
    """

    stages: tuple[int, ...]
    growth_rate: int
    compression: float = 1.0
    block: str = "basic"
    stem: str = "cifar"

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "batch height width channels"], train: bool
    ) -> Float32[Array, "batch classes"]:
        """Returns the logits of a batch of normalized images.

        Args:
          images: a batch of any floating-point dtype.
          train: if True, norms use statistics of the batch and update the running statistics.
        """
        check_size(images, STEM_STRIDES[self.stem] * 2 ** (len(self.stages) - 1))
        layers = self.layers(train, "norm")
        x = jnp.asarray(images, self.dtype)
        # Huang17, section 4.2: 16 filters, or twice the growth rate in DenseNet-BC and on ImageNet.
        filters = 16 if self.block == "basic" else 2 * self.growth_rate
        if self.stem == "cifar":
            x = layers.conv(filters, 3, name="conv")(x)
        else:
            x = apply_stem(self.stem, x, filters, layers)
        for stage, count in enumerate(self.stages, start=1):
            for number in range(1, count + 1):
                name = f"stage{stage}_layer{number}"
                bottleneck = self.block == "bottleneck"
                layers = self.layers(train, name)
                x = DenseLayer(self.growth_rate, bottleneck, layers, name=name)(x)
            if stage < len(self.stages):
                filters, name = int(self.compression * x.shape[-1]), f"transition{stage}"
                x = Transition(filters, self.layers(train, name), name=name)(x)
        x = norm_relu(self.layers(train, "last_norm").norm(name="last_norm"), x)
        return classify(x, self.num_classes)


def _check(model: ConfigDict) -> None:
    require_one_of(model, "block", BLOCKS)
    stages_of_depth(model.depth, model.block, model.stem)
    if model.growth_rate == FIELDS["growth_rate"]:
        raise ValueError("the name has no growth rate; add it, as in densenet-100-12")
    is_positive = type(model.growth_rate) is int and model.growth_rate > 0
    require(is_positive, model, "growth_rate", "a positive number of channels")
    require(0 < model.compression <= 1, model, "compression", "above 0 and at most 1")


def _build(model: ConfigDict) -> Callable[..., BaseModel]:
    stages = stages_of_depth(model.depth, model.block, model.stem)
    fields = {field: model[field] for field in ("growth_rate", "compression", "block", "stem")}
    return lambda **common: DenseNet(stages=stages, **fields, **common)


def _min_params(model: ConfigDict, image_size: int) -> int:
    """Counts the weights of the convolutions in the dense blocks and transitions."""
    stages, k = stages_of_depth(model.depth, model.block, model.stem), model.growth_rate
    is_bottleneck = model.block == "bottleneck"
    channels, params = (2 * k if is_bottleneck else 16), 0
    for stage, count in enumerate(stages, start=1):
        inputs = count * channels + k * count * (count - 1) // 2  # of all layers of the block
        if is_bottleneck:
            params += inputs * BOTTLENECK * k + count * 9 * BOTTLENECK * k**2
        else:
            params += 9 * inputs * k
        channels += count * k
        if stage < len(stages):
            filters = int(model.compression * channels)
            params += channels * filters
            channels = filters
    return params


def _first_activations(model: ConfigDict, image_size: int) -> int:
    filters = 16 if model.block == "basic" else 2 * model.growth_rate
    return first_activations(model, image_size, filters)


def _model_name(model: ConfigDict) -> str:
    if model.stem == "imagenet":
        return f"densenet-{model.depth}"
    bc = "-bc" if model.block == "bottleneck" else ""
    growth_rate = f"-{model.growth_rate}" if model.growth_rate else ""
    return f"densenet{bc}-{model.depth}{growth_rate}"


def _read(groups: Mapping[str, str | Any], stem: str, is_bc: bool) -> dict[str, Any]:
    # Huang17 (arXiv 1608.06993), table 1: growth rate 32 on ImageNet.
    growth_rate = int(groups["growth_rate"] or (32 if stem == "imagenet" else 0))
    fields = {"name": "densenet", "depth": int(groups["depth"]), "growth_rate": growth_rate}
    is_bottleneck = is_bc or stem == "imagenet"
    return fields | ({"block": "bottleneck", "compression": 0.5} if is_bottleneck else {})


def _suggest(rest: str, stem: str, is_bc: bool) -> Iterator[str]:
    if stem == "imagenet":
        yield "densenet-{depth}"
        return
    numbers = re.findall(r"\d{1,5}", rest)
    start = "densenet-bc" if is_bc or rest.casefold().startswith("bc") else "densenet"
    yield f"{start}-{{depth}}-{(numbers or ['12'])[0]}"


def _name_form(start: str, example: str, other_starts: tuple[str, ...] = ()) -> NameForm:
    is_bc = start == "densenet-bc"
    return NameForm(
        start,
        rf"{start}-(?P<depth>\d+)(?:-(?P<growth_rate>\d+))?",
        functools.partial(_read, is_bc=is_bc),
        (example, "densenet-121"),
        functools.partial(_suggest, is_bc=is_bc),
        other_starts,
    )


FAMILY = Family(
    ("depth", "stem", "block", "growth_rate", "compression"),
    _check,
    _build,
    (
        _name_form("densenet", "densenet-40-12"),
        _name_form("densenet-bc", "densenet-bc-100-12", ("densenetbc",)),
    ),
    _model_name,
    _min_params,
    _first_activations,
)
