"""DenseNet and DenseNet-BC: each layer sees all before it, by concatenation instead of addition.

Huang17 (arXiv 1608.06993), sections 3 and 4.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxres.models.layers import STEM_STRIDES, BaseModel, Layers, apply_stem, check_size, classify
from flaxres.models.norms import norm_relu, norm_relu_conv

BOTTLENECK = 4  # channels of a bottleneck for each new feature map (Huang17, section 3)
# Layers in each dense block of the ImageNet nets, by depth: Huang17, table 1.
IMAGENET_STAGES = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}


def stages_of_depth(depth: int, block: str, stem: str) -> tuple[int, ...]:
    """Layers in each dense block.

    With the CIFAR stem n in each of three: 3n+4 weighted layers, 6n+4 with bottlenecks, as two
    transitions, the first convolution and the dense layer come on top.

    Raises:
      ValueError: there is no such net.
    """
    if stem == "imagenet":
        if depth not in IMAGENET_STAGES or block != "bottleneck":
            known = ", ".join(map(str, IMAGENET_STAGES))
            raise ValueError(
                f"depth must be {known} with bottleneck layers and ImageNet's stem, got {depth} "
                f"with {block} layers"
            )
        return IMAGENET_STAGES[depth]
    period = 6 if block == "bottleneck" else 3
    n, rest = divmod(depth - 4, period)
    if n < 1 or rest:
        raise ValueError(f"depth must be {period}n+4 (40, 100, ...), got {depth}")
    return (n,) * 3


class DenseLayer(nn.Module):
    """Norm, ReLU and a 3x3 convolution, whose output is appended to the input.

    Attributes:
      growth: new channels.
      bottleneck: norm, ReLU and a 1x1 convolution to `BOTTLENECK` * growth channels come first.
      layers: constructors.
    """

    growth: int
    bottleneck: bool
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels) -> (batch, height, width, channels + growth)."""
        conv, norm = self.layers
        y = x
        if self.bottleneck:
            conv1 = functools.partial(conv, BOTTLENECK * self.growth, 1, name="conv1")
            y = norm_relu_conv(norm(name="norm1"), conv1, y)
            conv2 = functools.partial(conv, self.growth, 3, name="conv2")
            y = norm_relu_conv(norm(name="norm2"), conv2, y)
        else:
            conv1 = functools.partial(conv, self.growth, 3, name="conv1")
            y = norm_relu_conv(norm(name="norm1"), conv1, y)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution and a mean over 2x2 pixels, between two dense blocks.

    Attributes:
      filters: output channels.
      layers: constructors.
    """

    filters: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, height, width, channels) -> (batch, height // 2, width // 2, filters)."""
        conv = functools.partial(self.layers.conv, self.filters, 1, name="conv")
        x = norm_relu_conv(self.layers.norm(name="norm"), conv, x)
        return nn.avg_pool(x, (2, 2), (2, 2))


class DenseNet(BaseModel, kw_only=True):
    """A stem, dense blocks with transitions between them, norm and ReLU, mean over space, dense.

    Attributes:
      stages: layers in each dense block.
      growth_rate: channels that each layer adds; k in the paper.
      compression: of the channels that a transition keeps; theta in the paper.
      block: basic or bottleneck, of the layers.
      stem: see `flaxres.models.layers.apply_stem`.

    Raises (when called):
      ValueError: an unknown norm.
      ConfigError: images smaller than all strides together.
    """

    stages: tuple[int, ...]
    growth_rate: int
    compression: float = 1.0
    block: str = "basic"
    stem: str = "cifar"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Logits; arguments as those of `flaxres.models.resnet.ResNet`."""
        check_size(x, STEM_STRIDES[self.stem] * 2 ** (len(self.stages) - 1))
        layers = self.layers(train, "norm")
        x = jnp.asarray(x, self.dtype)
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
                kept, name = int(self.compression * x.shape[-1]), f"transition{stage}"
                x = Transition(kept, self.layers(train, name), name=name)(x)
        x = norm_relu(self.layers(train, "last_norm").norm(name="last_norm"), x)
        return classify(x, self.num_classes)
